"""EROFS on disk: the few structures that an uncompressed image needs.  All little-endian.

Source: the kernel's fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst.
"""

from __future__ import annotations

import itertools
import stat
import struct

MAGIC = 0xE0F5E1E2
SUPER_OFFSET = 1024
SUPER_SIZE = 128
INODE_SIZE = 64
"""Size of an extended inode: 32-bit owners, a time of its own in nanoseconds."""

SLOT = 32
"""Inodes stand on multiples of this; an inode's number (nid) is its distance from the metadata area in
slots.
"""

COMPAT_CHECKSUM = 0x1
COMPAT_MTIME = 0x2
INCOMPAT_CHUNKED_FILE = 0x4
INCOMPAT_DEVICE_TABLE = 0x8

FLAT_PLAIN = 0
FLAT_INLINE = 2
CHUNK_BASED = 4
MAX_CHUNK_BITS = 31
"""A chunk is ``block size << bits``."""
HOLE = 0xFFFFFFFF

MAX_BLOCKS = 1 << 32

SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24s")
INODE = struct.Struct("<HHHHQIIIIqII16x")
DIRENT = struct.Struct("<QHBB")
XATTR_HEADER = struct.Struct("<IB7x")
XATTR_ENTRY = struct.Struct("<BBH")
DEVICE_SLOT = struct.Struct("<64sII56x")
DEVICE_SLOT_SIZE = 128

FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}

XATTR_PREFIXES: tuple[tuple[bytes, int], ...] = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))

Xattrs = tuple[tuple[bytes, bytes], ...]


def pack_xattrs(xattrs: Xattrs) -> bytes:
    """Return the extended attributes as they follow an inode, header included; b"" for none."""
    if not xattrs:
        return b""
    parts = [XATTR_HEADER.pack(0, 0)]
    for name, value in sorted(xattrs):
        prefix, index = next(pair for pair in XATTR_PREFIXES if name.startswith(pair[0]))
        short = name[len(prefix) :]
        entry = XATTR_ENTRY.pack(len(short), index, len(value)) + short + value
        parts.append(entry + bytes(-len(entry) % 4))
    return b"".join(parts)


def unpack_xattrs(body: bytes) -> Xattrs:
    """Return the attributes packed by `pack_xattrs`, which uses no shared ones."""
    found = []
    at = XATTR_HEADER.size
    while at < len(body):
        length, index, size = XATTR_ENTRY.unpack_from(body, at)
        at += XATTR_ENTRY.size
        prefix = next(text for text, number in XATTR_PREFIXES if number == index)
        found.append((prefix + body[at : at + length], body[at + length : at + length + size]))
        at += length + size
        at += -at % 4
    return tuple(found)


def xattr_count(body: bytes) -> int:
    """Return ``i_xattr_icount`` for packed attributes: one for the header, then one for every four bytes."""
    return 1 + (len(body) - XATTR_HEADER.size) // 4 if body else 0


def xattr_size(count: int) -> int:
    """Return the bytes that ``i_xattr_icount`` stands for."""
    return XATTR_HEADER.size + 4 * (count - 1) if count else 0


def device_number(major: int, minor: int) -> int:
    """Return a device number as the kernel's new_encode_dev() packs it: 12 bits of major, 20 of minor."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def pack_directory(names: list[bytes], nids: list[int], kinds: list[int], block_size: int) -> bytes:
    """Return a directory's content: its names, sorted bytewise with ``.`` and ``..`` among them; where each
    leads, and its file type.

    Each block starts with its entries, whose names follow; the last block is as long as it needs to be.
    """
    if _length(names) <= block_size:  # most are of one block
        return _directory_block(names, nids, kinds)
    starts = _block_starts(names, block_size)
    parts = [slice(start, end) for start, end in itertools.pairwise([*starts, len(names)])]
    blocks = [_directory_block(names[part], nids[part], kinds[part]) for part in parts]
    return b"".join([block.ljust(block_size, b"\0") for block in blocks[:-1]] + blocks[-1:])


def _block_starts(names: list[bytes], block_size: int) -> list[int]:
    """Return the index of the first name of each block."""
    starts, used = [0], 0
    for index, name in enumerate(names):
        cost = DIRENT.size + len(name)
        if used + cost > block_size:
            starts.append(index)
            used = 0
        used += cost
    return starts


def _length(names: list[bytes]) -> int:
    return DIRENT.size * len(names) + sum(map(len, names))


def _directory_block(names: list[bytes], nids: list[int], kinds: list[int]) -> bytes:
    offsets = itertools.accumulate(map(len, names), initial=DIRENT.size * len(names))
    return b"".join([*map(DIRENT.pack, nids, offsets, kinds, itertools.repeat(0)), *names])


def unpack_directory(content: bytes, block_size: int) -> list[tuple[bytes, int]]:
    """Return (name, nid) of a directory's content, ``.`` and ``..`` included."""
    found = []
    for start in range(0, len(content), block_size):
        block = content[start : start + block_size]
        first = DIRENT.unpack_from(block)[1]
        heads = [DIRENT.unpack_from(block, at) for at in range(0, first, DIRENT.size)]
        ends = [head[1] for head in heads[1:]] + [len(block)]
        found += [
            (block[head[1] : end].rstrip(b"\0"), head[0]) for head, end in zip(heads, ends, strict=True)
        ]
    return found


def directory_size(names: list[bytes], block_size: int) -> int:
    """Return the length of what `pack_directory` makes of these names."""
    length = _length(names)
    if length <= block_size:
        return length
    starts = _block_starts(names, block_size)
    return (len(starts) - 1) * block_size + _length(names[starts[-1] :])


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def crc32c(data: bytes) -> int:
    """Return the kernel's crc32c(~0, data): Castagnoli, all ones to begin with, not inverted in the end."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _CRC32C[(value ^ byte) & 0xFF]
    return value
