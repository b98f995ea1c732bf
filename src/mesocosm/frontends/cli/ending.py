"""States and endings in words."""

from __future__ import annotations

import signal

from mesocosm.frontends.cli.colour import safe
from mesocosm.frontends.cli.layout import age, cut
from mesocosm.lifecycle import State
from mesocosm.model import Exit, Termination
from mesocosm.reports import Report


def how_it_ended(termination: Termination) -> str:
    """``exited (0)``, ``killed by SIGKILL``, ``stopped (143)``, ``limited: memory …``, ``lost: …``."""
    exited = "" if termination.exit is None else _exit(termination.exit)
    if termination.reason == "exited":
        return exited or "exited"
    if termination.reason == "asked":
        return f"stopped ({termination.exit.status})" if termination.exit is not None else "stopped"
    message = safe(termination.message)
    return f"{termination.reason}: {message}" if message else termination.reason


def _exit(ended: Exit) -> str:
    if ended.signal is None:
        return f"exited ({ended.code})"
    try:
        name = signal.Signals(ended.signal).name
    except ValueError:
        name = f"signal {ended.signal}"
    return f"killed by {name}{', core dumped' if ended.core_dumped else ''}"


def status_of(report: Report, now: float, *, longest: int | None = None) -> str:
    """Where a container stands and since when, for the column STATUS.

    ``now`` in seconds since the epoch; words about why are cut to ``longest`` characters.
    """
    if report.termination is not None:
        since = age(max(0.0, now - report.termination.finished_at))
        return f"{_shortened(how_it_ended(report.termination), longest)} {since} ago"
    if report.state is State.RUNNING:
        return f"running {age(max(0.0, now - (report.started_at or report.created_at)))}"
    if report.state is State.DESTROYING:
        why = safe("; ".join(report.failures))
        return _shortened(f"being cleaned up{f': {why}' if why else ''}", longest)
    if report.state is State.CREATED:
        return "created, not started"
    return f"being set up ({report.state})"


def _shortened(text: str, longest: int | None) -> str:
    return text if longest is None else cut(text, longest)
