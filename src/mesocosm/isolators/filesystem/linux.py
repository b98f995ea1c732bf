"""A root file system of the container's own, with the mounts that Linux programs expect in it.

Owns the mount namespace, the way into the root, /proc, /sys, /dev, what of them is hidden or read-only, and
the generated files of /etc (parity FS-2 … FS-6, attacks §1.7).  Volumes are volume/host_path's: where one
covers a mount of ours, ours is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.filesystem import etc
from mesocosm.isolators.volume.targets import covers, normal
from mesocosm.isolators.words import size
from mesocosm.model.idmap import IDMap
from mesocosm.plan import Contribution, Step
from mesocosm.plan.operations import (
    BindMount,
    CutPropagation,
    EnterRoot,
    HostRoot,
    JoinKeyring,
    MakeDevice,
    MakeFilesAs,
    MakeSymlink,
    MaskPath,
    MountFilesystem,
    OverlayRoot,
    ReadOnlyPath,
    ReadOnlyRoot,
    SetUmask,
)

CGROUPS = "/sys/fs/cgroup"
LOCKED = ("nosuid", "nodev", "noexec")

DEVICES = (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
"""Memory devices by minor number; their major is 1 (the kernel's devices.txt)."""

LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
)

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
"""Kernel secrets, side channels and hardware (CVE-2017-16539, CVE-2018-10892, CVE-2015-3630, PLATYPUS)."""

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_CPU = re.compile(r"cpu[0-9]+", re.ASCII)


class LinuxFilesystem(Isolator):
    """The mount namespace and everything in it but volumes."""

    name = "filesystem/linux"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The root and its mounts.  Raises InvalidConfig without a root to assemble."""
        if container.root is None:
            raise InvalidConfig("filesystem/linux needs an image to make a root file system of")
        taken = frozenset(normal(mount.target) for mount in container.config.mounts)
        files = tuple(path for path in etc.FILES if not covers(taken, path))
        return Contribution(
            namespaces=("mnt",),
            host=etc.host_steps(container, self.paths, files),
            steps=(
                CutPropagation(),
                container.root,
                *_owner(container.config.idmap),
                *_not_covered(self._mounts(container), taken),
                *etc.mounts(container, self.paths, files),
                *_protections(container, self._has_v1),
                EnterRoot(),
                JoinKeyring(name=f"_ses.{container.id}"),
                SetUmask(),
            ),
            notes=_notes(container),
        )

    @property
    def _has_v1(self) -> bool:
        return self.host.cgroups.layout.mode != "v2"

    def _mounts(self, container: Container) -> Iterator[_Mount]:
        yield MountFilesystem(fstype="proc", target="/proc", flags=LOCKED)
        yield MountFilesystem(fstype="sysfs", target="/sys", flags=("ro", *LOCKED))
        yield from self._cgroup_view(container)
        yield from _dev(container)

    def _cgroup_view(self, container: Container) -> Iterator[_Mount]:
        """The container's own cgroups, read-only (parity CG-4, attack R-25).

        On v1 each controller's isolator shows its own below the directory made here.
        """
        group = self.host.cgroups.tracking(str(container.id))
        place = CGROUPS
        if self._has_v1:
            yield MountFilesystem(
                fstype="tmpfs",
                target=CGROUPS,
                options=("mode=755", "size=64k"),
                flags=LOCKED,
                trusted=True,
            )
            place = f"{CGROUPS}/{'unified' if group.version == 2 else 'freezer'}"
        yield BindMount(source=group.path, target=place, recursive=False, flags=("ro", *LOCKED), trusted=True)


def _owner(idmap: IDMap | None) -> Iterator[Step]:
    """What is made for a container whose owners are mapped is its root's."""
    if idmap is not None and idmap.owner is not None:
        yield MakeFilesAs(uid=idmap.owner[0], gid=idmap.owner[1])


_Mount = MountFilesystem | BindMount | MakeDevice | MakeSymlink


def _dev(container: Container) -> Iterator[_Mount]:
    yield MountFilesystem(
        fstype="tmpfs", target="/dev", options=("mode=755", "size=64m", "nr_inodes=4096"), flags=("nosuid",)
    )
    yield MountFilesystem(
        fstype="devpts",
        target="/dev/pts",
        options=("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        flags=("nosuid", "noexec"),
    )
    yield from _shared_memory(container)
    for name, minor in DEVICES:
        yield MakeDevice(target=f"/dev/{name}", kind="c", major=1, minor=minor)
    yield MakeDevice(target="/dev/tty", kind="c", major=5, minor=0)
    for target, points_to in LINKS:
        yield MakeSymlink(target=target, points_to=points_to)


def _shared_memory(container: Container) -> Iterator[_Mount]:
    if container.config.namespaces.ipc == "host":
        for target in ("/dev/shm", "/dev/mqueue"):
            if Path(target).is_dir():
                yield BindMount(source=target, target=target, flags=LOCKED)
        return
    yield MountFilesystem(
        fstype="tmpfs",
        target="/dev/shm",
        options=("mode=1777", f"size={container.config.shm_size}"),
        flags=LOCKED,
    )
    if "mqueue" in _file_systems():
        yield MountFilesystem(fstype="mqueue", target="/dev/mqueue", flags=LOCKED)


@cache
def _file_systems() -> frozenset[str]:
    """What this kernel can mount, proc_filesystems(5); message queues are a kernel's option."""
    return frozenset(Path("/proc/filesystems").read_text().split())


def _not_covered(mounts: Iterable[_Mount], taken: frozenset[str]) -> Iterator[_Mount]:
    return (mount for mount in mounts if not covers(taken, mount.target))


def _protections(container: Container, has_v1: bool) -> Iterator[Step]:
    yield from (MaskPath(target=target) for target in (*MASKED, *_thermal_throttle()))
    yield from (ReadOnlyPath(target=target) for target in READ_ONLY)
    if has_v1:
        yield ReadOnlyPath(target=CGROUPS)
    if container.config.read_only:
        yield ReadOnlyRoot()


def _thermal_throttle() -> tuple[str, ...]:
    """Where a processor tells how often it ran hot: a side channel to what others compute."""
    root = Path("/sys/devices/system/cpu")
    found = (path / "thermal_throttle" for path in root.iterdir() if _CPU.fullmatch(path.name))
    return tuple(sorted(str(path) for path in found if path.is_dir()))


def _notes(container: Container) -> tuple[str, ...]:
    root = container.root
    writable = not container.config.read_only
    kind = "read-only"
    if isinstance(root, HostRoot):
        kind = f"the host's, copy-on-write, {len(root.hidden)} paths hidden" + (
            "" if writable else ", read-only"
        )
    elif isinstance(root, OverlayRoot) and writable and root.upper is not None:
        kind = f"{len(root.layers)} layer{'' if len(root.layers) == 1 else 's'}, writable"
    notes = [f"root: {kind}"]
    if container.config.idmap is not None:
        notes.append(f"owners mapped by {container.config.idmap.describe()}")
    if container.config.root_changes is not None:
        notes.append(f"root changes: kept in {container.config.root_changes.path}")
    if container.config.namespaces.ipc != "host":
        notes.append(f"/dev/shm: {size(container.config.shm_size)}")
    return tuple(notes)
