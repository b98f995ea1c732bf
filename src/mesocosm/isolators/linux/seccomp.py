"""Which system calls the container may make (parity SEC-1, attack R-22).

A profile in Docker's format, compiled to the filter that seccomp(2) loads.  Rules that depend on capabilities
are decided by the container's bounding set.  Without a request the default profile holds, which denies what
docker's denies; there is no way to be unconfined but to say so.
"""

from __future__ import annotations

import base64

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.granted import granted
from mesocosm.isolators.linux.profiles import load_default
from mesocosm.linux import capabilities, seccomp
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
        compiled = seccomp.compile_profile(
            load_default() if asked == "default" else _parse(asked),
            capabilities=frozenset(capabilities.names(bounding)),
        )
        summary = _summary(compiled)
        return Contribution(
            steps=(LoadFilter(program=base64.b64encode(compiled.program).decode(), summary=summary),),
            warnings=tuple(_warnings(compiled)),
            notes=(f"system calls: {summary}",),
        )


def _parse(text: str) -> seccomp.Profile:
    if not text.lstrip().startswith("{"):
        # CVE-2023-2431: an empty or misspelt name must not mean unconfined
        raise InvalidConfig(
            f"seccomp profile {text[:64]!r} is not known",
            hint="give default, unconfined, or a profile's JSON text",
        )
    return seccomp.parse_profile(text.encode())


def _summary(compiled: seccomp.Filter) -> str:
    conditional, denied = len(compiled.conditional), len(compiled.denied)
    return f"{compiled.allowed} allowed, {conditional} on conditions, {denied} denied"


def _warnings(compiled: seccomp.Filter) -> list[str]:
    found = []
    if compiled.unknown:
        found.append(f"seccomp profile: unknown system calls are skipped: {', '.join(compiled.unknown)}")
    if compiled.flags:
        found.append("seccomp profile: its flags are not used")
    return found
