"""Writing tar members: ustar, with PAX records where ustar is too small, and GNU's form 1.0 for sparse files.

Deterministic: the same entries give the same bytes (POSIX.1-2017, pax(1); GNU tar manual, "Storing Sparse
Files").
"""

from __future__ import annotations

import stat

import msgspec

from mesocosm.images.tar.header import BLOCK, HARDLINK, TarEntry

_FLAGS = {
    stat.S_IFREG: b"0",
    HARDLINK: b"1",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_SECOND = 1_000_000_000
END = bytes(2 * BLOCK)


def member(entry: TarEntry) -> bytes:
    """Return what stands before a member's data: PAX records as needed, the header, a sparse file's map.

    Of a sparse file the data are its extents, one behind the other.
    """
    sparse, extents = _sparse(entry)
    entry = msgspec.structs.replace(entry, size=len(extents) + entry.stored) if sparse else entry
    records = b"".join(_record(name, value) for name, value in [*_records(entry), *sparse])
    extended = b""
    if records:
        extended = _header(b"pax", b"x", 0o644, 0, 0, len(records), 0, b"", 0, 0)
        extended += records + bytes(-len(records) % BLOCK)
    size = entry.size if entry.kind == stat.S_IFREG else 0
    return (
        extended
        + _header(
            _other_name(entry.path)[:100] if sparse else entry.path[:100],
            _FLAGS[entry.kind],
            entry.mode,
            _fitting(entry.uid, 21),
            _fitting(entry.gid, 21),
            _fitting(size, 33),
            _fitting(entry.mtime // _SECOND, 33),
            entry.link[:100],
            entry.major,
            entry.minor,
        )
        + extents
    )


def _sparse(entry: TarEntry) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The records and the map of a sparse file.  Its last extent is empty: a hole may come last."""
    if entry.extents is None:
        return [], b""
    pairs = [*entry.extents, (entry.size, 0)]
    listed = b"%d\n" % len(pairs) + b"".join(b"%d\n%d\n" % pair for pair in pairs)
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", entry.path),
        (b"GNU.sparse.realsize", b"%d" % entry.size),
    ]
    return records, listed + bytes(-len(listed) % BLOCK)


def _other_name(path: bytes) -> bytes:
    """The name that readers see who know nothing of sparse files, as GNU tar has it."""
    parent, slash, name = path.rpartition(b"/")
    return parent + slash + b"GNUSparseFile.0/" + name


def _records(entry: TarEntry) -> list[tuple[bytes, bytes]]:
    found = []
    if len(entry.path) > 100:
        found.append((b"path", entry.path))
    if len(entry.link) > 100:
        found.append((b"linkpath", entry.link))
    for name, value, bits in ((b"uid", entry.uid, 21), (b"gid", entry.gid, 21), (b"size", entry.size, 33)):
        if _fitting(value, bits) != value:
            found.append((name, b"%d" % value))
    if entry.mtime % _SECOND or _fitting(entry.mtime // _SECOND, 33) != entry.mtime // _SECOND:
        found.append((b"mtime", _time(entry.mtime)))
    found += [(b"SCHILY.xattr." + name, value) for name, value in entry.xattrs]
    return found


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), _SECOND)
    return b"%s%d.%09d" % (sign, seconds, rest)


def _fitting(value: int, bits: int) -> int:
    return value if 0 <= value < 1 << bits else 0


def _record(name: bytes, value: bytes) -> bytes:
    """A PAX record, which begins with its own length in bytes."""
    body = b" " + name + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(b"%d" % length):
        length = len(body) + len(b"%d" % length)
    return b"%d" % length + body


def _header(
    path: bytes,
    flag: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    major: int,
    minor: int,
) -> bytes:
    fields = [
        path.ljust(100, b"\0"),
        *(b"%07o\0" % number for number in (mode, uid, gid)),
        *(b"%011o\0" % number for number in (size, mtime)),
        b" " * 8,
        flag,
        link.ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        *(b"%07o\0" % number for number in (major, minor)),
        bytes(167),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
