"""States and endings in words."""

from __future__ import annotations

import signal

from mesocosm.frontends.cli.colour import safe
from mesocosm.frontends.cli.layout import age
from mesocosm.lifecycle import State
from mesocosm.model import Exit, Termination
from mesocosm.reports import Report


def how_it_ended(termination: Termination) -> str:
    """``exited (0)``, ``killed by SIGKILL``, ``limited: memory …``, ``lost: …``, and so on."""
    exited = "" if termination.exit is None else _exit(termination.exit)
    if termination.reason == "exited":
        return exited or "exited"
    if termination.reason == "asked":
        return f"ended on request{f', {exited}' if exited else ''}"
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


def status_of(report: Report, now: float) -> str:
    """Where a container stands and since when, for the column STATUS; ``now`` in seconds since the epoch."""
    if report.termination is not None:
        since = age(max(0.0, now - report.termination.finished_at))
        return f"{how_it_ended(report.termination)} {since} ago"
    if report.state is State.RUNNING:
        return f"running {age(max(0.0, now - (report.started_at or report.created_at)))}"
    if report.state is State.DESTROYING:
        why = safe("; ".join(report.failures))
        return f"being cleaned up{f': {why}' if why else ''}"
    if report.state is State.CREATED:
        return "created, not started"
    return f"being set up ({report.state})"
