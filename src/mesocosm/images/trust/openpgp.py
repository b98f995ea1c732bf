"""Signed OpenPGP messages, unpacked within bounds before a library reads them.

A message may be compressed, and in it again: five hundred bytes then stand for gigabytes, which the library
would unpack before it looks at any signature (attack I-09, for signatures).  So compression is undone here,
once, and what is left has to be what signed messages are made of.
Source: RFC 9580, sections 4.2 (packets), 5.6 (compressed data), 6 (armour) and 10.3 (grammar).
"""

from __future__ import annotations

import base64
import binascii
import bz2
import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from mesocosm.errors import Corrupt

LIMIT: Final = 256 << 10
"""The largest message, its compression undone, in bytes: a statement, its signatures, and what is around."""

_BEGIN: Final = b"-----BEGIN PGP MESSAGE-----"
_END: Final = b"-----END PGP MESSAGE-----"
_COMPRESSED: Final = 8
_SIGNED: Final = {2: "signature", 4: "one-pass signature", 10: "marker", 11: "literal data"}


class _Inflater(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, most: int, /) -> bytes: ...


_INFLATERS: Final[dict[int, Callable[[], _Inflater]]] = {
    1: lambda: zlib.decompressobj(-zlib.MAX_WBITS),
    2: zlib.decompressobj,
    3: bz2.BZ2Decompressor,
}


class Packet(NamedTuple):
    """One packet: the number of its kind, and its body."""

    tag: int
    body: bytes


def unpacked(message: bytes) -> bytes:
    """Return a signed message, armoured or not, without armour and compression.

    Raises Corrupt for what is no such message, or larger than `LIMIT`.
    """
    data = _without_armour(message)
    found = list(_packets(data))
    if [one.tag for one in found] == [_COMPRESSED]:
        data = _inflated(found[0].body)
        found = list(_packets(data))
    for one in found:
        if one.tag not in _SIGNED:
            raise Corrupt(f"it holds a packet of kind {one.tag}, which signed messages have not")
    return data


def _without_armour(message: bytes) -> bytes:
    """The checksum of an armour is left to itself, as RFC 9580 section 6.1 has it."""
    if _BEGIN not in message:
        return message
    head, _, rest = message.partition(_BEGIN)[2].replace(b"\r", b"").partition(b"\n\n")
    lines = rest.partition(_END)[0].split()
    if b"-----" in head or not lines:
        raise Corrupt("its armour is malformed")
    try:
        return base64.b64decode(b"".join(one for one in lines if one[:1] != b"="), validate=True)
    except binascii.Error:
        raise Corrupt("its armour is malformed") from None


def _inflated(body: bytes) -> bytes:
    inflater = _INFLATERS.get(body[0]) if body else None
    if inflater is None:
        raise Corrupt("it is compressed in an unknown way")
    running = inflater()
    try:
        data = running.decompress(body[1:], LIMIT + 1)
    except (zlib.error, OSError):
        raise Corrupt("its compression is damaged") from None
    if len(data) > LIMIT:
        raise Corrupt(f"it unpacks to more than {LIMIT} bytes")
    if not running.eof:
        raise Corrupt("it is truncated")
    return data


def _packets(data: bytes) -> Iterator[Packet]:
    """The packets of a message, one behind the other."""
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise Corrupt("it is no OpenPGP message")
        if head & 0x40:
            tag, (body, at) = head & 0x3F, _new_body(data, at + 1)
        else:
            tag, (body, at) = head >> 2 & 0x0F, _old_body(data, at + 1, head & 3)
        yield Packet(tag, body)


def _old_body(data: bytes, at: int, kind: int) -> tuple[bytes, int]:
    """A packet of the old form; kind 3 goes on to the end of the message (section 4.2.2)."""
    if kind == 3:
        return data[at:], len(data)
    width = 1 << kind
    return _taken(data, at + width, int.from_bytes(_taken(data, at, width)[0], "big"))


def _new_body(data: bytes, at: int) -> tuple[bytes, int]:
    """A packet of the new form, whose body may come in parts (section 4.2.1)."""
    parts: list[bytes] = []
    partial = True
    while partial:
        first = _taken(data, at, 1)[0][0]
        partial = 224 <= first < 255
        if partial:
            size, at = 1 << (first & 0x1F), at + 1
        elif first < 192:
            size, at = first, at + 1
        elif first < 224:
            size, at = ((first - 192) << 8) + _taken(data, at + 1, 1)[0][0] + 192, at + 2
        else:
            size, at = int.from_bytes(_taken(data, at + 1, 4)[0], "big"), at + 5
        part, at = _taken(data, at, size)
        parts.append(part)
    return b"".join(parts), at


def _taken(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """``size`` bytes, and where they end."""
    if at + size > len(data):
        raise Corrupt("it is truncated")
    return data[at : at + size], at + size
