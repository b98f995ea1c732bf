"""Why and how a container ended."""

from __future__ import annotations

import signal
from typing import Literal

import msgspec

from mesocosm.model.usage import Usage

Reason = Literal["exited", "asked", "limited", "failed", "orphaned", "lost"]


class Limitation(msgspec.Struct, frozen=True, kw_only=True):
    """A limit was reached and the container must go (parity IF-6).

    ``resource`` names it (``memory``), ``requested`` and ``peak`` are amounts in the resource's unit,
    ``message`` a sentence for people with both and, where known, the largest process.
    """

    resource: str
    message: str
    requested: int | None = None
    peak: int | None = None


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How the payload's first process ended: an exit code or a signal, never both (wait(2))."""

    code: int | None = None
    signal: int | None = None
    core_dumped: bool = False
    finished_at: float = 0.0

    @property
    def status(self) -> int:
        """As a shell shows it: the exit code, or 128 + the signal's number."""
        return self.code if self.code is not None else 128 + (self.signal or signal.SIGKILL)


class Termination(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a container, kept until it is removed (parity API-7, GAP-45).

    ``reason``: ``exited`` by itself, ``asked`` to (stop, kill, rm), ``limited`` by an isolator, ``failed`` to
    launch, ``orphaned`` (found without a living creator), ``lost`` (reboot or supervisor killed).
    ``exit`` is None when no process of it ever ran or its status is unknown; ``usage`` is the last reading.
    """

    reason: Reason
    message: str = ""
    exit: Exit | None = None
    limitation: Limitation | None = None
    usage: Usage | None = None
    finished_at: float = 0.0

    @property
    def status(self) -> int:
        """The exit status to report: the payload's, 137 when it was lost, 125 when it never ran."""
        if self.exit is not None:
            return self.exit.status
        return 125 if self.reason == "failed" else 137
