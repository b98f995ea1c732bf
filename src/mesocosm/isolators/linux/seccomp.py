"""Which system calls the container may make (parity SEC-1, attack R-22).

A profile in Docker's format, compiled to the filter that seccomp(2) loads.  Rules that depend on capabilities
are decided by the container's bounding set.  Without a request the default profile holds, which denies what
docker's denies; there is no way to be unconfined but to say so.
"""

from __future__ import annotations

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.granted import granted
from mesocosm.isolators.linux.filters import Compiled, compiled, default_filter
from mesocosm.plan import Contribution
from mesocosm.plan.operations import LoadFilter


class Seccomp(Isolator):
    """The system call filter."""

    name = "linux/seccomp"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The compiled filter.  Raises InvalidConfig for a profile that cannot be read or compiled."""
        asked = container.config.seccomp
        if asked == "unconfined":
            return Contribution(notes=("system calls: unconfined",))
        bounding = granted(container.config.capabilities, self.host.capabilities)
        found = (
            default_filter(bounding, self.host.kernel) if asked == "default" else _compile(asked, bounding)
        )
        return Contribution(
            steps=(LoadFilter(program=found.program, summary=found.summary),),
            warnings=found.warnings,
            notes=(f"system calls: {found.summary}",),
        )


def _compile(text: str, bounding: int) -> Compiled:
    if not text.lstrip().startswith("{"):
        # CVE-2023-2431: an empty or misspelt name must not mean unconfined
        raise InvalidConfig(
            f"seccomp profile {text[:64]!r} is not known",
            hint="give default, unconfined, or a profile's JSON text",
        )
    return compiled(text.encode(), bounding)
