"""The metadata of an EROFS image: inodes, directories and the superblock, laid out behind the data.

Order and content follow from the tree alone: no clock, no chance.  Equal trees give equal bytes.
"""

from __future__ import annotations

import bisect
import operator
import stat
import struct

from mesocosm.errors import Exhausted
from mesocosm.images.certain import certain
from mesocosm.images.erofs import format as fmt
from mesocosm.images.erofs.file import HEAD, LayerFile, SealKind, seal_text
from mesocosm.images.layers.facts import ErofsFacts
from mesocosm.images.layers.tree import Node, implied_places

OPAQUE_XATTR = (b"trusted.overlay.opaque", b"y")
IMPLIED_XATTR = (b"trusted.overlay.mesocosm.implied", b"y")
"""Marks a directory that no member described; overlayfs hides attributes of its own name space from
containers.
"""

_TOGETHER = 512
"""Inodes written at once: fewer, larger pieces."""

_SLOT, _INODE_SIZE = fmt.SLOT, fmt.INODE_SIZE

_FIRST_SLOT = 2
"""Slot of the root directory.  Number 0 would do for the kernel, but readdir(3) skips entries with inode
number 0.
"""


def complete(
    file: LayerFile,
    inodes: list[Node],
    block_bits: int,
    uuid: bytes,
    *,
    seal: SealKind,
    devices: bytes = b"",
) -> ErofsFacts:
    """Write the metadata of ``inodes`` behind the data, then the superblock; the image is durable afterwards.

    ``devices`` are packed device slots of further files that hold data; there is none of its own then.
    """
    file.append(devices)
    file.pad(HEAD)
    metadata = Metadata(file, inodes, block_bits)
    metadata.write()
    file.pad(HEAD)
    head = super_block(
        block_bits=block_bits,
        root_nid=inodes[0].nid,
        inodes=len(inodes),
        blocks=file.position >> block_bits,
        meta_block=metadata.start >> block_bits,
        uuid=uuid,
        chunked=any(node.chunks is not None for node in inodes),
        devices=len(devices) // fmt.DEVICE_SLOT_SIZE,
    )
    size = file.finish(head)
    implied = sum(node.implied for node in inodes)
    return ErofsFacts(
        size=size,
        seal=seal_text(seal, certain(file.seal, "the seal")),
        inodes=len(inodes),
        implied=implied,
        implied_at=implied_places(inodes[0], implied),
        opaque=inodes[0].opaque,
    )


class Metadata:
    """Lays out and writes the metadata of ``inodes``, the root first, at the end of ``file``."""

    def __init__(self, file: LayerFile, inodes: list[Node], block_bits: int) -> None:
        self._file = file
        self._block = 1 << block_bits
        self._bits = block_bits
        self.start = file.position
        self._cursor = self.start + _FIRST_SLOT * fmt.SLOT
        self._gap = self._gap_end = self._cursor
        self._inodes = inodes
        self._above = {
            id(child): node
            for node in inodes
            if node.children is not None
            for child in node.children.values()
            if child.children is not None
        }

    def write(self) -> None:
        """Write all of it; the file then ends at a block's end."""
        bulky = [node for node in self._inodes if self._place(node)]
        self._place_content(bulky)
        inodes = sorted(self._inodes, key=_NUMBER)
        for at in range(0, len(inodes), _TOGETHER):
            self._write_inodes(inodes[at : at + _TOGETHER])
        for node in bulky:
            self._fill_to(node.address << self._bits)
            self._file.append(self._content(node)[: self._outside(node)])
        self._file.pad(self._block)

    # --- layout ---------------------------------------------------------------------------------------------

    def _place(self, node: Node) -> bool:
        """Find room for an inode, and say whether it has content behind the inodes.

        One with inline data may not cross a block's end (kernel: erofs_map_blocks).
        """
        size = fmt.INODE_SIZE
        if node.xattrs or node.opaque or node.implied:
            node.packed = fmt.pack_xattrs(_all_xattrs(node))
            size += len(node.packed)
        if node.children is not None:
            node.size = fmt.directory_size(_names(node), self._block)
            inline = node.size % self._block
        else:
            inline = len(node.tail)
        layout = fmt.FLAT_PLAIN
        if node.chunks is not None:
            layout = fmt.CHUNK_BASED
            size += 4 * len(node.chunks)
        elif inline and size + inline <= self._block:
            layout = fmt.FLAT_INLINE
            size += inline
        node.layout = layout
        node.nid = (self._room(size) - self.start) // fmt.SLOT
        return self._outside(node) > 0

    def _room(self, size: int) -> int:
        """Return an offset with ``size`` bytes within one block, or at a block's start when it needs more.

        What is left of a block that was passed over is remembered, and filled with later, smaller inodes.
        """
        size += -size % fmt.SLOT
        gap = self._gap
        if gap + size <= self._gap_end:
            self._gap = gap + size
            return gap
        offset = self._cursor
        left = -offset % self._block
        if size > left > 0:
            if left > self._gap_end - gap:
                self._gap, self._gap_end = offset, offset + left
            offset += left
        self._cursor = offset + size
        return offset

    def _place_content(self, bulky: list[Node]) -> None:
        """Give whole blocks of directories, and links too long to be inline, addresses behind the inodes."""
        at = (self._cursor + self._block - 1) >> self._bits
        for node in bulky:
            node.address = at
            at += (self._outside(node) + self._block - 1) >> self._bits
        if at >= fmt.MAX_BLOCKS:
            raise Exhausted("layer file has more blocks than EROFS can address")

    def _outside(self, node: Node) -> int:
        """Return the bytes of a directory or a link that stand in blocks of their own, behind the inodes."""
        if node.children is None and not stat.S_ISLNK(node.mode):
            return 0
        return node.size & -self._block if node.layout == fmt.FLAT_INLINE else node.size

    # --- writing --------------------------------------------------------------------------------------------

    def _fill_to(self, offset: int) -> None:
        missing = offset - self._file.position
        if missing:
            self._file.append(bytes(missing))

    def _write_inodes(self, some: list[Node]) -> None:
        at = self._file.position - self.start
        pieces: list[bytes] = []
        for node in some:
            offset = node.nid * _SLOT
            behind = self._behind(node)
            pieces += (bytes(offset - at), self._head(node), behind)
            at = offset + _INODE_SIZE + len(behind)
        self._file.append(b"".join(pieces))

    def _head(self, node: Node) -> bytes:
        seconds, nanos = divmod(node.mtime, 1_000_000_000)
        links = node.names
        if node.children is not None:
            links = 2 + sum([child.children is not None for child in node.children.values()])
        return fmt.INODE.pack(
            1 | node.layout << 1,
            fmt.xattr_count(node.packed) if node.packed else 0,
            node.mode,
            0,
            node.size,
            node.address if node.chunks is None and not node.rdev else _union(node, self._bits),
            node.nid & 0xFFFFFFFF,
            node.uid,
            node.gid,
            seconds,
            nanos,
            links,
        )

    def _behind(self, node: Node) -> bytes:
        """What follows an inode: its attributes, and its chunks or the inline end of its content."""
        if node.chunks is not None:
            chunks = (each & 0xFFFFFFFF for each in node.chunks)
            return node.packed + struct.pack(f"<{len(node.chunks)}I", *chunks)
        if node.layout != fmt.FLAT_INLINE:
            return node.packed
        tail = node.tail if node.children is None else self._content(node)[self._outside(node) :]
        return node.packed + tail

    def _content(self, node: Node) -> bytes:
        if node.children is None:
            return node.tail
        names = _names(node)
        nodes = list(node.children.values())
        nodes.insert(names.index(b"."), node)
        nodes.insert(names.index(b".."), self._above.get(id(node), node))
        kinds = [_KINDS[each.mode >> 12] for each in nodes]
        return fmt.pack_directory(names, [each.nid for each in nodes], kinds, self._block)


_KINDS = [fmt.FILE_TYPES.get(kind << 12, 0) for kind in range(16)]
_NUMBER = operator.attrgetter("nid")


def _all_xattrs(node: Node) -> fmt.Xattrs:
    extra: fmt.Xattrs = (OPAQUE_XATTR,) if node.opaque else ()
    if node.implied:
        extra += (IMPLIED_XATTR,)
    return node.xattrs + extra


def _names(directory: Node) -> list[bytes]:
    """The names in a directory, which settled in order, with those that every directory has."""
    names = list(certain(directory.children, "the directory"))
    bisect.insort(names, b".")
    bisect.insort(names, b"..")
    return names


def _union(node: Node, block_bits: int) -> int:
    """Return ``i_u`` of what has no block address: a chunk format, or a device number."""
    if node.chunks is not None:
        return node.chunk_bits - block_bits
    return node.rdev


def super_block(
    *,
    block_bits: int,
    root_nid: int,
    inodes: int,
    blocks: int,
    meta_block: int,
    uuid: bytes,
    chunked: bool = False,
    devices: int = 0,
) -> bytes:
    """Return the head of an image: the superblock at byte 1024, with its checksum.

    ``devices`` counts the slots of the device table, which starts at byte `HEAD`.
    """
    incompat = (fmt.INCOMPAT_CHUNKED_FILE if chunked else 0) | (fmt.INCOMPAT_DEVICE_TABLE if devices else 0)
    slot = HEAD // fmt.DEVICE_SLOT_SIZE if devices else 0

    def packed(checksum: int) -> bytes:
        compat = fmt.COMPAT_CHECKSUM | fmt.COMPAT_MTIME
        fields = (fmt.MAGIC, checksum, compat, block_bits, 0, root_nid, inodes, 0, 0, blocks, meta_block, 0)
        return fmt.SUPER.pack(*fields, uuid, b"", incompat, 0, devices, slot, 0, 0, 0, 0, bytes(24))

    covered = 1 << block_bits
    if covered > fmt.SUPER_OFFSET:
        covered -= fmt.SUPER_OFFSET
    return bytes(fmt.SUPER_OFFSET) + packed(fmt.crc32c(packed(0).ljust(covered, b"\0")))
