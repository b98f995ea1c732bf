"""Bars on a terminal: one line for each phase, never longer than the terminal is wide."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from mesocosm.frontends.cli.layout import duration, share
from mesocosm.isolators.words import size


class Words(ProgressColumn):
    """What ``words`` says of a phase; cut where the terminal is too narrow, never wrapped."""

    def __init__(self, words: Callable[[Task], str], style: str = "", width: int | None = None) -> None:
        """``width``: the least; None for what can be cut."""
        super().__init__(Column(no_wrap=True, overflow="ellipsis", min_width=width))
        self._words = words
        self._style = style

    def render(self, task: Task) -> Text:
        """The words as they are: no markup."""
        return Text(self._words(task), style=self._style)


def start() -> Progress:
    """Bars on standard error, gone when they are stopped.

    Their tasks have the fields ``subject``, and ``counted``: whether it is bytes that they count.
    """
    bars = Progress(
        Words(lambda task: task.description, width=8),
        BarColumn(bar_width=None, table_column=Column(min_width=10, max_width=40, ratio=1)),
        Words(_bytes, "progress.download"),
        Words(lambda task: str(task.fields["subject"])),
        console=Console(stderr=True),
        transient=True,
    )
    bars.start()
    return bars


def _bytes(task: Task) -> str:
    """``31 % of 40.1 MiB, 5.2 MiB/s, 6 s left``; nothing of a phase that is not about bytes."""
    if not task.fields["counted"]:
        return ""
    done, total, left = int(task.completed), task.total, task.time_remaining
    words = [f"{share(done, total)} of {size(int(total))}" if total else size(done)]
    if speed := task.finished_speed or task.speed:
        words.append(f"{size(int(speed))}/s")
    if left:
        words.append(f"{left:.0f} s left" if left < 60 else f"{duration(left)} left")
    return ", ".join(words)
