"""What a container may use."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from mesocosm.errors import InvalidConfig
from mesocosm.model.size import size

MEMORY_FLOOR = 4 << 20  # below this the launching child is killed before it reaches exec
CPU_FLOOR = 0.01  # the kernel refuses a CFS quota under 1 ms per 100 ms period


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and requests of one container.  None means: not limited, the kernel's default.

    ``cpus``            limit in processors' worth of time per second, at least 0.01
    ``cpu_shares``      weight against siblings, 2 … 262144, the kernel's default is 1024
    ``memory``          limit in bytes, at least 4 MiB
    ``memory_request``  bytes the kernel tries to leave to the container under pressure
    ``memory_swap``     limit of memory and swap together in bytes, not below ``memory``
    ``pids``            limit of processes and threads, at least 1
    """

    cpus: float | None = None
    cpu_shares: int | None = None
    memory: int | None = None
    memory_request: int | None = None
    memory_swap: int | None = None
    pids: int | None = None

    def __post_init__(self) -> None:
        if self.cpus is not None:
            if not math.isfinite(self.cpus):
                raise InvalidConfig(f"cpus: {self.cpus} is not a number of processors")
            _within("cpus", self.cpus, CPU_FLOOR, 1 << 16)
        _within("cpu shares", self.cpu_shares, 2, 262144)
        _within("memory", self.memory, MEMORY_FLOOR, 1 << 62, size)
        _within("memory request", self.memory_request, 0, 1 << 62, size)
        _within("memory and swap", self.memory_swap, self.memory or MEMORY_FLOOR, 1 << 62, size)
        _within("pids", self.pids, 1, 1 << 22)


def _within(
    name: str, value: float | None, low: float, high: float, words: Callable[[float], str] = str
) -> None:
    if value is None or low <= value <= high:
        return
    bound = f"less than {words(low)}, the least" if value < low else f"more than {words(high)}, the most"
    raise InvalidConfig(f"{name}: {words(value)} is {bound}")
