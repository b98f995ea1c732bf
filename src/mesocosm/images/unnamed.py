"""Blobs that nobody has named yet: what comes from a web server is named by the bytes that came."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from mesocosm import trace
from mesocosm.errors import Unavailable
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest, new_hash
from mesocosm.images.files import open_locked, write_all
from mesocosm.images.leases import hold
from mesocosm.images.store_faults import store_faults
from mesocosm.linux.processes import boot_id

_PIECE: Final = 1 << 20


class _Origin(msgspec.Struct, frozen=True):
    """What lies beside an unfinished one: what its bytes came with, and the boot that wrote them."""

    validator: str
    boot_id: str


class Unnamed:
    """One such blob on its way in."""

    def __init__(self, store: BlobStore, fd: int, path: Path) -> None:
        self._store = store
        self._fd = fd
        self._path = path
        self._hash = new_hash("sha256")
        self._size = 0
        self._validator: str | None = None
        self._note = path.with_name(f"{path.name}.origin")

    @property
    def held(self) -> tuple[int, str | None]:
        """The bytes that an earlier attempt left, and the validator that they came with."""
        return self._size, self._validator

    def resume(self) -> None:
        """Take over what an earlier attempt left, or remove it; blocking.

        Only what this boot wrote: after a power cut the bytes may be others, and nothing would tell.
        """
        try:
            origin = msgspec.json.decode(self._note.read_bytes(), type=_Origin)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            origin = None
        if origin is None or origin.boot_id != boot_id():
            self.restart(None)
            return
        while piece := os.read(self._fd, _PIECE):
            self._hash.update(piece)
            self._size += len(piece)
        self._validator = origin.validator

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises Exhausted on a full disk."""
        with store_faults(self._store.root):
            write_all(self._fd, data)
        self._hash.update(data)
        self._size += len(data)

    def restart(self, validator: str | None) -> None:
        """Forget what was written; what comes now comes with ``validator``."""
        self._size, self._validator = 0, validator
        self._note.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = new_hash("sha256")
        if validator is not None:
            with store_faults(self._store.root):
                self._note.write_bytes(msgspec.json.encode(_Origin(validator, boot_id())))

    def forget(self) -> None:
        """Leave nothing behind."""
        self._note.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    def publish(self) -> Digest:
        """Name the bytes by their SHA-256 digest and keep them, for the pull under way; blocking."""
        digest = Digest("sha256", self._hash.hexdigest())
        hold(digest)
        if not self._store.has(digest):
            self._store.publish_file(self._fd, self._path, digest)
        trace.point("unnamed.published")
        return digest


@contextlib.contextmanager
def arriving(store: BlobStore, url: str) -> Iterator[Unnamed]:
    """One that comes from ``url``, with what an interrupted attempt left of it.  Blocking, shortly.

    When the context is left without `Unnamed.publish` it is gone, unless who left could not help it.
    """
    path, fd = _place(store.root / "ingest", url)
    blob = Unnamed(store, fd, path)
    try:
        blob.resume()
        yield blob
    except (asyncio.CancelledError, KeyboardInterrupt, Unavailable):
        if blob.held[1] is None:
            blob.forget()
        raise
    except BaseException:
        blob.forget()
        raise
    else:
        blob.forget()
    finally:
        os.close(fd)


def _place(ingest: Path, url: str) -> tuple[Path, int]:
    """A file of the URL's own; another one while somebody else is writing that."""
    path = ingest / f"unnamed-{hashlib.sha256(url.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"
    while (fd := open_locked(path)) is None:
        path = ingest / f"unnamed-{secrets.token_hex(8)}"
    return path, fd
