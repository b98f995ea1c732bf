"""Looking at containers: finding them, what is told of them, what they use, what they wrote.

Nothing is changed, and no container is locked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from mesocosm import durable, logs, reports
from mesocosm.engine import Engine
from mesocosm.errors import NotFound
from mesocosm.lifecycle import State
from mesocosm.model import ContainerID, Usage
from mesocosm.plan import LaunchPlan
from mesocosm.reports import Report
from mesocosm.setup import output_of
from mesocosm.teardown import usage_of


class Looking:
    """The part of a containerizer that only looks."""

    _engine: Engine

    def find(self, text: str) -> ContainerID:
        """The container meant by a name, an ID or the unique beginning of one.  Raises NotFound."""
        return self._engine.records.find(text)

    def list(self) -> tuple[Report, ...]:
        """Every container, oldest first."""
        records, _ = self._engine.records.all()
        return tuple(reports.of(record) for record in records)

    async def status(self, container: ContainerID) -> Report:
        """Everything known of one container, each isolator telling its part (API-6)."""
        record = self._engine.records.load(container)
        report = reports.of(record)
        if record.state not in (State.CREATED, State.RUNNING):
            return report
        parts = {
            isolator.name: await isolator.status(container) for isolator in self._engine.isolators_of(record)
        }
        return reports.with_isolators(report, parts)

    def plan(self, container: ContainerID) -> LaunchPlan:
        """The launch plan as it was run.  Raises NotFound when it is gone, as after a restart of the host."""
        try:
            return LaunchPlan.from_json(durable.read(self._engine.where(container).plan))
        except FileNotFoundError:
            raise NotFound(f"the launch plan of container {container} is gone") from None

    async def usage(self, container: ContainerID) -> Usage:
        """What it uses now, each isolator answering its part (API-5); the last reading when it has ended."""
        record = self._engine.records.load(container)
        if record.termination is not None:
            return record.termination.usage or Usage()
        return await usage_of(self._engine, record)

    def logs(
        self, container: ContainerID, *, follow: bool = False, since: float | None = None
    ) -> AsyncIterator[logs.Chunk]:
        """What the payload wrote, in order, with streams and times; with ``follow`` until it ends.

        ``since`` is in seconds since the epoch.
        """
        self._engine.records.load(container)
        where = self._engine.where(container)
        return logs.read(
            output_of(where),
            ended=(lambda: self._engine.launcher.wait(where.supervisor)) if follow else None,
            since=since,
        )
