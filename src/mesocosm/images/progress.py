"""Progress as values: the image side says what happens, whoever passed the callable decides how to show
it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec


class Phase(enum.StrEnum):
    """What is being done to one subject."""

    RESOLVE = "resolve"
    DOWNLOAD = "download"
    VERIFY = "verify"
    UNPACK = "unpack"
    COMPRESS = "compress"
    UPLOAD = "upload"
    COLLECT = "collect"
    WARNING = "warning"


class Progress(msgspec.Struct, frozen=True):
    """One report.  ``subject`` is a blob digest, a reference while resolving, what was collected
    and why, or a warning's text.

    ``done`` and ``total`` count bytes (``total`` None: not known).  ``resumed`` of the ``done`` bytes were
    there from an earlier attempt.  ``already`` is true when nothing had to be done at all; ``finished`` on
    the phase's last report for this subject.
    """

    phase: Phase
    subject: str
    done: int = 0
    total: int | None = None
    resumed: int = 0
    already: bool = False
    finished: bool = False


Report = Callable[[Progress], None]
"""Takes every report, on the event loop's thread; must return at once and not raise."""


def silent(_: Progress) -> None:
    """The report that shows nothing."""
