"""Which isolators there are, in which order they stand, and which ones a container is composed of.

``ORDER`` is the order of ``prepare``, and reversed of ``cleanup``, whatever order they are named in (parity
CFG-5).  Later ones may rely on what earlier ones contributed.  Isolators of other distributions follow the
built-in ones; they come as entry points of the group ``mesocosm.isolators`` whose name is the isolator's.

Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.isolators.base import Isolator
from mesocosm.isolators.words import nearest
from mesocosm.model import ContainerConfig, ImageMount

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "mesocosm.isolators"

ORDER = {
    "filesystem/posix": "PosixFilesystem",
    "filesystem/linux": "LinuxFilesystem",
    "cgroups/cpu": "Cpu",
    "cgroups/mem": "Memory",
    "cgroups/pids": "Pids",
    "cgroups/devices": "Devices",
    "linux/rlimits": "Rlimits",
    "image/runtime": "Runtime",
    "linux/capabilities": "Capabilities",
    "linux/nnp": "NoNewPrivileges",
    "namespaces/ipc": "IpcNamespace",
    "namespaces/pid": "PidNamespace",
    "namespaces/uts": "UtsNamespace",
    "namespaces/net": "NetNamespace",
    "namespaces/cgroup": "CgroupNamespace",
    "volume/host_path": "HostPath",
    "volume/image": "ImageVolumes",
    "linux/seccomp": "Seccomp",
}
"""The built-in isolators with the name of the class; the module is the name with dots."""

WITHOUT_IMAGE = tuple(
    name
    for name in ORDER
    if not name.startswith("volume/")
    and name not in ("filesystem/linux", "namespaces/pid", "namespaces/cgroup")
)
"""The default set on the host's own file system: all that needs no mount of its own."""

WITH_IMAGE = tuple(name for name in ORDER if name != "filesystem/posix")
"""The default set with an image: everything."""

ALIASES = {
    "docker/runtime": ("image/runtime",),
    "appc/runtime": ("image/runtime",),
    "posix/rlimits": ("linux/rlimits",),
    "cgroups/memory": ("cgroups/mem",),
    "volume/bind": ("volume/host_path",),
    "cgroups": ("cgroups/cpu", "cgroups/mem"),
    "cgroups/all": ("cgroups/cpu", "cgroups/mem", "cgroups/pids", "cgroups/devices"),
}
"""Other words for isolators, Mesos' own among them; a word for several may overlap with others."""

_ASKING: dict[str, tuple[str, Callable[[ContainerConfig], bool]]] = {
    "cgroups/cpu": (
        "a limit or weight of processor time",
        lambda c: c.resources.cpus is not None or c.resources.cpu_shares is not None,
    ),
    "cgroups/mem": (
        "a memory limit or request",
        lambda c: any(
            amount is not None
            for amount in (c.resources.memory, c.resources.memory_request, c.resources.memory_swap)
        ),
    ),
    "cgroups/pids": ("a limit of processes", lambda c: c.resources.pids is not None),
    "linux/rlimits": ("a resource limit", lambda c: bool(c.rlimits)),
    "linux/capabilities": (
        "a change of capabilities",
        lambda c: bool(c.capabilities.add or c.capabilities.drop),
    ),
    "linux/seccomp": (
        "a system call filter profile",
        lambda c: c.seccomp not in ("default", "unconfined"),
    ),
    "namespaces/uts": ("a host name", lambda c: c.hostname is not None),
    "volume/host_path": (
        "a volume",
        lambda c: any(not isinstance(mount, ImageMount) for mount in c.mounts),
    ),
    "volume/image": (
        "an image as a volume",
        lambda c: any(isinstance(mount, ImageMount) for mount in c.mounts),
    ),
}
"""What a request asks of one isolator only: without it, the request would be forgotten in silence."""


def names() -> tuple[str, ...]:
    """Every isolator that is installed, in order."""
    return (*ORDER, *sorted(set(_foreign()) - set(ORDER)))


def load(name: str) -> type[Isolator]:
    """The class of an isolator.  Raises NotFound when there is none of that name (any more)."""
    if name in ORDER:
        module = importlib.import_module(f"mesocosm.isolators.{name.replace('/', '.')}")
        found: type[Isolator] = getattr(module, ORDER[name])
        return found
    points = _foreign().get(name)
    if points is None:
        raise NotFound(f"no isolator is called {name!r}", hint=nearest(name, names()))
    return _load_foreign(name, points)


def choose(config: ContainerConfig) -> tuple[str, ...]:
    """The names of the isolators a container is composed of, in order.

    ``config.isolation`` names them: built-in, foreign, aliases, and ``default`` for the default set; empty
    means ``default``.  What every container needs is added: the file system isolator that the image calls
    for, ``image/runtime``, and volumes where there is a root to mount them in (CFG-2, CFG-3).

    Raises InvalidConfig for unknown names, duplicates (CFG-1), two file systems, a missing requirement, or a
    request that no chosen isolator would honour.
    """
    chosen = _complete(_expand(config), config)
    _check_filesystem(chosen, config)
    ordered = (*(name for name in ORDER if name in chosen), *_ordered_foreign(chosen - set(ORDER)))
    _check_requirements(ordered)
    check_requests(ordered, config)
    return ordered


def _expand(config: ContainerConfig) -> set[str]:
    chosen: set[str] = set()
    single: set[str] = set()
    for word in config.isolation or ("default",):
        found = _meaning(word.strip(), config)
        if len(found) == 1:
            if found[0] in single:
                raise InvalidConfig(f"isolator {found[0]} is named twice", hint="name each one once")
            single.add(found[0])
        chosen.update(found)
    return chosen


def _meaning(word: str, config: ContainerConfig) -> tuple[str, ...]:
    if word == "default":
        return WITHOUT_IMAGE if config.image is None else WITH_IMAGE
    if word in ALIASES:
        return ALIASES[word]
    if word in ORDER or word in _foreign():
        return (word,)
    raise InvalidConfig(
        f"no isolator is called {word!r}",
        hint=nearest(word, (*names(), *ALIASES)) or f"there are {', '.join(names())}",
    )


def _complete(chosen: set[str], config: ContainerConfig) -> set[str]:
    added = {"image/runtime"}
    if not any(name.startswith("filesystem/") for name in chosen):
        added.add("filesystem/posix" if config.image is None else "filesystem/linux")
    if "filesystem/linux" in chosen | added:
        added |= {"volume/host_path", "volume/image"}
    return chosen | added


def _check_filesystem(chosen: set[str], config: ContainerConfig) -> None:
    filesystems = sorted(name for name in chosen if name.startswith("filesystem/"))
    if len(filesystems) > 1:
        raise InvalidConfig(f"{' and '.join(filesystems)} exclude each other", hint="choose one of them")
    if filesystems == ["filesystem/posix"] and config.image is not None:
        raise InvalidConfig(
            f"filesystem/posix gives no root file system to image {config.image}",
            hint="choose filesystem/linux, or give no image",
        )
    if filesystems == ["filesystem/linux"] and config.image is None:
        raise InvalidConfig(
            "filesystem/linux needs an image",
            hint="give one, or choose filesystem/posix to use the host's files",
        )


def _check_requirements(ordered: tuple[str, ...]) -> None:
    for position, name in enumerate(ordered):
        for required in load(name).requires:
            if required not in ordered[:position]:
                raise InvalidConfig(
                    f"isolator {name} requires {required}", hint=f"choose {required} too, or leave {name} out"
                )


def check_requests(ordered: tuple[str, ...], config: ContainerConfig) -> None:
    """Raises InvalidConfig for a request that none of these isolators would honour."""
    for name, (what, asks) in _ASKING.items():
        if name not in ordered and asks(config):
            raise InvalidConfig(
                f"{what} is asked for, but isolator {name} is not chosen", hint=f"add {name} to the isolation"
            )


def _foreign() -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points  # noqa: PLC0415

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _load_foreign(name: str, points: list[EntryPoint]) -> type[Isolator]:
    if len({point.value for point in points}) > 1:
        owners = " and ".join(sorted(point.dist.name if point.dist else point.value for point in points))
        raise InvalidConfig(f"isolator {name} comes from {owners}", hint="uninstall one of them")
    try:
        found = points[0].load()
    except Exception as error:
        raise InvalidConfig(f"isolator {name} cannot be loaded from {points[0].value}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Isolator) and getattr(found, "name", None) == name):
        raise InvalidConfig(f"{points[0].value} is not an isolator called {name}")
    return found


def _ordered_foreign(chosen: Iterable[str]) -> Iterator[str]:
    """By name, each after those of them that it requires."""
    waiting = sorted(chosen)
    while waiting:
        ready = next((n for n in waiting if not set(load(n).requires) & (set(waiting) - {n})), None)
        if ready is None:
            raise InvalidConfig(f"isolators {', '.join(waiting)} require each other")
        waiting.remove(ready)
        yield ready
