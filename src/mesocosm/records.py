"""One container's persisted facts.

Three small files per container, each whole or absent and each with a version (``paths.py`` draws where):

    container.json    the intent: written once, durably, before anything else is done
    status.json       where it stands; on tmpfs, since nothing it speaks of survives a reboot
    termination.json  how it ended, written before anything of it is forgotten

``Records.advance`` is the only way a state changes: step first (which may refuse), then write, then adopt.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mesocosm import durable, trace
from mesocosm.errors import AlreadyExists, Corrupt, InvalidConfig, NotFound
from mesocosm.lifecycle import Event, State, step
from mesocosm.linux import beneath
from mesocosm.model import ContainerConfig, ContainerID, ImageIdentity, Resources, Termination, check_name
from mesocosm.paths import ContainerPaths, Paths

VERSION = 1
_REMOVED = ".removed-"  # prefix of directories on their way out

_Versioned = TypeVar("_Versioned", "Intent", "Status", "Ending")


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, as recorded before the first act.  ``created_at`` in seconds since the epoch."""

    id: ContainerID
    config: ContainerConfig
    boot_id: str
    created_at: float
    version: int = VERSION


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process told from all others that ever had its number, by its start time (clock ticks since boot)."""

    pid: int
    start_time: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container stands.

    ``isolation`` names of the isolators composed, in order; ``volumes`` the images mounted, by target;
    ``stop_signal`` the number that asks it to stop,
    from the request or the image; ``resources`` limits changed since the intent;
    ``phases`` seconds each step of the start took; ``failures`` what a clean-up could not give back,
    each a sentence, to be tried again (GAP-40); ``ending`` the termination a destroy is about to write.
    """

    state: State
    isolation: tuple[str, ...] = ()
    image: ImageIdentity | None = None
    volumes: dict[str, ImageIdentity] = {}
    process: Process | None = None
    supervisor: Process | None = None
    started_at: float | None = None
    stop_signal: int = signal.SIGTERM
    resources: Resources | None = None
    phases: dict[str, float] = {}
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    ending: Termination | None = None
    version: int = VERSION


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``termination.json``: how it ended, and its last status."""

    termination: Termination
    status: Status
    version: int = VERSION


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known of one container."""

    intent: Intent
    status: Status
    termination: Termination | None = None

    @property
    def id(self) -> ContainerID:
        """The container's ID."""
        return self.intent.id

    @property
    def config(self) -> ContainerConfig:
        """What was asked."""
        return self.intent.config

    @property
    def state(self) -> State:
        """Where it stands."""
        return self.status.state


class Damaged(msgspec.Struct, frozen=True):
    """A container directory whose record cannot be read; it is set aside, never guessed at."""

    id: ContainerID
    reason: str


class Records:
    """The records below one pair of roots.  Stateless: every answer is read from disk."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def create(self, intent: Intent) -> Record:
        """Record a new container: for everybody from now on, after a power cut once `settle` has been called.

        Raises AlreadyExists for a taken ID or name.
        """
        where = self.paths.container(intent.id)
        with self._name_lock(intent.config.name):
            if intent.config.name is not None:
                self._refuse_taken(intent.config.name)
            try:
                durable.private_directory(where.state.parent)
                where.state.mkdir(mode=0o700)
            except FileExistsError:
                raise AlreadyExists(f"container {intent.id} exists already") from None
            trace.point("records.directory-made")
            durable.private_directory(where.runtime)
            durable.replace(where.intent, _encode(intent))
            trace.point("records.intent-written")
            if intent.config.name is not None:
                self._link(intent.config.name, intent.id)
        return Record(intent=intent, status=Status(state=State.PROVISIONING))

    def settle(self, intent: Intent) -> None:
        """Have a new container's record survive a power cut; blocking.

        A cut before that may leave an empty intent, which counts as none.
        """
        where = self.paths.container(intent.id)
        for path in (where.intent, where.state, where.state.parent):
            durable.sync(path)
        if intent.config.name is not None:
            durable.sync(self.paths.names)
        trace.point("records.settled")

    def load(self, container: ContainerID) -> Record:
        """The record of one container.  Raises NotFound, or Corrupt when it is there but unreadable."""
        where = self.paths.container(container)
        try:
            intent = _decode(where.intent, Intent)
        except (FileNotFoundError, Corrupt):
            if self.is_recorded(container):
                raise
            raise NotFound(f"no container {container}") from None
        if intent.id != container:
            raise Corrupt(f"{where.intent} belongs to container {intent.id}")
        try:
            ending = _decode(where.termination, Ending)
        except FileNotFoundError:
            return Record(intent=intent, status=self._read_status(where))
        return Record(intent=intent, status=ending.status, termination=ending.termination)

    def is_recorded(self, container: ContainerID) -> bool:
        """Whether there is an intent, readable or not; not where a power cut came before it was settled."""
        try:
            status = self.paths.container(container).intent.lstat()
        except FileNotFoundError:
            return False
        return status.st_size > 0 or not stat.S_ISREG(status.st_mode)

    def all(self) -> tuple[list[Record], list[Damaged]]:
        """Every container, oldest first, and every one whose record cannot be read."""
        records: list[Record] = []
        damaged: list[Damaged] = []
        for container in self.ids():
            try:
                records.append(self.load(container))
            except NotFound:
                damaged.append(Damaged(container, "it has no record"))
            except Corrupt as error:
                damaged.append(Damaged(container, str(error)))
        return sorted(records, key=lambda record: record.intent.created_at), damaged

    def ids(self) -> list[ContainerID]:
        """IDs of all container directories, on either root."""
        return sorted({*_scan(self.paths.containers), *_scan(self.paths.running)})

    def find(self, text: str) -> ContainerID:
        """The container meant by a name, an ID, or the beginning of one ID only.  Raises NotFound."""
        with contextlib.suppress(InvalidConfig, OSError):
            target = (self.paths.names / check_name(text)).readlink()
            return ContainerID.parse(str(target))
        matches = [container for container in self.ids() if str(container).startswith(text)] if text else []
        exact = [container for container in matches if str(container) == text]
        if len(exact or matches) == 1:
            return (exact or matches)[0]
        if matches:
            raise NotFound(
                f"container {text!r} is ambiguous: {', '.join(map(str, matches[:4]))}",
                hint="give more of the ID",
            )
        raise NotFound(f"no container {text!r}", hint="mesocosm ps -a lists them")

    def advance(self, record: Record, event: Event, **changes: Any) -> Record:  # noqa: ANN401
        """The record after ``event``, written.  ``changes`` are fields of Status.  Raises WrongState."""
        return self.note(record, state=step(record.state, event), **changes)

    def note(self, record: Record, **changes: Any) -> Record:  # noqa: ANN401
        """The record with other status fields, written; the state machine is not involved."""
        status = msgspec.structs.replace(record.status, **changes)
        return msgspec.structs.replace(
            record, status=self._write_status(self.paths.container(record.id), status)
        )

    def finish(self, record: Record, termination: Termination) -> Record:
        """Record the end, durably; from here on the container is DESTROYED whatever happens."""
        ended = step(record.state, Event.CLEANED)
        where = self.paths.container(record.id)
        status = msgspec.structs.replace(
            record.status, state=ended, ending=None, failures=(), process=None, supervisor=None
        )
        durable.write(where.termination, _encode(Ending(termination=termination, status=status)))
        trace.point("records.termination-written")
        return msgspec.structs.replace(record, status=status, termination=termination)

    def remove(self, container: ContainerID) -> None:
        """Forget a container: its name, what is kept of it, then the runtime directory.  Idempotent."""
        where = self.paths.container(container)
        name = self._name_of(where)
        if name is not None:
            link = self.paths.names / name
            with contextlib.suppress(OSError):
                if str(link.readlink()) == str(container):
                    link.unlink()
        trace.point("records.name-freed")
        _remove_tree(where.state)
        trace.point("records.state-removed")
        _remove_tree(where.runtime)

    def sweep(self) -> None:
        """Finish removals that a crash interrupted, and free names of containers that are gone.

        What still cannot be removed, because something is mounted in it, keeps no command from its work; the
        next one tries again.
        """
        for directory in (self.paths.containers, self.paths.running):
            for entry in _entries(directory):
                if entry.name.startswith(_REMOVED):
                    with contextlib.suppress(OSError):
                        _remove_by_descriptor(entry)
        with self._name_lock(".lock" if self.paths.names.exists() else None):
            for link in _entries(self.paths.names):
                if link.is_symlink() and not (self.paths.containers / link.readlink()).exists():
                    link.unlink()

    def _name_of(self, where: ContainerPaths) -> str | None:
        try:
            return _decode(where.intent, Intent).config.name
        except (OSError, Corrupt):
            return None

    @contextlib.contextmanager
    def _name_lock(self, name: str | None) -> Iterator[None]:
        if name is None:
            yield
            return
        durable.private_directory(self.paths.names)
        with durable.locked(self.paths.names / ".lock"):
            yield

    def _refuse_taken(self, name: str) -> None:
        try:
            holder = (self.paths.names / name).readlink()
        except FileNotFoundError:
            return
        if self.paths.container(ContainerID.parse(str(holder))).state.exists():
            raise AlreadyExists(
                f"the name {name!r} is used by container {holder}",
                hint=f"choose another, or mesocosm rm {name}",
            )

    def _link(self, name: str, container: ContainerID) -> None:
        link = self.paths.names / name
        link.unlink(missing_ok=True)  # of a container that is gone
        link.symlink_to(str(container))
        trace.point("records.name-linked")

    def _write_status(self, where: ContainerPaths, status: Status) -> Status:
        trace.point(f"records.before-{status.state}")
        try:
            durable.replace(where.status, _encode(status))
        except FileNotFoundError:  # a reboot has emptied the runtime root
            durable.private_directory(where.runtime)
            durable.replace(where.status, _encode(status))
        trace.point(f"records.after-{status.state}")
        return status

    def _read_status(self, where: ContainerPaths) -> Status:
        try:
            return _decode(where.status, Status)
        except FileNotFoundError:
            # the runtime root is emptied by a reboot, or a crash came between the two first writes
            return Status(state=State.PROVISIONING)


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _scan(directory: Path) -> Iterator[ContainerID]:
    for entry in _entries(directory):
        try:
            container = ContainerID((entry.name,))
        except InvalidConfig:
            continue
        yield container
        for nested in _scan(entry / "containers"):
            yield ContainerID((entry.name, *nested.segments))


def _remove_tree(path: Path) -> None:
    """Remove a directory of ours, renamed first: a crash leaves nothing that looks like a container."""
    doomed = _doomed(path)
    try:
        path.rename(doomed)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _remove_by_descriptor(doomed)  # the rest of an interrupted removal
        path.rename(doomed)
    _remove_by_descriptor(doomed)


def _doomed(path: Path) -> Path:
    return path.with_name(f"{_REMOVED}{path.name}")


def _remove_by_descriptor(path: Path) -> None:
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            beneath.remove_tree(parent, path.name)
    finally:
        os.close(parent)


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=_to_text), indent=1)


def _decode(path: Path, kind: type[_Versioned]) -> _Versioned:
    try:
        value = msgspec.json.decode(durable.read(path), type=kind, dec_hook=_from_text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidConfig) as error:
        raise Corrupt(f"{path} cannot be read: {error}") from error
    if value.version != VERSION:
        raise Corrupt(f"{path} has version {value.version}, this program knows {VERSION}")
    return value


def _to_text(value: object) -> object:
    if isinstance(value, ContainerID):
        return str(value)
    raise NotImplementedError(type(value))


def _from_text(kind: type, value: object) -> object:
    if kind is ContainerID and isinstance(value, str):
        return ContainerID.parse(value)
    raise NotImplementedError(kind)
