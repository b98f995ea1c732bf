"""What a session's directory and the kernel say about one supervised process.

    lock           held (flock) by the supervisor while it lives
    process.json   identities of supervisor and payload
    exit.json      how the payload ended, or why it never began

Reading needs no launcher and no supervisor: it is what recovery goes by.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec

from mesocosm import durable
from mesocosm.errors import Corrupt
from mesocosm.linux.processes import Identity
from mesocosm.model.termination import Exit
from mesocosm.paths import SessionPaths

VERSION = 1

_Record = TypeVar("_Record")


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A step that failed after the gate: its index in the plan, and why."""

    step: int
    errno: int
    detail: str
    status: int


class Processes(msgspec.Struct, frozen=True, kw_only=True):
    """Pid and start time (clock ticks since boot) of the two processes of a session."""

    supervisor: tuple[int, int]
    payload: tuple[int, int]
    version: int = VERSION

    @property
    def supervisor_identity(self) -> Identity:
        """The supervisor, comparable and holdable."""
        return Identity(*self.supervisor)

    @property
    def payload_identity(self) -> Identity:
        """The payload's first process; with an init, the init."""
        return Identity(*self.payload)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a session.

    ``alive``      the supervisor's lock is held
    ``exit``       how the payload ended, None while nobody knows
    ``failure``    the step that kept it from running, when ``exit`` is that of a failed start
    ``processes``  None before the child was made
    """

    alive: bool
    exit: Exit | None = None
    failure: Failure | None = None
    processes: Processes | None = None

    @property
    def lost(self) -> bool:
        """The supervisor is gone and nobody wrote down how the payload ended."""
        return not self.alive and self.exit is None


class _ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    code: int
    signal: int
    core: bool
    at: int
    failure: Failure | None = None
    lost_output: int = 0
    version: int = VERSION


def evidence(session: SessionPaths) -> Evidence:
    """Look at a session.  Raises Corrupt when one of its files is not what it must be."""
    # The lock first: what ends in between has written exit.json by then.
    alive = durable.is_locked(session.lock)
    record = _read(session.exit, _ExitRecord)
    return Evidence(
        alive=alive,
        exit=None if record is None else to_exit(record.code, record.signal, record.core, record.at),
        failure=None if record is None else record.failure,
        processes=processes(session),
    )


def processes(session: SessionPaths) -> Processes | None:
    """The identities of a session's processes, None before there are any.  Raises Corrupt."""
    return _read(session.process, Processes)


def to_exit(code: int, signal: int, core: bool, at: int) -> Exit:
    """The numbers of exit.json and of an ``ended`` message as a value."""
    return Exit(
        code=None if signal else code,
        signal=signal or None,
        core_dumped=core,
        finished_at=at / 1e9,
    )


def discard(session: SessionPaths) -> None:
    """Remove the files of a session that never came to be.  Absence is fine."""
    for path in (session.socket, session.process, session.exit, session.lock):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        return msgspec.json.decode(durable.read(path), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.DecodeError as error:
        raise Corrupt(f"{path} cannot be read: {error}") from error
