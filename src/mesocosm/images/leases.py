"""Leases: who needs which image, so that collection leaves it alone.

    leases/<owner>          what the owner needs; a container's lasts until it is released
    leases/pull-<random>    the same for a pull under way; flock-held, so it dies with its process
    lock                    held while a lease is written, and while something is condemned

A lease is written before the things it names are looked at; what is collected is chosen and renamed away
under the same lock.  So whoever has seen a layer under its lease keeps it (Q-18), with no lock held
meanwhile.  Leases are not synced to the disk: a power cut ends everything that could need them, and one that
was torn by it belongs to an earlier boot.

A container's lease only ever grows: image volumes add to it (parity PRV-6 lost them).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Final

import msgspec

from mesocosm import durable
from mesocosm.errors import Corrupt
from mesocosm.images import checked
from mesocosm.images.digest import Digest
from mesocosm.images.staging import replace
from mesocosm.images.store_faults import store_faults
from mesocosm.linux.processes import boot_id

VERSION: Final = 1
PULL: Final = "pull-"
CONTAINER: Final = "container-"
PIN: Final = "pin-"

Holds = Callable[[str], bool]
"""Answers whether the container with that ID still needs its lease."""


def always(_: str) -> bool:
    """A lease holds as long as it is there."""
    return True


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner needs: digests of documents and blobs, and diff IDs of layers, as text.

    Among the layers are the chain IDs of merges and, for a pull, of the look that directories may need.
    """

    owner: str
    digests: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    boot_id: str = ""
    version: int = VERSION

    def merged(self, other: Lease) -> Lease:
        """Return this lease with what ``other`` needs as well."""
        return msgspec.structs.replace(
            self,
            digests=tuple(sorted({*self.digests, *other.digests})),
            layers=tuple(sorted({*self.layers, *other.layers})),
        )


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """All leases together: digests, diff IDs, and the owners by digest."""

    digests: frozenset[str]
    layers: frozenset[str]
    owners: dict[str, tuple[str, ...]]


class Leases:
    """The leases of one store; any number of processes may use it at once.

    ``holds`` answers whether a container still needs its lease, for who only tells of it.
    """

    def __init__(self, root: Path, holds: Holds = always) -> None:
        self._holds = holds
        self._root = root / "leases"
        self._ingest = root / "ingest"
        self.lock = root / "lock"

    def prepare(self) -> None:
        """Make the directories."""
        self._ingest.mkdir(mode=0o700, exist_ok=True)
        self._root.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Needed]:
        """Hold the lock, and yield what is needed: nothing else will be while it is held."""
        with self._locked():
            yield self._together(forget=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with store_faults(self.lock.parent):
                stack.enter_context(durable.locked(self.lock))
            yield

    def extend(self, owner: str, digests: Iterable[Digest], layers: Iterable[Digest]) -> None:
        """Record that ``owner`` needs these too."""
        lease = Lease(
            owner=owner,
            digests=tuple(map(str, digests)),
            layers=tuple(map(str, layers)),
            boot_id="" if owner.startswith(PIN) else boot_id(),
        )
        with self._locked():
            present = self._read(self._root / owner)
            wanted = present.merged(lease) if present else lease
            if wanted != present:
                self._write(self._root / owner, wanted)

    def drop(self, owner: str) -> bool:
        """Forget an owner's lease; whether there was one."""
        try:
            with store_faults(self._root.parent):
                (self._root / owner).unlink()
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def pulling(self) -> Iterator[Pulling]:
        """A lease that lasts as long as the context, or as its process.

        What is needed inside a context in a context is held by both: who starts a pull holds what it brings
        until the container has its own lease.
        """
        path = self._root / f"{PULL}{secrets.token_hex(8)}"
        with self._locked(), store_faults(self._root.parent):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
        pulling = Pulling(self, fd, path.name, _under_way.get())
        outer = _under_way.set(pulling)
        try:
            yield pulling
        finally:
            _under_way.reset(outer)
            path.unlink(missing_ok=True)
            pulling.close()

    def owners(self, prefix: str = "") -> list[str]:
        """Return the owners whose name begins with ``prefix``, sorted."""
        names = os.listdir(self._root)  # noqa: PTH208
        return sorted(name for name in names if name.startswith(prefix) and not name.startswith("."))

    def get(self, owner: str) -> Lease | None:
        """Return an owner's lease; None when there is none that holds."""
        return self._read(self._root / owner)

    def needed(self) -> Needed:
        """Return what all leases hold together.

        A pull whose process is gone is forgotten.  A lease that cannot be read is Corrupt: then nothing may
        be collected.
        """
        with self.frozen() as needed:
            return needed

    def shown(self) -> Needed:
        """Return what leases hold, as it was at some moment: for who only tells of it.

        A container that has ended holds nothing, though its lease is there until it is released.
        Neither the lock nor anything else is written, so that a store can be looked at that is mounted
        read-only.
        """
        return self._together(forget=False)

    def _together(self, *, forget: bool) -> Needed:
        digests: set[str] = set()
        layers: set[str] = set()
        owners: dict[str, list[str]] = {}
        for name in self.owners():
            lease = (
                self._pull(name, forget=forget) if name.startswith(PULL) else self._read(self._root / name)
            )
            if lease is None or not (forget or self._is_held(name)):
                continue
            digests.update(lease.digests)
            layers.update(lease.layers)
            for digest in lease.digests:
                owners.setdefault(digest, []).append(name)
        return Needed(
            digests=frozenset(digests),
            layers=frozenset(layers),
            owners={digest: tuple(names) for digest, names in owners.items()},
        )

    def _is_held(self, owner: str) -> bool:
        return not owner.startswith(CONTAINER) or self._holds(owner.removeprefix(CONTAINER))

    def drop_all_but(self, known: Callable[[], Collection[str]]) -> list[str]:
        """Forget the leases of containers that are not known, and of pulls that died; return the owners.

        ``known`` is asked after the leases were listed: a container is recorded before it takes a lease.
        """
        dropped = []
        held = self.owners(CONTAINER)
        containers = frozenset(known())
        for name in held:
            if name.removeprefix(CONTAINER) not in containers and self.drop(name):
                dropped.append(name)
        for name in self.owners(PULL):
            if self._pull(name) is None:
                dropped.append(name)
        return dropped

    def _pull(self, name: str, *, forget: bool = True) -> Lease | None:
        """A pull's lease; None when its process is gone, and its file then removed if it may be forgotten."""
        path = self._root / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _decode(os.pread(fd, os.fstat(fd).st_size, 0), path) or Lease(owner=name)
        else:
            if forget:
                path.unlink(missing_ok=True)
            return None
        finally:
            os.close(fd)

    def _read(self, path: Path) -> Lease | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return _decode(data, path)

    def _write(self, path: Path, lease: Lease) -> None:
        replace(self._ingest, path, checked.encode(lease), durable=False)


class Pulling:
    """The lease of a pull under way."""

    def __init__(self, leases: Leases, fd: int, owner: str, outer: Pulling | None) -> None:
        self._leases = leases
        self._outer = outer
        self._fd = fd
        self._using = threading.Lock()
        self._lease = Lease(owner=owner)

    def need(self, digests: Collection[Digest], layers: Collection[Digest]) -> None:
        """Record what the pull is about to look for; nothing where it has ended meanwhile."""
        if self._outer is not None:
            self._outer.need(digests, layers)
        more = Lease(owner="", digests=tuple(map(str, digests)), layers=tuple(map(str, layers)))
        with self._using, self._leases._locked(), store_faults(self._leases.lock.parent):
            if self._fd < 0:
                return
            self._lease = self._lease.merged(more)
            os.pwrite(self._fd, checked.encode(self._lease), 0)

    def close(self) -> None:
        """Let the file go: its number may be another's next."""
        with self._using:
            os.close(self._fd)
            self._fd = -1


_under_way: ContextVar[Pulling | None] = ContextVar("pulling", default=None)
"""The lease of the pull that this task, or a thread of its, works for."""


def hold(digest: Digest) -> None:
    """Have the pull under way here hold a blob that is about to be published, or looked for; blocking.

    For what is found on the way to an image: a file from a web server is a blob before it is known to be a
    layer of one.
    """
    pulling = _under_way.get()
    if pulling is not None:
        pulling.need([digest], [])


def _decode(data: bytes, path: Path) -> Lease | None:
    if not data:
        return None
    try:
        lease = checked.decode(data, Lease, f"lease {path}")
    except Corrupt as error:
        raise Corrupt(error.message, hint="remove it if no container runs") from error
    if lease.version > VERSION:
        raise Corrupt(f"lease {path} has version {lease.version}", hint="it was written by a newer mesocosm")
    return lease
