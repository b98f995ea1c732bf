"""Blobs that nobody has named yet: what comes from a web server is named by the bytes that came."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from mesocosm import trace
from mesocosm.images.blobs import BlobStore, open_locked, write_all
from mesocosm.images.digest import Digest, new_hash
from mesocosm.images.leases import hold
from mesocosm.images.store_faults import store_faults


class Unnamed:
    """One such blob on its way in."""

    def __init__(self, store: BlobStore, fd: int, path: Path) -> None:
        self._store = store
        self._fd = fd
        self._path = path
        self._hash = new_hash("sha256")

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises Exhausted on a full disk."""
        with store_faults(self._store.root):
            write_all(self._fd, data)
        self._hash.update(data)

    def restart(self) -> None:
        """Forget what was written."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = new_hash("sha256")

    def publish(self) -> Digest:
        """Name the bytes by their SHA-256 digest and keep them, for the pull under way; blocking."""
        digest = Digest("sha256", self._hash.hexdigest())
        hold(digest)
        if not self._store.has(digest):
            self._store.publish_file(self._fd, self._path, digest)
        trace.point("unnamed.published")
        return digest


@contextlib.contextmanager
def arriving(store: BlobStore) -> Iterator[Unnamed]:
    """A new, empty one; gone when the context is left without `Unnamed.publish`.  Blocking, shortly."""
    path = store.root / "ingest" / f"unnamed-{secrets.token_hex(8)}"
    fd = None
    while fd is None:
        fd = open_locked(path)
    try:
        yield Unnamed(store, fd, path)
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)
