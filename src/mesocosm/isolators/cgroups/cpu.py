"""Processor time: a weight against the neighbours and a limit of its own (parity §3.3 cpu, CG2-1).

The limit is CFS bandwidth over periods of 100 ms; a burner is held at it, nothing is killed.  The kernel
holds all state, so there is nothing to recover.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import msgspec

from mesocosm.isolators.base import Container
from mesocosm.isolators.cgroups import limits
from mesocosm.isolators.cgroups.controller import Controller
from mesocosm.isolators.words import processors
from mesocosm.linux.cgroups import Cgroup
from mesocosm.model import ContainerID, Resources, Usage
from mesocosm.plan import Contribution, WriteCgroup

PERIOD = 100_000  # microseconds
QUOTA_FLOOR = 1_000  # the kernel refuses less
DEFAULT_SHARES = 1024


def quota(cpus: float) -> int:
    """Microseconds of processor time in each period."""
    return max(QUOTA_FLOOR, round(cpus * PERIOD))


def weight(shares: int) -> int:
    """v2's ``cpu.weight`` (1 … 10000) for v1's shares (2 … 262144).

    The parabola through (2, 1), (1024, 100) and (262144, 10000) on logarithmic scales, so that both defaults
    meet (Kubernetes KEP-2254 as amended, runc 1.4).
    """
    power = math.log2(min(max(shares, 2), 262144))
    return math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34) - 1e-9)


def shares(weight_: int) -> int:
    """The other way round; exact for the defaults, else to within the weight's own coarseness."""
    power = (math.sqrt(125 * 125 + 4 * 612 * (math.log10(weight_) + 7 / 34)) - 125) / 2
    return round(2**power)


class _Files(msgspec.Struct, frozen=True):
    """One version's files: what to write, and where each reading is.

    ``period`` is written before ``limit``; ``counters`` are fields of Usage by file, key and divisor.
    """

    weight: str
    to_weight: Callable[[int], int]
    to_shares: Callable[[int], int]
    limit: str
    period: str | None
    limited: str
    unlimited: str
    counters: tuple[tuple[str, str, str, float], ...]
    numbers: tuple[tuple[str, str, float], ...] = ()


_V1 = _Files(
    weight="cpu.shares",
    to_weight=int,
    to_shares=int,
    period="cpu.cfs_period_us",
    limit="cpu.cfs_quota_us",
    limited="{}",
    unlimited="-1",
    counters=(
        ("cpu_periods", "cpu.stat", "nr_periods", 1),
        ("cpu_throttled_periods", "cpu.stat", "nr_throttled", 1),
        ("cpu_throttled_seconds", "cpu.stat", "throttled_time", 1e9),
    ),
    numbers=(
        ("cpu_seconds", "cpuacct.usage", 1e9),
        ("cpu_user_seconds", "cpuacct.usage_user", 1e9),
        ("cpu_system_seconds", "cpuacct.usage_sys", 1e9),
    ),
)
_V2 = _Files(
    weight="cpu.weight",
    to_weight=weight,
    to_shares=shares,
    period=None,
    limit="cpu.max",
    limited=f"{{}} {PERIOD}",
    unlimited=f"max {PERIOD}",
    counters=(
        ("cpu_seconds", "cpu.stat", "usage_usec", 1e6),
        ("cpu_user_seconds", "cpu.stat", "user_usec", 1e6),
        ("cpu_system_seconds", "cpu.stat", "system_usec", 1e6),
        ("cpu_periods", "cpu.stat", "nr_periods", 1),
        ("cpu_throttled_periods", "cpu.stat", "nr_throttled", 1),
        ("cpu_throttled_seconds", "cpu.stat", "throttled_usec", 1e6),
    ),
)
_FILES = {1: _V1, 2: _V2}


class Cpu(Controller):
    """The cpu controller, on v1 with cpuacct, which counts."""

    name = "cgroups/cpu"
    controller = "cpu"
    companions = ("cpuacct",)

    @property
    def _files(self) -> _Files:
        return _FILES[self.version]

    def prepare(self, container: Container) -> Contribution:
        """The group with its weight and limit, in force before the first process."""
        resources = container.config.resources
        asked = {self._files.weight: resources.cpu_shares, self._files.limit: resources.cpus}
        writes = (
            WriteCgroup(controller=self.controller, file=name, value=value)
            for name, value in self._writes(resources)
            if asked.get(name, resources.cpus) is not None
        )
        return Contribution(
            host=(*self.making(), *writes),
            steps=tuple(self.joining(container)),
            notes=tuple(_notes(resources)),
        )

    async def update(self, container: ContainerID, resources: Resources) -> None:
        """Put a new weight and limit in force; None is the kernel's default."""
        limits.put(self.living(container), tuple(self._writes(resources)))

    def _writes(self, resources: Resources) -> Iterator[tuple[str, str]]:
        files = self._files
        yield files.weight, str(files.to_weight(resources.cpu_shares or DEFAULT_SHARES))
        if files.period is not None:
            yield files.period, str(PERIOD)
        yield (
            files.limit,
            files.unlimited if resources.cpus is None else files.limited.format(quota(resources.cpus)),
        )

    async def usage(self, container: ContainerID) -> Usage:
        """Time used, and how often the limit held it back."""
        files = self._files
        try:
            group = self.group(container)
            found: dict[str, float | int | None] = dict(_counted(group, files))
            for field, name, unit in files.numbers:
                found[field] = self.group(container, "cpuacct").read_int(name) / unit
            found["cpu_shares"] = files.to_shares(group.read_int(files.weight))
            found["cpu_limit"] = _limit(group, files)
        except (FileNotFoundError, OSError):
            return Usage()
        return msgspec.convert(found, Usage)


def _counted(group: Cgroup, files: _Files) -> Iterator[tuple[str, float | int]]:
    tables: dict[str, Mapping[str, int]] = {}
    for field, name, key, unit in files.counters:
        table = tables.setdefault(name, group.read_table(name)) if name not in tables else tables[name]
        if key in table:
            yield field, table[key] if unit == 1 else table[key] / unit


def _limit(group: Cgroup, files: _Files) -> float | None:
    amount, _, period = group.read(files.limit).strip().partition(" ")
    if amount in ("max", "-1"):
        return None
    return int(amount) / int(period or group.read_int(files.period or ""))


def _notes(resources: Resources) -> Iterator[str]:
    if resources.cpus is not None:
        yield f"cpu: {processors(resources.cpus)}"
    if resources.cpu_shares is not None:
        yield f"cpu weight: {resources.cpu_shares} shares"
