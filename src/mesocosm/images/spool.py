"""Files of the store's own for as long as something is worked on: whole archives that came through a pipe,
layers being compressed anew.

They lie in ``ingest/`` and are flock-held, so what a crash leaves of them is swept like any other leftover.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from mesocosm.errors import Corrupt, Exhausted, InvalidConfig, MesocosmError
from mesocosm.images.archive import open_regular
from mesocosm.images.blobs import BlobStore
from mesocosm.images.decompress import MAGIC_LENGTH, Decompressor, sniff
from mesocosm.images.files import write_all
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.store_faults import store_faults
from mesocosm.images.transfer import in_thread

_PIECE = 1 << 20
_PATIENCE = 100  # milliseconds between looks at whether anybody still wants the bytes

Source = Path | int
"""A file's path, or an open descriptor: a pipe, a socket, a file from where it stands."""


class Spool:
    """One file being written; ``path`` can be opened by others as long as the context lasts."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._root = path.parent.parent
        self.path = path

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises Exhausted on a full disk, Unavailable on one that fails."""
        with store_faults(self._root):
            write_all(self._fd, data)


@contextlib.contextmanager
def spooling(blobs: BlobStore) -> Iterator[Spool]:
    """A new, empty spool; gone when the context is left.  Blocking."""
    while True:
        path = blobs.root / "ingest" / f"spool-{secrets.token_hex(8)}"
        with store_faults(blobs.root):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not os.fstat(fd).st_nlink:
                continue  # swept between the two lines above
            yield Spool(fd, path)
        finally:
            path.unlink(missing_ok=True)
            os.close(fd)
        return


@contextlib.asynccontextmanager
async def arrived(blobs: BlobStore, source: Source, *, plain: bool) -> AsyncIterator[Path]:
    """As `settled`, for those on an event loop; what fails within speaks of the source, never of a spool."""
    stopped = threading.Event()
    context = settled(blobs, source, plain=plain, stopped=stopped)
    try:
        path: Path = await in_thread(context.__enter__, stop=stopped.set)
        with _speaking_of(source, path):
            yield path
    finally:
        context.__exit__(None, None, None)


def name_of(source: Source) -> str:
    """What a person calls the source."""
    return str(source) if isinstance(source, Path) else "standard input"


@contextlib.contextmanager
def _speaking_of(source: Source, path: Path) -> Iterator[None]:
    try:
        yield
    except MesocosmError as error:
        error.message = error.message.replace(str(path), name_of(source))
        raise


@contextlib.contextmanager
def settled(
    blobs: BlobStore, source: Source, *, plain: bool, stopped: threading.Event | None = None
) -> Iterator[Path]:
    """The path of a regular file with the source's bytes, decompressed when ``plain``; blocking.

    The source itself where it already is one.  ``stopped`` ends the reading of a pipe that nobody writes to.
    Raises NotFound, InvalidConfig, Corrupt, Exhausted.
    """
    if isinstance(source, Path) and _as_wanted(source, plain=plain):
        yield source
        return
    with spooling(blobs) as spool:
        try:
            _copy(source, spool, plain, stopped or threading.Event())
        except (Corrupt, Exhausted) as error:
            raise type(error)(f"archive {name_of(source)}: {error.message}", hint=error.hint) from error
        yield spool.path


def _as_wanted(path: Path, *, plain: bool) -> bool:
    if stat.S_ISFIFO(_mode(path)):
        return False
    fd = open_regular(path)
    try:
        return not plain or sniff(os.pread(fd, MAGIC_LENGTH, 0)) == "none"
    finally:
        os.close(fd)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _copy(source: Source, spool: Spool, plain: bool, stopped: threading.Event) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if isinstance(source, Path) else source
    stream = Decompressor(None, DEFAULT_LIMITS)
    taken = 0
    try:
        for piece in _pieces(fd, stopped):
            taken += len(piece)
            if taken > DEFAULT_LIMITS.stream:
                raise Exhausted(f"archive has more than {DEFAULT_LIMITS.stream} bytes")
            for part in stream.feed(piece) if plain else (piece,):
                spool.write(part)
        for part in stream.finish() if plain else ():
            spool.write(part)
    finally:
        if isinstance(source, Path):
            os.close(fd)
    if not taken:
        raise InvalidConfig("archive is empty", hint="is the command before the pipe writing anything?")


def _pieces(fd: int, stopped: threading.Event) -> Iterator[bytes]:
    """What comes through the descriptor, until it ends or ``stopped`` is set."""
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    while not stopped.is_set():
        if not ready.poll(_PATIENCE):
            continue
        try:
            piece = os.read(fd, _PIECE)
        except OSError as error:
            raise InvalidConfig(f"archive cannot be read: {error.strerror}") from error
        if not piece:
            return
        yield piece
