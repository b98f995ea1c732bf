"""The containers there are, found out at the least cost that is still the truth."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mesocosm import reports
from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli.context import opened, paths_of
from mesocosm.launch.session import evidence
from mesocosm.lifecycle import State
from mesocosm.linux.processes import boot_id
from mesocosm.paths import Paths
from mesocosm.records import Record, Records
from mesocosm.reports import Report


async def containers(ctx: click.Context) -> tuple[Report, ...]:
    """Every container, oldest first; what has ended unwatched is cleaned up first."""
    found = settled(paths_of(ctx))
    if found is not None:
        return found
    async with opened(ctx) as containerizer:
        return containerizer.list()


def settled(paths: Paths) -> tuple[Report, ...] | None:
    """Every container as recorded; None when a record and its processes disagree: recovery's work."""
    records, damaged = Records(paths).all()
    if damaged or not all(_stands(record, paths) for record in records):
        return None
    return tuple(reports.of(record) for record in records)


def _stands(record: Record, paths: Paths) -> bool:
    if record.state is State.DESTROYED:
        return True
    if record.state not in (State.CREATED, State.RUNNING) or record.intent.boot_id != boot_id():
        return False
    return evidence(paths.container(record.id).supervisor).alive


class Filter:
    """``--filter KEY=VALUE``: those of one key are alternatives, different keys hold together."""

    KEYS = ("name", "id", "status", "label", "image")

    def __init__(self, words: Sequence[str]) -> None:
        self._wanted: dict[str, list[str]] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if key not in self.KEYS or not equals:
                raise InvalidConfig(
                    f"--filter: {word!r} is not known", hint=f"KEY=VALUE with {', '.join(self.KEYS)}"
                )
            if key == "status" and value not in STATUSES:
                raise InvalidConfig(f"--filter: no status {value!r}", hint=f"one of {', '.join(STATUSES)}")
            self._wanted.setdefault(key, []).append(value)

    @property
    def asks_for_ended(self) -> bool:
        """Whether a status is asked for that only ended containers have."""
        return any(status in ("exited", "destroyed") for status in self._wanted.get("status", ()))

    def admits(self, report: Report) -> bool:
        """Whether a container is among those asked for."""
        return all(any(_matches(key, one, report) for one in values) for key, values in self._wanted.items())


STATUSES = (
    "created",
    "running",
    "exited",
    *(str(state) for state in State if state not in ("created", "running")),
)
"""The states, and docker's word for an ended container."""


def _matches(key: str, value: str, report: Report) -> bool:
    if key == "name":
        return value in (report.name or "")
    if key == "id":
        return report.id.startswith(value)
    if key == "status":
        return report.state == ("destroyed" if value == "exited" else value)
    if key == "image":
        return value in (report.config.image, report.image.reference if report.image else None)
    name, equals, wanted = value.partition("=")
    return name in report.config.labels and (not equals or report.config.labels[name] == wanted)
