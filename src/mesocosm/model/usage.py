"""What a container uses, as the kernel counts it."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One reading.  Each isolator answers its part; None means nobody measured it (parity API-5, IF-8).

    Times in seconds, sizes in bytes.  ``timestamp`` is seconds since the epoch.
    """

    timestamp: float | None = None
    cpu_seconds: float | None = None
    cpu_user_seconds: float | None = None
    cpu_system_seconds: float | None = None
    cpu_limit: float | None = None
    cpu_shares: int | None = None
    cpu_periods: int | None = None
    cpu_throttled_periods: int | None = None
    cpu_throttled_seconds: float | None = None
    memory: int | None = None
    memory_peak: int | None = None
    memory_limit: int | None = None
    memory_anon: int | None = None
    memory_file: int | None = None
    memory_kernel: int | None = None
    memory_swap: int | None = None
    oom_kills: int | None = None
    pids: int | None = None
    pids_peak: int | None = None
    pids_limit: int | None = None
    pids_refused: int | None = None

    def merge(self, other: Usage) -> Usage:
        """This reading completed by another's parts; ``other`` wins where both measured."""
        parts = {name: getattr(other, name) for name in other.__struct_fields__}
        return msgspec.structs.replace(self, **{k: v for k, v in parts.items() if v is not None})
