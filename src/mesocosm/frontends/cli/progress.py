"""What the image side does, shown while it does it: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mesocosm.frontends.cli.colour import safe
from mesocosm.frontends.cli.layout import count, duration
from mesocosm.frontends.cli.saying import say
from mesocosm.images.progress import Phase, Progress
from mesocosm.isolators.words import size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_DONE = {
    Phase.RESOLVE: "resolved",
    Phase.DOWNLOAD: "fetched",
    Phase.VERIFY: "verified",
    Phase.UNPACK: "unpacked",
    Phase.COMPRESS: "compressed",
    Phase.UPLOAD: "uploaded",
    Phase.COLLECT: "collected",
}

MEASURABLE = 0.1
"""Seconds below which a rate says nothing."""


class Display:
    """Takes reports until it is closed; this one shows nothing."""

    def __call__(self, report: Progress) -> None:
        """Take one report.  Never raises: progress must not fail what it tells of."""

    def rest(self) -> None:
        """Leave the screen to what is printed now, until the next report."""

    def close(self) -> None:
        """Leave the screen to what comes next.  Idempotent."""


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Display]:
    """A display on standard error: bars when that is a terminal, else lines, with ``quiet`` nothing."""
    display = Display() if quiet else _Terminal() if _has_a_cursor() else _Lines()
    try:
        yield display
    finally:
        display.close()


def _has_a_cursor() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class _Shown(Display):
    """What was there already is only counted, and told in the end, after warnings."""

    def __init__(self) -> None:
        self._present: set[str] = set()
        self._unchanged: list[str] = []
        self._warnings: list[str] = []

    def _note(self, report: Progress) -> None:
        """Take note of what is told in the end."""
        if report.phase is Phase.WARNING:
            self._warnings.append(report.subject)
        elif report.already and report.phase is Phase.RESOLVE:
            self._unchanged.append(report.subject)
        elif report.already:
            self._present.add(report.subject)

    def close(self) -> None:
        for subject in self._warnings:
            say(f"warning: {safe(subject)}")
        for subject in self._unchanged:
            say(f"{safe(subject)} is unchanged")
        if self._present:
            say(f"{count(len(self._present), 'blob')} there already")
        for told in (self._warnings, self._unchanged, self._present):
            told.clear()


class _Lines(_Shown):
    """One line for each subject a phase is finished with."""

    def __init__(self) -> None:
        super().__init__()
        self._began: dict[tuple[Phase, str], float] = {}

    def __call__(self, report: Progress) -> None:
        key = (report.phase, report.subject)
        began = self._began.setdefault(key, time.monotonic())
        if not report.finished:
            return
        if report.already or report.phase is Phase.WARNING:
            self._note(report)
            return
        words = [_DONE[report.phase], safe(_short(report.subject))]
        if amount := report.total or report.done:
            words.append(size(amount) if report.phase is not Phase.COLLECT else f"({size(amount)})")
        took = time.monotonic() - began
        if report.phase is not Phase.COLLECT:
            words.append(f"in {duration(took)}")
        if took >= MEASURABLE and report.done > report.resumed:
            words.append(f"at {size((report.done - report.resumed) / took)}/s")
        if report.resumed:
            words.append(f"({size(report.resumed)} from an earlier attempt)")
        say(" ".join(words))


class _Phase:
    """All subjects of one phase together."""

    def __init__(self) -> None:
        self._reports: dict[str, Progress] = {}

    def take(self, report: Progress) -> None:
        self._reports[report.subject] = report

    @property
    def amounts(self) -> tuple[int, int | None]:
        """Bytes done and in all; None while any subject's size is unknown."""
        totals = [report.total for report in self._reports.values()]
        done = sum(report.done for report in self._reports.values())
        known = [total for total in totals if total is not None]
        return done, sum(known) if len(known) == len(totals) else None

    @property
    def finished(self) -> bool:
        return all(report.finished for report in self._reports.values())

    @property
    def words(self) -> str:
        """How far it is: ``3/7`` subjects, or the only one's name."""
        if len(self._reports) == 1:
            return safe(_short(next(iter(self._reports))))
        finished = sum(report.finished for report in self._reports.values())
        return f"{finished}/{len(self._reports)} layers"


class _Terminal(_Shown):
    """One bar for each phase.  Rich is imported with the first report: most commands never send one."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: Bars | None = None
        self._phases: dict[Phase, tuple[_Phase, TaskID]] = {}
        self._closed = False

    def __call__(self, report: Progress) -> None:
        if self._closed:
            return
        self._note(report)
        if report.phase is Phase.WARNING or (report.already and report.phase not in self._phases):
            return
        bars = self._bars = self._bars or self._started()
        if report.phase not in self._phases:
            subject = safe(_short(report.subject))
            task = bars.add_task(str(report.phase), total=None, subject=subject, counted=False)
            self._phases[report.phase] = _Phase(), task
        phase, task = self._phases[report.phase]
        phase.take(report)
        done, total = phase.amounts
        counted = bool(done or total)
        if phase.finished and total is None:
            done = total = done or 1
        bars.update(task, completed=done, total=total, subject=phase.words, counted=counted)

    @staticmethod
    def _started() -> Bars:
        from mesocosm.frontends.cli import bars  # noqa: PLC0415

        return bars.start()

    def rest(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._phases.clear()

    def close(self) -> None:
        self._closed = True
        self.rest()
        super().close()


def _short(subject: str) -> str:
    algorithm, colon, rest = subject.partition(":")
    return rest[:12] if colon and algorithm in ("sha256", "sha512") else subject
