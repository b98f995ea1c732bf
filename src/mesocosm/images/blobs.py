"""The content store: bytes by digest, each either whole and verified, or not there.

    blobs/sha256/<hex>      published; immutable; never partial
    ingest/sha256-<hex>     what has arrived of one blob so far; flock-held while somebody writes
    trash/<random>          renamed here first, unlinked later

A blob is published by fsync, rename and fsync of the directory, after its digest and size were found right,
so a crash at any point leaves it unpublished or whole.  What is in ``ingest/`` is resumed by the next one
who wants the blob, or removed by :meth:`BlobStore.sweep`: after a day, or at once where it was copied or made
on this host.  The lock on an ingest file dies with its holder.
The store holds no state of its own in memory and no path in it is absolute: it may be moved, and any number
of processes may use it at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from mesocosm import durable
from mesocosm.errors import (
    Corrupt,
    Exhausted,
    InvalidConfig,
    MesocosmError,
    NotFound,
)
from mesocosm.images.digest import HEX_LENGTH, Digest, Verifier, verify
from mesocosm.images.files import (
    open_locked,
    read_at,
    remove_if_idle,
    same_file,
    set_resumable,
    unreadable,
    write_all,
)
from mesocosm.images.store_faults import store_faults
from mesocosm.model.size import size as shown_size

CHUNK: Final = 1 << 20
"""Bytes read at a time: above 256 KiB hashing and writing cost more than the calls around them."""

PARTIAL_AGE: Final = 24 * 3600.0
"""Seconds that an unfinished download is kept for being resumed."""

_RESUMABLE: Final = (*(f"{algorithm}-" for algorithm in HEX_LENGTH), "unnamed-")
"""How the names of unfinished downloads begin; nobody goes on with anything else."""


class Stored(NamedTuple):
    """One published blob and its size in bytes."""

    digest: Digest
    size: int


class BlobStore:
    """A content store below one directory, which is created with mode 0700 on :meth:`open`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ingest = root / "ingest"
        self._trash = root / "trash"

    @classmethod
    def open(cls, root: Path) -> BlobStore:
        """Return the store at ``root`` with its directories made."""
        store = cls(root)
        for part in (root, root / "blobs", store._ingest, store._trash):
            part.mkdir(mode=0o700, parents=part == root, exist_ok=True)
        for algorithm in HEX_LENGTH:
            (root / "blobs" / algorithm).mkdir(mode=0o700, exist_ok=True)
        if stat.S_IMODE(root.stat().st_mode) != 0o700:
            root.chmod(0o700)
        return store

    def path(self, digest: Digest) -> Path:
        """Return where the blob is, or would be."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        """Return the published blob's size in bytes, None when it is not there."""
        try:
            found = self.path(digest).lstat()
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def has(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is published, and of that size when one is given."""
        found = self.size(digest)
        return found is not None and size in (None, found)

    def open_blob(self, digest: Digest) -> BinaryIO:
        """Return the blob opened for reading, **not** verified; raises NotFound, Corrupt."""
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFound(f"no blob {digest} in {self.root}", hint="pull the image again") from None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return open(fd, "rb", buffering=0)
        os.close(fd)
        raise Corrupt(f"stored blob {digest} is not a file")

    def chunks(self, digest: Digest, size: int | None = None) -> Generator[memoryview, None, None]:
        """Yield the blob's bytes and raise Corrupt after the last when they are not what the digest says.

        Each view is valid until the next one is asked for.
        """
        verifier = Verifier(digest, size, what="stored blob")
        buffer = memoryview(bytearray(CHUNK))
        with self.open_blob(digest) as file:
            while count := read_at(file.fileno(), buffer, verifier.seen, f"stored blob {digest}"):
                verifier.update(buffer[:count])
                yield buffer[:count]
        verifier.finish()

    def read(self, digest: Digest, *, limit: int) -> bytes:
        """Return a whole blob, verified; Exhausted above ``limit`` bytes, NotFound, Corrupt."""
        with self.open_blob(digest) as file:
            try:
                data = file.read(limit + 1)
            except OSError as error:
                raise unreadable(f"stored blob {digest}", error) from error
        if len(data) > limit:
            raise Exhausted(f"blob {digest} has more than the {limit} bytes allowed for a document")
        return verify(data, digest, what="stored blob")

    def verify(self, digest: Digest) -> None:
        """Read the blob and raise Corrupt when a bit has flipped, NotFound when it is not there."""
        for _ in self.chunks(digest):
            pass

    def put(self, data: bytes, digest: Digest | None = None) -> Digest:
        """Publish ``data`` and return its digest; Corrupt when ``digest`` is given and another."""
        if digest is None:
            digest = Digest.of(data)
        verify(data, digest)
        if self.has(digest, len(data)):
            return digest
        temporary = self._ingest / f"put-{secrets.token_hex(8)}"
        fd = None
        while fd is None:
            fd = open_locked(temporary)
        try:
            with store_faults(self.root):
                write_all(fd, data)
            self.publish_file(fd, temporary, digest)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        return digest

    def begin(
        self, digest: Digest, size: int | None, *, keep: bool = True, resume: bool = True
    ) -> Ingest | None:
        """Take the lock on the blob's ingest file, and return it ready for resuming.

        None when somebody, in this process or another, holds it.  The ingest is a context.  Without ``keep``
        the bytes are verified but not written: for whoever only wants them to run through a sink.  Without
        ``resume`` what this process leaves of a blob that it began is nobody's, should it die.
        """
        path = self._partial(digest)
        fd = open_locked(path)
        if fd is None:
            return None
        if resume or not os.fstat(fd).st_size:
            set_resumable(fd, resumable=resume)
        return Ingest(self, fd, path, digest, size, keep=keep)

    def begun(self, digest: Digest) -> bool:
        """Whether somebody has begun with the blob, and not published it."""
        return self._partial(digest).exists()

    def _partial(self, digest: Digest) -> Path:
        return self._ingest / f"{digest.algorithm}-{digest.hex}"

    def delete(self, digest: Digest) -> bool:
        """Remove a published blob; whether it was there.  Open readers keep their bytes."""
        doomed = self._trash / secrets.token_hex(16)
        try:
            self.path(digest).rename(doomed)
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):  # what is no file waits for the trash to be emptied
            doomed.unlink()
        return True

    def list(self) -> Iterator[Stored]:
        """Yield every published blob, in no order."""
        for algorithm in HEX_LENGTH:
            with os.scandir(self.root / "blobs" / algorithm) as entries:
                for entry in entries:
                    with contextlib.suppress(InvalidConfig, FileNotFoundError):
                        yield Stored(Digest(algorithm, entry.name), entry.stat(follow_symlinks=False).st_size)

    def sweep(self, *, older_than: float | None = None) -> int:
        """Empty the trash and remove ingest files that nobody holds; return the bytes freed.

        ``older_than``: of what may be resumed only what was last written before this time (seconds since the
        epoch); None takes all.
        """
        freed = 0
        for directory in (self._trash, self._ingest):
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                resumable = directory == self._ingest and name.startswith(_RESUMABLE)
                freed += remove_if_idle(directory / name, older_than if resumable else None)
        return freed

    def publish_file(self, fd: int, source: Path, digest: Digest) -> None:
        """Move a file of this store, its bytes found right, under its name; blocking."""
        with store_faults(self.root):
            os.fchmod(fd, 0o444)
            os.fsync(fd)
            target = self.path(digest)
            source.rename(target)
            durable.sync(target.parent)  # a rename is not durable before its directory is


class Ingest:
    """One blob on its way in: the locked partial file.  A context; leaving it keeps the partial for a resume.

    :meth:`resume` yields what is there already, :meth:`write` appends, :meth:`publish` checks and publishes,
    :meth:`discard` throws away.  A full disk raises Exhausted and discards.
    """

    def __init__(
        self, store: BlobStore, fd: int, path: Path, digest: Digest, size: int | None, *, keep: bool
    ) -> None:
        self.digest = digest
        self.size = size
        self._keep = keep
        self._store = store
        self._fd = fd
        self._path = path
        self._verifier = Verifier(digest, size)
        self.resumed = 0

    @property
    def offset(self) -> int:
        """Bytes held and hashed so far: where the source has to go on."""
        return self._verifier.seen

    @property
    def complete(self) -> bool:
        """Whether as many bytes are there as promised."""
        return self.offset == self.size

    def resume(self) -> Generator[memoryview, None, None]:
        """Re-hash and yield what an earlier attempt left; discards it when it cannot be a beginning of the
        blob.

        Must be run to its end before the first :meth:`write`.  Each view is valid until the next is asked
        for.
        """
        held = os.fstat(self._fd).st_size
        if self.size is not None and held > self.size:
            self.restart()
            return
        self.resumed = held
        buffer = memoryview(bytearray(min(CHUNK, held)))
        while self.offset < held:
            count = self._read_held(buffer)
            self._verifier.update(buffer[:count])
            yield buffer[:count]
        os.lseek(self._fd, self.offset, os.SEEK_SET)

    def _read_held(self, buffer: memoryview) -> int:
        count = read_at(self._fd, buffer, self.offset, self._path)
        if count == 0:
            raise Corrupt(f"{self._path} became shorter while it was read")
        return count

    def restart(self) -> None:
        """Forget every byte held, and begin at zero."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._verifier = Verifier(self.digest, self.size)
        self.resumed = 0

    def require_space(self) -> None:
        """Raise Exhausted at once when the file system has no room for what is still missing.

        Some do not say (ramfs, some of FUSE's): their size is told as 0.
        """
        if self.size is None or not self._keep:
            return
        free = os.fstatvfs(self._fd)
        room, missing = free.f_bavail * free.f_frsize, self.size - self.offset
        if free.f_blocks and room < missing:
            self.discard()
            raise Exhausted(
                f"no space for blob {self.digest}: it needs {shown_size(missing)} more, "
                f"{self._store.root} has {shown_size(room)} left",
                hint="free space there, or remove images with mesocosm rmi",
            ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, chunk: bytes | memoryview) -> None:
        """Hash and append ``chunk``; Corrupt when the blob becomes longer than promised, Exhausted on a
        full disk.
        """
        try:
            self._verifier.update(chunk)
            if self._keep:
                with store_faults(self._store.root):
                    write_all(self._fd, chunk)
        except MesocosmError:
            self.discard()
            raise

    def check(self) -> None:
        """Raise Corrupt, and discard, unless the bytes held are the blob, whole."""
        try:
            self._verifier.finish()
        except Corrupt:
            self.discard()
            raise

    def publish(self) -> None:
        """Check, make durable and publish; without ``keep`` only check and discard."""
        self.check()
        if not self._keep:
            self.discard()
            return
        try:
            self._store.publish_file(self._fd, self._path, self.digest)
        except MesocosmError:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the partial file; the lock stays until :meth:`close`."""
        if same_file(self._fd, self._path):
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock.  An empty partial is removed, one with bytes in it is kept."""
        if self._fd < 0:
            return
        if os.fstat(self._fd).st_size == 0:
            self.discard()
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
