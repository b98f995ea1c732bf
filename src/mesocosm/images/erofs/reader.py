"""Reads EROFS files of our own making: their trees, and small files in them, without mounting.

For merging layers, for listing them, and for what has to be known before a container exists
(``etc/passwd``).  Only what `erofs` writes is understood.  A file that does not hold together is Corrupt, and
nothing that it says makes us read, or keep, more than it has bytes.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from mesocosm.errors import Corrupt, Exhausted, NotFound
from mesocosm.images.certain import certain
from mesocosm.images.erofs import format as fmt
from mesocosm.images.erofs.metadata import IMPLIED_XATTR, OPAQUE_XATTR
from mesocosm.images.layers.tree import LINK_HOPS, Node, new_node

_BLOCK_BITS = range(9, 17)
_MAX_META = 1 << 30
_MAX_LINK = 4095
_FORMATS = {fmt.FLAT_PLAIN, fmt.FLAT_INLINE, fmt.CHUNK_BASED}


class ErofsImage:
    """An open layer file.  Nodes are made anew by each call, except within one `tree`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._window = b""
        self._window_start = 0
        try:
            self._read_super()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; harmless when closed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_super(self) -> None:
        head = os.pread(self._fd, 4096, 0)
        if len(head) < fmt.SUPER_OFFSET + fmt.SUPER_SIZE:
            raise Corrupt(f"{self.path} is no EROFS image: too short")
        fields = fmt.SUPER.unpack_from(head, fmt.SUPER_OFFSET)
        magic, checksum, _, self.block_bits, _, root, self.inodes, _, _, self.blocks, meta, _ = fields[:12]
        if magic != fmt.MAGIC:
            raise Corrupt(f"{self.path} is no EROFS image, or was never finished")
        if self.block_bits not in _BLOCK_BITS:
            raise Corrupt(f"{self.path}: blocks of 2^{self.block_bits} bytes are never written")
        self.uuid: bytes = fields[12]
        covered = 1 << self.block_bits
        covered -= fmt.SUPER_OFFSET if covered > fmt.SUPER_OFFSET else 0
        body = bytearray(head[fmt.SUPER_OFFSET : fmt.SUPER_OFFSET + covered])
        body[4:8] = bytes(4)
        if fmt.crc32c(bytes(body)) != checksum:
            raise Corrupt(f"{self.path}: the superblock's checksum does not match")
        self._meta = meta << self.block_bits
        self._root = root

    # --- inodes ---------------------------------------------------------------------------------------------

    @property
    def root(self) -> Node:
        """The root directory, its ``children`` not read."""
        return self.node(self._root)

    def node(self, nid: int) -> Node:
        """Return an inode by number.  Of a directory ``children`` stays empty."""
        offset = self._meta + nid * fmt.SLOT
        try:
            return self._node(nid, offset)
        except (struct.error, StopIteration) as error:
            raise Corrupt(f"{self.path}: inode {nid} is damaged") from error

    def _node(self, nid: int, offset: int) -> Node:
        fields = fmt.INODE.unpack(self._read(offset, fmt.INODE_SIZE))
        layout = fields[0] >> 1
        mode, size, union = fields[2], fields[4], fields[5]
        if not fields[0] & 1 or layout not in _FORMATS or stat.S_IFMT(mode) not in fmt.FILE_TYPES:
            raise Corrupt(f"{self.path}: inode {nid} has a form that is never written")
        if (stat.S_ISLNK(mode) and size > _MAX_LINK) or (
            layout == fmt.CHUNK_BASED and not stat.S_ISREG(mode)
        ):
            raise Corrupt(f"{self.path}: inode {nid} has a size that is never written")
        xattr_size = fmt.xattr_size(fields[1])
        packed = self._read(offset + fmt.INODE_SIZE, xattr_size)
        xattrs = fmt.unpack_xattrs(packed) if packed else ()
        node = new_node(mode, fields[7], fields[8], fields[9] * 1_000_000_000 + fields[10])
        node.opaque = OPAQUE_XATTR in xattrs
        node.implied = IMPLIED_XATTR in xattrs
        node.xattrs = tuple(pair for pair in xattrs if pair not in (OPAQUE_XATTR, IMPLIED_XATTR))
        node.nid, node.size, node.names = nid, size, fields[11]
        behind = offset + fmt.INODE_SIZE + xattr_size
        if layout == fmt.CHUNK_BASED:
            self._read_chunks(node, union, behind)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            node.rdev = union
        else:
            node.address = union
            if layout == fmt.FLAT_INLINE:
                node.tail = self._read(behind, size & ((1 << self.block_bits) - 1))
            if stat.S_ISLNK(mode):
                node.tail = self._content(node)
        return node

    def _read_chunks(self, node: Node, form: int, offset: int) -> None:
        node.chunk_bits = self.block_bits + (form & 0x1F)
        count = (node.size + (1 << node.chunk_bits) - 1) >> node.chunk_bits
        raw = struct.unpack(f"<{count}I", self._read(offset, 4 * count))
        node.chunks = [-1 if block == fmt.HOLE else block for block in raw]

    def children(self, node: Node) -> dict[bytes, int]:
        """Return a directory's names and inode numbers, in order, without ``.`` and ``..``."""
        try:
            entries = fmt.unpack_directory(self._content(node), 1 << self.block_bits)
        except (struct.error, ValueError) as error:
            raise Corrupt(f"{self.path}: directory {node.nid} is damaged") from error
        children = {name: nid for name, nid in entries if name not in (b".", b"..")}
        if any(not name or b"/" in name for name in children):
            raise Corrupt(f"{self.path}: directory {node.nid} has names that are none")
        return children

    # --- trees ----------------------------------------------------------------------------------------------

    def tree(self) -> Node:
        """Return the whole tree, children filled in, hard links being one node with as many ``names``."""
        self._load_metadata()
        root = self.root
        known: dict[int, Node] = {}
        directories = {self._root}
        if root.children is None:
            raise Corrupt(f"{self.path}: its root is no directory")
        pending = [root]
        names = self._size // fmt.DIRENT.size  # more cannot be in the file, unless directories share bytes
        while pending:
            directory = pending.pop()
            children = certain(directory.children, "the root")
            for name, nid in self.children(directory).items():
                node = known.get(nid)
                if node is None:
                    node = self.node(nid)
                    if node.children is not None:
                        if nid in directories:
                            raise Corrupt(f"{self.path}: directory {nid} is in two places")
                        directories.add(nid)
                        pending.append(node)
                    elif node.names > 1:
                        known[nid] = node
                children[name] = node
            names -= len(children)
            if names < 0:
                raise Corrupt(f"{self.path}: directories share their content")
        self._window = b""
        return root

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Yield (path, node) of everything below the root, parents first, names in order."""
        pending = [(b"", self.tree())]
        while pending:
            path, node = pending.pop()
            if path:
                yield path, node
            prefix = path + b"/" if path else b""
            pending += [(prefix + name, child) for name, child in reversed((node.children or {}).items())]

    def _load_metadata(self) -> None:
        size = self._size - self._meta
        if 0 < size <= _MAX_META:
            self._window = os.pread(self._fd, size, self._meta)
            self._window_start = self._meta

    # --- content --------------------------------------------------------------------------------------------

    def lookup(self, path: bytes) -> Node:
        """Return what is at ``path``, links followed inside the image.  NotFound when there is nothing."""
        way = [self.root]
        todo = path.split(b"/")[::-1]
        hops = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                del way[max(1, len(way) - 1) :]
                continue
            if part in (b"", b"."):
                continue
            nid = self.children(way[-1]).get(part) if way[-1].children is not None else None
            if nid is None:
                raise NotFound(f"no {path[:80]!r} in {self.path}")
            node = self.node(nid)
            if not stat.S_ISLNK(node.mode):
                way.append(node)
                continue
            hops += 1
            if hops > LINK_HOPS or len(todo) > 4096:
                raise Corrupt(f"too many symbolic links on the way to {path[:80]!r} in {self.path}")
            if node.tail.startswith(b"/"):
                del way[1:]
            todo.extend(node.tail.split(b"/")[::-1])
        return way[-1]

    def read_file(self, path: bytes, limit: int) -> bytes:
        """Return the content of a regular file.  NotFound when there is none, Exhausted above ``limit``
        bytes.
        """
        node = self.lookup(path)
        if not stat.S_ISREG(node.mode):
            raise NotFound(f"{path[:80]!r} in {self.path} is not a regular file")
        if node.size > limit:
            raise Exhausted(f"{path[:80]!r} in {self.path} has {node.size} bytes, more than {limit}")
        return self._content(node)

    def _content(self, node: Node) -> bytes:
        if node.chunks is not None:
            return self._chunked(node, node.chunks)
        outside = node.size - len(node.tail)
        return self._read(node.address << self.block_bits, outside) + node.tail

    def _chunked(self, node: Node, chunks: list[int]) -> bytes:
        parts = []
        for index, block in enumerate(chunks):
            length = min(1 << node.chunk_bits, node.size - (index << node.chunk_bits))
            parts.append(bytes(length) if block < 0 else self._read(block << self.block_bits, length))
        return b"".join(parts)

    def _read(self, offset: int, size: int) -> bytes:
        start = offset - self._window_start
        if self._window and start >= 0 and start + size <= len(self._window):
            return self._window[start : start + size]
        if not size:
            return b""
        piece = os.pread(self._fd, size, offset) if offset + size <= self._size else b""
        if len(piece) != size:
            raise Corrupt(f"{self.path} is truncated: {size} bytes at {offset} are missing")
        return piece
