"""Limits of each process: open files, stack, core dumps and so on, setrlimit(2) (parity RL-1).

Core dumps are off unless asked for: the soft limit of ``core`` is 0, the hard one stays.  A host whose
``core_pattern`` is a pipe ignores that limit, except when it is 1 (core(5)).
"""

from __future__ import annotations

from collections.abc import Iterator

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.words import nearest
from mesocosm.linux import rlimits
from mesocosm.model import Rlimit
from mesocosm.plan import Contribution
from mesocosm.plan.operations import SetRlimit


class Rlimits(Isolator):
    """What the kernel refuses to raise is clamped when the container starts, with a warning."""

    name = "linux/rlimits"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """One step a limit.  Raises InvalidConfig for unknown names and for soft limits above hard ones."""
        steps = {step.name: step for step in _steps(container.config.rlimits)}
        if len(steps) < len(container.config.rlimits):
            raise InvalidConfig("a resource limit is given twice", hint="give each one once")
        notes = [f"{step.name}: {_shown(step.soft)}" for step in steps.values()]
        if "core" not in steps:
            steps["core"] = SetRlimit(name="core", soft=0, hard=_bound(rlimits.get("core")[1]))
            notes.append("core dumps: off")
        return Contribution(steps=tuple(steps.values()), notes=tuple(notes))


def _steps(asked: tuple[Rlimit, ...]) -> Iterator[SetRlimit]:
    for limit in asked:
        try:
            name = rlimits.canonical(limit.name)
        except ValueError:
            raise InvalidConfig(
                f"no resource limit is called {limit.name!r}",
                hint=nearest(limit.name, rlimits.NUMBERS) or f"there are {', '.join(rlimits.NUMBERS)}",
            ) from None
        soft, hard = (rlimits.UNLIMITED if value is None else value for value in (limit.soft, limit.hard))
        if not 0 <= soft <= hard <= rlimits.UNLIMITED:
            raise InvalidConfig(f"limit {name}: {_shown(limit.soft)} is above {_shown(limit.hard)}")
        yield SetRlimit(name=name, soft=limit.soft, hard=limit.hard)


def _bound(value: int) -> int | None:
    return None if value == rlimits.UNLIMITED else value


def _shown(value: int | None) -> str:
    return "unlimited" if value is None else str(value)
