"""What is told of a container: its record in the words of its users."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mesocosm.lifecycle import State
from mesocosm.model import ContainerConfig, ImageIdentity, Resources, Termination
from mesocosm.records import Process, Record


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known of one container.

    ``volumes`` the images mounted in it, by target;
    ``resources`` the limits now in force; ``phases`` seconds each step of the start took; ``warnings`` what
    was asked but could not be had in full; ``failures`` what a clean-up could not give back yet;
    ``isolators`` each isolator's own words, for running containers.  Times in seconds since the epoch.
    """

    id: str
    name: str | None
    state: State
    config: ContainerConfig
    resources: Resources
    created_at: float
    image: ImageIdentity | None = None
    volumes: dict[str, ImageIdentity] = {}
    isolation: tuple[str, ...] = ()
    process: Process | None = None
    supervisor: Process | None = None
    started_at: float | None = None
    phases: dict[str, float] = {}
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    termination: Termination | None = None
    isolators: Mapping[str, Mapping[str, str]] = {}


def of(record: Record) -> Report:
    """A record as a report."""
    status = record.status
    return Report(
        id=str(record.id),
        name=record.config.name,
        state=status.state,
        config=record.config,
        resources=status.resources or record.config.resources,
        created_at=record.intent.created_at,
        image=status.image,
        volumes=status.volumes,
        isolation=status.isolation,
        process=status.process,
        supervisor=status.supervisor,
        started_at=status.started_at,
        phases=status.phases,
        warnings=status.warnings,
        failures=status.failures,
        termination=record.termination,
    )


def with_isolators(report: Report, parts: Mapping[str, Mapping[str, str]]) -> Report:
    """The report with the isolators' own words."""
    told = {name: dict(words) for name, words in parts.items() if words}
    return msgspec.structs.replace(report, isolators=told)
