"""Progress for programs: one JSON object a line on standard output, in the order things happen.

    {"event": "progress", "phase": "download", "subject": "sha256:…", "done": 1048576, "total": 3000000,
     "resumed": 0, "already": false, "finished": false}
    {"event": "pulled", "image": "debian:12", "digest": "sha256:…"}
    {"event": "failed", "image": "debian:13", "code": "not-found", "message": "…"}

Between a subject's first and last report there are at most ten a second.
"""

from __future__ import annotations

import time
from typing import Final

import click
import msgspec

from mesocosm.errors import MesocosmError
from mesocosm.frontends.cli.progress import Display
from mesocosm.images.progress import Phase, Progress

INTERVAL: Final = 0.1


class Events(Display):
    """Writes reports as events."""

    def __init__(self) -> None:
        self._told: dict[tuple[Phase, str], float] = {}

    def __call__(self, report: Progress) -> None:
        """Write a report, unless the last of its subject is too recent."""
        key, now = (report.phase, report.subject), time.monotonic()
        if not report.finished and now - self._told.get(key, -INTERVAL) < INTERVAL:
            return
        self._told[key] = now
        _write({"event": "progress", **msgspec.to_builtins(report)})


def tell(event: str, image: str, **facts: object) -> None:
    """Write what became of an image."""
    _write({"event": event, "image": image, **facts})


def tell_failure(image: str, error: MesocosmError) -> None:
    """Write why something did not come about."""
    tell("failed", image, code=error.code, message=str(error))


def _write(event: dict[str, object]) -> None:
    click.echo(msgspec.json.encode(event).decode())
