"""Signed OpenPGP messages are unpacked within bounds before a library sees them (I-09, G-13)."""

from __future__ import annotations

import base64
import bz2
import random
import struct
import zlib
from collections.abc import Callable

import pytest

from mesocosm.errors import Corrupt
from mesocosm.images.trust.openpgp import LIMIT, unpacked

ONE_PASS, LITERAL, SIGNATURE = 4, 11, 2


def packet(tag: int, body: bytes) -> bytes:
    """A packet of the new form, with a length of five bytes."""
    return bytes([0xC0 | tag, 255]) + struct.pack(">I", len(body)) + body


def old(tag: int, body: bytes, kind: int) -> bytes:
    """A packet of the old form; kind 3 has no length."""
    size = b"" if kind == 3 else len(body).to_bytes(1 << kind, "big")
    return bytes([0x80 | tag << 2 | kind]) + size + body


def in_parts(tag: int, body: bytes) -> bytes:
    """A packet in parts of 512 bytes."""
    whole = len(body) // 512
    parts = b"".join(bytes([0xE9]) + body[n * 512 : n * 512 + 512] for n in range(whole))
    rest = body[whole * 512 :]
    size = (
        bytes([len(rest)])
        if len(rest) < 192
        else bytes([192 + (len(rest) - 192 >> 8), len(rest) - 192 & 0xFF])
    )
    return bytes([0xC0 | tag]) + parts + size + rest


def deflate(data: bytes) -> bytes:
    running = zlib.compressobj(9, wbits=-15)
    return running.compress(data) + running.flush()


MESSAGE = (
    packet(ONE_PASS, b"1" * 13)
    + in_parts(LITERAL, b"b\0\0\0\0\0" + b"x" * 1500)
    + old(SIGNATURE, b"2" * 70, 0)
)
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "stored by gpg": lambda data: old(8, b"\x02" + zlib.compress(data), 3),
    "deflate": lambda data: old(8, b"\x01" + deflate(data), 1),
    "zlib": lambda data: packet(8, b"\x02" + zlib.compress(data)),
    "bzip2": lambda data: packet(8, b"\x03" + bz2.compress(data)),
    "in parts": lambda data: in_parts(8, b"\x02" + zlib.compress(data)),
    "armoured": lambda data: (
        b"-----BEGIN PGP MESSAGE-----\nComment: x\n\n"
        + base64.encodebytes(data)
        + b"=njUN\n-----END PGP MESSAGE-----\n"
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_gpg_writes_is_unpacked(way: str) -> None:
    assert unpacked(WAYS[way](MESSAGE)) == MESSAGE


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("plain", "armoured")])
def test_i09_bombs_end_at_the_limit(way: str) -> None:
    with pytest.raises(Corrupt, match="unpacks to more than"):
        unpacked(WAYS[way](packet(LITERAL, bytes(64 * LIMIT))))


@pytest.mark.parametrize(
    "inner",
    [
        packet(8, b"\x02" + zlib.compress(MESSAGE)),
        packet(ONE_PASS, b"1" * 13) + packet(8, b"\x02" + zlib.compress(MESSAGE)),
        MESSAGE + packet(8, b"\x00"),
    ],
)
def test_i09_compression_within_compression_is_refused(inner: bytes) -> None:
    for data in (inner if inner[0] != 0xC8 else inner + MESSAGE, WAYS["zlib"](inner)):
        with pytest.raises(Corrupt, match="of kind 8"):
            unpacked(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x00", "no OpenPGP message"),
        (packet(18, b"x"), "of kind 18"),
        (packet(8, b""), "unknown way"),
        (packet(8, b"\x07xx"), "unknown way"),
        (packet(8, b"\x02xx"), "damaged"),
        (packet(8, b"\x03xx" + bytes(20)), "damaged"),
        (packet(8, b"\x02" + zlib.compress(MESSAGE)[:-9]), "truncated"),
        (b"-----BEGIN PGP MESSAGE-----", "armour"),
        (b"-----BEGIN PGP MESSAGE-----\n\n!!!!\n-----END PGP MESSAGE-----", "armour"),
    ],
)
def test_what_is_no_message_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(Corrupt, match=words):
        unpacked(data)


def test_any_bytes_are_a_message_or_corrupt() -> None:
    dice = random.Random(9580)
    samples = [way(MESSAGE) for way in WAYS.values()]
    unpacked_ones = 0
    for _ in range(3000):
        data = bytearray(dice.choice(samples))
        for _ in range(dice.choice((1, 2, 8))):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            unpacked_ones += (
                len(unpacked(bytes(data[: dice.choice((len(data), dice.randrange(len(data)))) or 1])))
                <= LIMIT
            )
        except Corrupt:
            continue
    assert unpacked_ones > 100
