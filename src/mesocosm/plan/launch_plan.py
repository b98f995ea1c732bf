"""The launch plan: the joint where image, isolators and request meet.

Frozen, serialisable, printable, comparable.  What ``explain`` prints is what the child runs, because both
read this value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from mesocosm.errors import Corrupt, InvalidConfig, PlanConflict
from mesocosm.plan.contribution import Contribution
from mesocosm.plan.host_steps import AllowDevices, HostAction, WriteCgroup, WriteHostFile
from mesocosm.plan.operations import (
    BindMount,
    ChangeDirectory,
    EnterMounts,
    Execute,
    Gate,
    JoinCgroup,
    JoinNamespaces,
    LoadFilter,
    LoadFilterEarly,
    LookUpUser,
    MakeDevice,
    MountFilesystem,
    MountImage,
    NoNewPrivileges,
    Phase,
    SetRlimit,
    Step,
)

VERSION = 1
NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup", "time")

Named = Sequence[tuple[str, Contribution]]


class Part(msgspec.Struct, frozen=True):
    """One isolator's share, for people: its name, notes and warnings."""

    isolator: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that happens between the decision to launch and the payload's first instruction.

    ``container``   the container ID, printed
    ``namespaces``  kinds that are created with the child, in clone3
    ``host``        steps of the host's side, in order
    ``steps``       steps of the child, in order
    ``origins``     for each step the isolator it came from
    ``parts``       the isolators, in order
    """

    container: str
    namespaces: tuple[str, ...]
    host: tuple[HostAction, ...]
    steps: tuple[Step, ...]
    origins: tuple[str, ...]
    parts: tuple[Part, ...]
    version: int = VERSION

    @classmethod
    def compose(cls, container: str, contributions: Named) -> LaunchPlan:
        """Merge contributions, given in isolator order, into one plan.  Pure.

        Raises PlanConflict, naming both isolators, when two set the same singleton, mount on the same target,
        limit the same resource or write different values to one file; InvalidConfig when nothing is executed.
        """
        named = list(_in_order(contributions))
        named.append(("launch", Gate()))
        _check_steps(named)
        named = _place_filter(_merge_environment(named, contributions))
        named.sort(key=lambda pair: pair[1].phase)
        if not any(isinstance(step, Execute) for _, step in named):
            raise InvalidConfig("nothing to execute", hint="give a command, or an image that has one")
        asked = {kind for _, part in contributions for kind in part.namespaces}
        return cls(
            container=container,
            namespaces=tuple(kind for kind in NAMESPACES if kind in asked),
            host=_merge_host(contributions),
            steps=tuple(step for _, step in named),
            origins=tuple(name for name, _ in named),
            parts=tuple(Part(name, part.notes, part.warnings) for name, part in contributions),
        )

    def entering(
        self,
        *,
        pid: int,
        start_time: int,
        arguments: tuple[str, ...],
        environment: tuple[str, ...] = (),
        workdir: str | None = None,
        user: str | None = None,
    ) -> LaunchPlan:
        """The plan of a further process inside the container this plan started: ``exec``.

        The same cgroups, namespaces, limits, capabilities and filter (R-17, R-22, R-23); mounts are there
        already.  ``pid`` and ``start_time`` identify the container's first process.  ``environment`` is added
        to the container's and wins.
        """
        kept: list[tuple[str, Step]] = []
        for name, step in zip(self.origins, self.steps, strict=True):
            if step.phase in _ENTRY_PHASES:
                kept.append((name, _entry_step(step, arguments, environment, workdir, user)))
        joined = tuple(kind for kind in self.namespaces if kind != "mnt")
        kept.append(("launch", JoinNamespaces(pid=pid, start_time=start_time, kinds=joined)))
        if "mnt" in self.namespaces:
            kept.append(("launch", EnterMounts(pid=pid)))
        kept.sort(key=lambda pair: pair[1].phase)
        return msgspec.structs.replace(
            self,
            namespaces=(),
            host=(),
            steps=tuple(step for _, step in kept),
            origins=tuple(name for name, _ in kept),
        )

    @property
    def execute(self) -> Execute:
        """The last step."""
        return next(step for step in self.steps if isinstance(step, Execute))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the isolators warned of."""
        return tuple(warning for part in self.parts for warning in part.warnings)

    def to_json(self) -> bytes:
        """The plan as one JSON document."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> LaunchPlan:
        """Read ``to_json``'s output back.  Raises Corrupt."""
        try:
            plan = msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise Corrupt(f"launch plan cannot be read: {error}") from error
        if plan.version != VERSION:
            raise Corrupt(f"launch plan has version {plan.version}, this program knows {VERSION}")
        return plan


# exec enters what stands: cgroups are joined again, the file system is not assembled again, host name and
# loopback belong to namespaces that exist.
_ENTRY_PHASES = frozenset(Phase) - {Phase.KERNEL, Phase.ROOT, Phase.FILESYSTEM, Phase.MASK, Phase.ENTER}


def _entry_step(
    step: Step,
    arguments: tuple[str, ...],
    environment: tuple[str, ...],
    workdir: str | None,
    user: str | None,
) -> Step:
    if isinstance(step, Execute):
        merged = merge_environment(step.environment, environment)
        return Execute(arguments=arguments, environment=merged)
    if isinstance(step, LookUpUser) and user is not None:
        return LookUpUser(user=user, groups=step.groups)
    if isinstance(step, ChangeDirectory) and workdir is not None:
        return ChangeDirectory(target=workdir)
    return step


def merge_environment(low: Iterable[str], high: Iterable[str]) -> tuple[str, ...]:
    """Two lists of ``KEY=VALUE``, the second one winning, each key once, in order of first appearance."""
    merged: dict[str, str] = {}
    for entry in (*low, *high):
        merged[entry.partition("=")[0]] = entry
    return tuple(merged.values())


def _in_order(contributions: Named) -> Iterator[tuple[str, Step]]:
    """Every step with its isolator; a volume may lie in another isolator's, so all of them are sorted."""
    volumes = [(name, volume) for name, part in contributions for volume in part.volumes]
    volumes.sort(key=lambda pair: pair[1].target.count("/"))
    for name, part in contributions:
        yield from ((name, step) for step in part.steps)
        if part.volumes:
            yield from volumes
            volumes = []


def _merge_environment(named: list[tuple[str, Step]], contributions: Named) -> list[tuple[str, Step]]:
    seen: dict[str, tuple[str, str]] = {}
    for name, part in contributions:
        for entry in part.environment:
            key = entry.partition("=")[0]
            if key in seen and seen[key][1] != entry:
                raise PlanConflict(f"environment variable {key}", seen[key][0], name)
            seen[key] = (name, entry)
    base = [entry for _, entry in seen.values()]
    return [
        (name, msgspec.structs.replace(step, environment=merge_environment(base, step.environment)))
        if isinstance(step, Execute)
        else (name, step)
        for name, step in named
    ]


def _place_filter(named: list[tuple[str, Step]]) -> list[tuple[str, Step]]:
    # seccomp(2): without no_new_privs the load needs CAP_SYS_ADMIN, so it must come before it is dropped.
    if any(isinstance(step, NoNewPrivileges) for _, step in named):
        return named
    return [
        (name, LoadFilterEarly(program=step.program, summary=step.summary))
        if isinstance(step, LoadFilter)
        else (name, step)
        for name, step in named
    ]


def _check_steps(named: list[tuple[str, Step]]) -> None:
    owners: dict[str, str] = {}
    for name, step in named:
        key = _claim(step)
        if key is None:
            continue
        if key in owners:
            raise PlanConflict(key, owners[key], name)
        owners[key] = name


def _claim(step: Step) -> str | None:
    """What a step lays claim to, so that nobody else may; None where several may."""
    if step.singleton:
        # the three kinds of root step exclude each other
        return "the root file system" if step.phase is Phase.ROOT and "root" in _tag(step) else _tag(step)
    if isinstance(step, MountFilesystem | BindMount | MountImage | MakeDevice):
        return f"mount on {step.target.rstrip('/') or '/'}"
    if isinstance(step, SetRlimit):
        return f"limit {step.name}"
    if isinstance(step, JoinCgroup):
        return f"cgroup {step.source}"
    return None


def _tag(step: Step) -> str:
    return str(step.__struct_config__.tag)


def _merge_host(contributions: Named) -> tuple[HostAction, ...]:
    written: dict[str, tuple[str, HostAction]] = {}
    merged: list[HostAction] = []
    for name, part in contributions:
        for step in part.host:
            key = _host_claim(step)
            if key in written:
                owner, earlier = written[key]
                if earlier != step:
                    raise PlanConflict(key, owner, name)
                continue
            written[key] = (name, step)
            merged.append(step)
    return tuple(merged)


def _host_claim(step: HostAction) -> str:
    if isinstance(step, WriteCgroup):
        return f"{step.controller}:{step.file}"
    if isinstance(step, WriteHostFile):
        return step.path
    if isinstance(step, AllowDevices):
        return "the device list"
    return step.describe()


__all__ = ["NAMESPACES", "VERSION", "LaunchPlan", "Named", "Part", "merge_environment"]
