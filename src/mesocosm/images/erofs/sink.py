"""Writes a layer as one EROFS file while its tar stream comes in, in one sequential pass (images design 3.3).

Two forms.  "a", the default: blocks of 4 KiB, file data at block boundaries, the last part of a file up to 3
KiB with its inode: smaller than the tar, and what is read of a file is read directly.  "i": blocks of 512
bytes, the tar stream itself is the data area and inodes point into it: the stream stays retrievable and its
digest checkable.

Names of the archive never reach a host file system here; what a hostile archive can do ends at its own tree.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from mesocosm.images.erofs import format as fmt
from mesocosm.images.erofs.chunks import SparseWriter
from mesocosm.images.erofs.file import HEAD, LayerFile, SealKind, new_seal
from mesocosm.images.erofs.metadata import complete
from mesocosm.images.layers.entries import admit, admitted_xattrs, clean_path, whiteout
from mesocosm.images.layers.facts import ErofsFacts, StreamHash
from mesocosm.images.layers.tree import LayerTree, Node
from mesocosm.images.limits import DEFAULT_LIMITS, DEFAULT_POLICY, Limits, Policy
from mesocosm.images.tar.reader import HARDLINK, EntrySink, TarEntry

Form = Literal["a", "i"]

BLOCK_BITS: dict[Form, int] = {"a": 12, "i": 9}
INLINE_TAIL = 3072
"""Longest end of a file kept with its inode: a longer one wastes less in a block of its own."""

TAIL_BUDGET = 32 << 20
"""Ends of files held in memory until the metadata is written; once they add up to this, blocks are used."""

_TRANSFER = 1 << 20


class ErofsSink(EntrySink):
    """Takes a layer's members and makes the EROFS file ``path``, which must not exist.

    `finish` makes the file durable and mountable; until then it is neither.  `abort` removes it.
    ``seal``: "crc32" costs next to nothing; "sha256" is free for form "i" and one more pass of SHA-256 for
    "a".
    """

    def __init__(
        self,
        path: Path,
        *,
        form: Form = "a",
        limits: Limits = DEFAULT_LIMITS,
        policy: Policy = DEFAULT_POLICY,
        seal: SealKind | None = None,
    ) -> None:
        self._seal_kind: SealKind = seal or ("sha256" if form == "i" else "crc32")
        self._form = form
        self._bits = BLOCK_BITS[form]
        self._limits = limits
        self._policy = policy
        self._tree = LayerTree(limits)
        self._file = LayerFile(path, limit=limits.stream + limits.stream // 4)
        self._free_seal = form == "i" and self._seal_kind == "sha256"
        if not self._free_seal:
            self._file.seal = new_seal(self._seal_kind)
        self._budget = TAIL_BUDGET
        self._node: Node | None = None
        self._body = 0
        self._sparse: SparseWriter | None = None
        self._later: list[tuple[Node, TarEntry]] = []

    # --- members --------------------------------------------------------------------------------------------

    def raw(self, block: bytes) -> None:
        """Take the stream itself; it comes before the members that are in it."""
        if self._form == "i":
            self._file.append(block)

    def begin(self, entry: TarEntry) -> None:
        """Take a member."""
        self._node = None
        if entry.kind == stat.S_IFREG:
            node = Node(stat.S_IFREG | entry.mode, entry.uid, entry.gid, entry.mtime, (), None, entry.size)
            if self._tree.put_beside(entry.path, node):
                if entry.xattrs:
                    node.xattrs = admitted_xattrs(entry.xattrs, stat.S_IFREG, entry.path)
                self._begin_file(entry, node)
                return
        path = clean_path(entry.path, self._limits)
        mark = whiteout(path)
        if mark is not None:
            if mark.path or mark.opaque:
                self._tree.white_out(mark)
        elif admit(entry, path, self._policy):
            self._put(entry, path)

    def _put(self, entry: TarEntry, path: bytes) -> None:
        kind = entry.kind
        if kind == HARDLINK:
            self._tree.link(path, clean_path(entry.link, self._limits))
            return
        node = Node(kind | entry.mode, entry.uid, entry.gid, entry.mtime, size=entry.size)
        if entry.xattrs:
            node.xattrs = admitted_xattrs(entry.xattrs, kind, path)
        if kind == stat.S_IFREG:
            self._tree.put(path, node)
            self._begin_file(entry, node)
        elif kind == stat.S_IFDIR:
            node.children = {}
            self._tree.put_directory(path, node)
        else:
            self._tree.put(path, node)
            self._fill_in(entry, node)

    def _fill_in(self, entry: TarEntry, node: Node) -> None:
        """Give a link its target, a device its number."""
        if entry.kind == stat.S_IFLNK:
            node.mode |= 0o777  # as on every file system of Linux; archives say what they like
            node.tail = entry.link
            node.size = len(entry.link)
        elif entry.kind != stat.S_IFIFO:
            node.rdev = fmt.device_number(entry.major, entry.minor)

    def _begin_file(self, entry: TarEntry, node: Node) -> None:
        size = entry.size
        if entry.extents is not None:
            self._begin_sparse(entry, node)
        elif self._form == "i":
            node.address = (HEAD + entry.offset) >> self._bits
        elif size:
            self._node = node
            node.address = self._file.position >> self._bits
            tail = size & 4095
            if 0 < tail <= INLINE_TAIL and tail <= self._budget and not node.xattrs:
                self._budget -= tail
                self._body = size - tail
            else:
                self._body = size

    def data(self, view: memoryview) -> None:
        """Take the next bytes of the file begun last."""
        node = self._node
        if node is None:
            return
        if self._sparse is not None:
            self._sparse.write(view)
            return
        body = self._body
        if len(view) <= body:
            self._body = body - len(view)
            self._file.append(view)
            return
        if body:
            self._file.append(view[:body])
            view = view[body:]
            self._body = 0
        node.tail += view

    def whole(self, entry: TarEntry, view: memoryview) -> None:
        """Take a file with all its data."""
        self.begin(entry)
        node = self._node
        if node is None:
            return
        if self._sparse is not None:
            self._sparse.write(view)
            self.end()
            return
        self._node = None
        body = self._body
        if body == len(view):
            self._file.append_blocks(view)
            return
        if body:
            self._file.append(view[:body])
        node.tail = bytes(view[body:])

    def end(self) -> None:
        """The file begun last is complete."""
        node, self._node = self._node, None
        if node is None:
            return
        if self._sparse is not None:
            self._end_sparse(self._sparse, node)
            self._sparse = None
        elif not node.tail:
            self._file.pad(4096)

    # --- sparse files ---------------------------------------------------------------------------------------

    def _begin_sparse(self, entry: TarEntry, node: Node) -> None:
        if self._form == "i":
            self._later.append((node, entry))
            return
        self._node = node
        self._sparse = SparseWriter(self._file, entry.size, entry.extents or (), self._bits)

    def _end_sparse(self, sparse: SparseWriter, node: Node) -> None:
        sparse.finish()
        node.chunks = sparse.chunks or None
        node.chunk_bits = sparse.chunk_bits
        node.address = 0

    def _copy_sparse(self) -> None:
        """Spread the sparse files, which the stream holds packed, behind the stream."""
        if not self._later:
            return
        self._file.flush()
        fd = self._file.reader()
        try:
            for node, entry in self._later:
                if node.names:
                    self._spread(fd, node, entry)
        finally:
            os.close(fd)

    def _spread(self, fd: int, node: Node, entry: TarEntry) -> None:
        sparse = SparseWriter(self._file, entry.size, entry.extents or (), self._bits)
        at, end = HEAD + entry.offset, HEAD + entry.offset + entry.stored
        while at < end:
            piece = os.pread(fd, min(_TRANSFER, end - at), at)
            sparse.write(memoryview(piece))
            at += len(piece)
        self._end_sparse(sparse, node)

    # --- the end --------------------------------------------------------------------------------------------

    def finish(self, tar: StreamHash) -> ErofsFacts:
        """Write the metadata and publish the superblock.  ``tar`` is the running SHA-256 of the whole stream,
        whose digest names the volume.
        """
        padding = -self._file.position % HEAD
        self._file.append(bytes(padding))
        if self._free_seal:
            running = tar.copy()
            running.update(bytes(padding))
            self._file.start_seal(running)
        inodes = self._tree.settle()
        self._copy_sparse()
        uuid = bytes.fromhex(tar.hexdigest())[:16]
        return complete(self._file, inodes, self._bits, uuid, seal=self._seal_kind)

    def abort(self) -> None:
        """Remove the unfinished file."""
        self._file.abort()
