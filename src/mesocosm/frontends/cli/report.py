"""What a container was, for people: what isolated it, what it used, how long everything took."""

from __future__ import annotations

import sys

import click

from mesocosm.frontends.cli.colour import Paint, painter, plain, safe
from mesocosm.frontends.cli.ending import how_it_ended
from mesocosm.frontends.cli.layout import columns, duration, share
from mesocosm.isolators.words import processors, size
from mesocosm.model import Termination, Usage
from mesocosm.plan import LaunchPlan
from mesocosm.reports import Report

MEASURABLE = 0.05
"""Seconds; over a shorter run the set-up's processor time, which counts too, is most of it."""


def show_report(created: Report, plan: LaunchPlan, termination: Termination) -> None:
    """Print the report on standard error; ``created`` is the container's report of after its start."""
    click.echo(render(created, plan, termination, painter(sys.stderr)), err=True)


def render(created: Report, plan: LaunchPlan, termination: Termination, paint: Paint = plain) -> str:
    """The report as text: a headline and one table in parts."""
    image = created.image.reference if created.image else "no image"
    headline = f"{paint(created.name or created.id, 'title')}  {safe(image)}  {how_it_ended(termination)}"
    parts = {
        "ISOLATION": holds(plan),
        "USED": used(termination.usage or Usage(), _ran(created, termination)),
        "TIME": took(created, termination),
        "WARNINGS": [("", safe(warning)) for warning in created.warnings],
    }
    rows = [
        (title if number == 0 else "", *row)
        for title, part in parts.items()
        for number, row in enumerate(part)
    ]
    lines = columns(rows, gap=2).splitlines()
    return "\n".join(
        [headline, *(_titled(line, row[0], paint) for line, row in zip(lines, rows, strict=True))]
    )


def _titled(line: str, title: str, paint: Paint) -> str:
    return paint(title, "title") + line[len(title) :]


def holds(plan: LaunchPlan) -> list[tuple[str, str]]:
    """Each isolator that was composed, and what it holds."""
    return [
        (part.isolator, safe("; ".join(part.notes)) or "nothing asked for")
        for part in plan.parts
        if part.isolator != "launch"
    ]


def used(usage: Usage, ran: float | None) -> list[tuple[str, str]]:
    """What was used, each beside its limit; a row for what somebody measured."""
    rows = [
        ("processor", _processor(usage, ran)),
        ("memory", _memory(usage)),
        ("processes", _processes(usage)),
    ]
    return [(name, text) for name, text in rows if text] or [("nothing", "was measured")]


def _processor(usage: Usage, ran: float | None) -> str:
    if usage.cpu_seconds is None:
        return ""
    words = [duration(usage.cpu_seconds)]
    if ran is not None and ran >= MEASURABLE:
        words[0] += f" in {duration(ran)} ({share(usage.cpu_seconds, ran)} of a processor)"
    if usage.cpu_limit is not None:
        words.append(f"limit {processors(usage.cpu_limit)}")
    if usage.cpu_throttled_periods:
        held = f"held back in {usage.cpu_throttled_periods} of {usage.cpu_periods} periods"
        words.append(
            held + (f" for {duration(usage.cpu_throttled_seconds)}" if usage.cpu_throttled_seconds else "")
        )
    return ", ".join(words)


def _memory(usage: Usage) -> str:
    when, used = _most(usage.memory_peak, usage.memory)
    if used is None:
        return ""
    words = [f"{when} {size(used)}"]
    if usage.memory_limit is not None:
        words[0] += f" of {size(usage.memory_limit)} ({share(used, usage.memory_limit)})"
    else:
        words.append("no limit")
    if usage.oom_kills:
        words.append(f"{usage.oom_kills} killed for want of memory")
    return ", ".join(words)


def _processes(usage: Usage) -> str:
    when, number = _most(usage.pids_peak, usage.pids)
    if number is None:
        return ""
    limit = f"of {usage.pids_limit}" if usage.pids_limit is not None else "no limit"
    words = [f"{when} {number}{' ' if usage.pids_limit is not None else ', '}{limit}"]
    if usage.pids_refused:
        words.append(f"a new one refused {usage.pids_refused} times")
    return ", ".join(words)


def _most(peak: int | None, last: int | None) -> tuple[str, int | None]:
    """The highest use, or that at the end where the kernel keeps no peak; and which of the two it is."""
    return ("peak", peak) if peak is not None else ("at the end", last)


def took(created: Report, termination: Termination) -> list[tuple[str, str]]:
    """Each phase with its time, on one line; and the payload's own."""
    phases = [f"{name} {duration(seconds)}" for name, seconds in created.phases.items()]
    rows = [("to start", f"{duration(sum(created.phases.values()))}: {', '.join(phases)}")] if phases else []
    ran = _ran(created, termination)
    return [*rows, ("to run", duration(ran))] if ran is not None else rows


def _ran(created: Report, termination: Termination) -> float | None:
    ended = (termination.exit.finished_at if termination.exit else 0.0) or termination.finished_at
    if created.started_at is None or not ended:
        return None
    return max(0.0, ended - created.started_at)
