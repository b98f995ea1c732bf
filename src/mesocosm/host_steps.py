"""Doing what a launch plan says for the host's side: cgroups, limits, directories, files.

Every step may be done twice.  The kernel's refusals are raised in words.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from mesocosm.errors import InvalidConfig, MesocosmError, Unsupported
from mesocosm.isolators.cgroups.limits import refusal
from mesocosm.isolators.host import Host
from mesocosm.linux.devices import DeviceRule, allow_only
from mesocosm.model import ContainerID
from mesocosm.plan import (
    AllowDevices,
    Contribution,
    HostAction,
    MakeCgroup,
    MakeHostDirectory,
    Step,
    WriteCgroup,
    WriteHostFile,
)
from mesocosm.plan.operations import JoinCgroup

TREE = "tree"


def process_tree(container: ContainerID, host: Host) -> Contribution:
    """The cgroup that holds a container's processes together, whatever its isolators are."""
    group = host.cgroups.tracking(str(container))
    # Into a v2 cgroup the process is born (clone3, CLONE_INTO_CGROUP); the v1 freezer it has to join.
    joining: tuple[Step, ...] = (JoinCgroup(source=f"{group.path}/tasks"),) if group.version == 1 else ()
    return Contribution(host=(MakeCgroup(controller=TREE),), steps=joining)


def apply(steps: Iterable[HostAction], container: ContainerID, host: Host) -> None:
    """Do ``steps`` in order, all cgroups first, for they are made as one.

    Raises Unsupported for what this host lacks or refuses us, InvalidConfig for values that the kernel
    refuses, Exhausted when it has no room.
    """
    steps = tuple(steps)
    controllers = [step.controller for step in steps if isinstance(step, MakeCgroup)]
    if controllers:
        _make_cgroups(container, [name for name in controllers if name != TREE], host)
    for step in steps:
        if isinstance(step, WriteCgroup):
            _write_cgroup(step, container, host)
        elif isinstance(step, AllowDevices):
            _allow_devices(step, container, host)
        elif isinstance(step, MakeHostDirectory):
            _make_directory(step)
        elif isinstance(step, WriteHostFile):
            _write_file(step)


def _make_cgroups(container: ContainerID, controllers: list[str], host: Host) -> None:
    try:
        host.cgroups.create(str(container), controllers)
    except OSError as error:
        raise Unsupported(
            f"cannot make cgroup {error.filename}: {error.strerror}",
            hint="run as root, or have a cgroup delegated; `mesocosm doctor` shows what is there",
        ) from error


def _write_cgroup(step: WriteCgroup, container: ContainerID, host: Host) -> None:
    group = host.cgroups.of(str(container), step.controller)
    try:
        group.write(step.file, step.value)
    except OSError as error:
        if error.errno == errno.ENOENT and group.exists():
            raise Unsupported(
                f"this kernel has no {step.file}", hint=f"it is needed to {step.describe()}"
            ) from error
        raise refusal(error, group.path, step.file, step.value) from error


def _allow_devices(step: AllowDevices, container: ContainerID, host: Host) -> None:
    group = host.cgroups.of(str(container), "devices")
    try:
        allow_only(group, [DeviceRule.parse(rule) for rule in step.rules])
    except OSError as error:
        raise Unsupported(
            f"the device list of {group.path} cannot be set: {error.strerror}",
            hint="run as root outside of a container, or choose the isolation without cgroups/devices",
        ) from error


def _make_directory(step: MakeHostDirectory) -> None:
    try:
        _make_with_parents(step.path, step.mode)
    except OSError as error:
        raise _host_error("make directory", step.path, error) from error


def _make_with_parents(path: str, mode: int) -> None:
    if os.path.isdir(path):  # noqa: PTH112
        return
    parent = os.path.dirname(path.rstrip("/"))  # noqa: PTH120
    if parent and parent != path:
        _make_with_parents(parent, mode)
    try:
        os.mkdir(path, mode)  # noqa: PTH102
    except FileExistsError:
        if not os.path.isdir(path):  # noqa: PTH112
            raise
        return
    os.chmod(path, mode)  # noqa: PTH101


def _write_file(step: WriteHostFile) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(step.path, flags, step.mode)
        with os.fdopen(descriptor, "wb") as file:
            if step.owner is not None:
                os.fchown(descriptor, *step.owner)
            os.fchmod(descriptor, step.mode)
            file.write(step.content.encode())
    except OSError as error:
        raise _host_error("write", step.path, error) from error


def _host_error(verb: str, path: str, error: OSError) -> MesocosmError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Unsupported(f"not allowed to {verb} {path}: {error.strerror}", hint="run as root")
    return InvalidConfig(f"cannot {verb} {path}: {error.strerror}")
