"""Tar archives written byte by byte, so that they may say what no honest writer would."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

BLOCK = 512
END = bytes(2 * BLOCK)
FILE, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"


class Member(NamedTuple):
    """One member; ``pax`` are records of an extended header before it, ``size`` overrules the true length."""

    name: bytes
    kind: bytes = FILE
    data: bytes = b""
    link: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000
    device: tuple[int, int] = (0, 0)
    pax: tuple[tuple[bytes, bytes], ...] = ()
    size: int | None = None


def directory(name: bytes, mode: int = 0o755) -> Member:
    """A directory."""
    return Member(name, DIRECTORY, mode=mode)


def file(name: bytes, data: bytes = b"content", mode: int = 0o644) -> Member:
    """A regular file."""
    return Member(name, FILE, data, mode=mode)


def symlink(name: bytes, target: bytes) -> Member:
    """A symbolic link."""
    return Member(name, SYMLINK, link=target, mode=0o777)


def hardlink(name: bytes, target: bytes, mode: int = 0o644) -> Member:
    """A hard link."""
    return Member(name, HARDLINK, link=target, mode=mode)


def number(value: int, width: int) -> bytes:
    """A number field: octal with a NUL, base 256 when it does not fit or is negative."""
    if 0 <= value < 1 << 3 * (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0xFF if value < 0 else 0x80]) + (value & ((1 << 8 * (width - 1)) - 1)).to_bytes(
        width - 1, "big"
    )


def header(
    name: bytes,
    kind: bytes = FILE,
    *,
    size: int = 0,
    link: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """One header block with a right checksum."""
    fields = (
        name.ljust(100, b"\0")[:100]
        + number(mode, 8)
        + number(uid, 8)
        + number(gid, 8)
        + number(size, 12)
        + number(mtime, 12)
        + b" " * 8
        + kind
        + link.ljust(100, b"\0")[:100]
        + magic
        + bytes(64)
        + number(device[0], 8)
        + number(device[1], 8)
        + prefix
    )
    return with_sum(fields.ljust(BLOCK, b"\0"))


def with_sum(block: bytes) -> bytes:
    """A header block with its checksum put right."""
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def padded(data: bytes) -> bytes:
    """Data filled up to whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record with its own length in front."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """An extended header of ready-made records."""
    return header(b"PaxHeaders/x", kind, size=len(records)) + padded(records)


def member(entry: Member) -> bytes:
    """The blocks of one member; long names go into a PAX header."""
    records = entry.pax
    if len(entry.name) > 100:
        records += ((b"path", entry.name),)
    if len(entry.link) > 100:
        records += ((b"linkpath", entry.link),)
    head = pax(b"".join(record(key, value) for key, value in records)) if records else b""
    size = len(entry.data) if entry.size is None else entry.size
    head += header(
        entry.name[:100],
        entry.kind,
        size=size,
        link=entry.link[:100],
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime,
        device=entry.device,
    )
    return head + padded(entry.data)


def archive(*entries: Member) -> bytes:
    """A whole archive."""
    return b"".join(member(entry) for entry in entries) + END


def diff_id(data: bytes) -> str:
    """The digest of an archive."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
