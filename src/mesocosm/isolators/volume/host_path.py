"""Volumes: files and directories of the host, and empty file systems in memory (parity VOL-H).

Unless asked otherwise a volume takes no set-user-ID programs and no devices into account, because somebody on
the host may use what a container leaves there (attack R-41); docker allows both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.volume.targets import BIND, PROC_FILES, TMPFS, checked, flags, unshared
from mesocosm.isolators.words import size
from mesocosm.linux.mountinfo import MountEntry, read_mountinfo
from mesocosm.model import HostPathMount, IDMap, TmpfsMount
from mesocosm.plan import Contribution, HostAction, MakeHostDirectory
from mesocosm.plan.operations import BindMount, MountFilesystem

Own = HostPathMount | TmpfsMount
"""The mounts that are ours."""


class HostPath(Isolator):
    """The request's mounts of these two kinds."""

    name = "volume/host_path"
    requires = ("filesystem/linux",)
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """One mount step each.

        Raises InvalidConfig for targets, options and propagation that cannot be, NotFound for a source that
        does not exist.
        """
        asked = container.config.mounts
        unshared(asked)
        mounts = {checked(mount.target): mount for mount in asked if isinstance(mount, Own)}
        return Contribution(
            host=tuple(_sources(mounts.values())),
            volumes=tuple(_step(target, mount, container) for target, mount in mounts.items()),
            notes=tuple(_note(target, mount) for target, mount in mounts.items()),
        )


def _sources(mounts: Iterable[Own]) -> Iterable[HostAction]:
    for mount in mounts:
        if isinstance(mount, HostPathMount):
            source = _source(mount)
            if mount.create_source and not os.path.lexists(source):
                yield MakeHostDirectory(path=source, mode=0o755)


def _source(mount: HostPathMount) -> str:
    if not mount.source.startswith("/") or "\0" in mount.source:
        raise InvalidConfig(f"volume source {mount.source!r} is not an absolute path")
    if not mount.create_source and not Path(mount.source).exists():
        raise NotFound(
            f"volume source {mount.source} does not exist", hint=f"make it first: mkdir -p {mount.source}"
        )
    return mount.source


def _step(target: str, mount: Own, container: Container) -> BindMount | MountFilesystem:
    if isinstance(mount, TmpfsMount):
        options = (f"mode={mount.mode:o}", *(() if mount.size is None else (f"size={mount.size}",)))
        return MountFilesystem(fstype="tmpfs", target=target, options=options, flags=flags(mount, TMPFS))
    idmap = _idmap(target, mount, container)
    if mount.propagation != "private":
        _check_propagation(mount)
    return BindMount(
        source=mount.source,
        target=target,
        recursive=mount.recursive,
        flags=flags(mount, BIND),
        propagation=mount.propagation,
        trusted=target in PROC_FILES,
        idmap=idmap,
    )


def _idmap(target: str, mount: HostPathMount, container: Container) -> IDMap | None:
    if mount.idmap is None:
        return None
    if mount.propagation != "private":
        raise InvalidConfig(
            f"volume on {target}: what {mount.propagation} propagation brings in would not be mapped",
            hint="leave out the idmap or the propagation",
        )
    mapping = container.config.idmap if mount.idmap == "root" else mount.idmap
    if mapping is None:
        raise InvalidConfig(
            f"volume on {target}: the container has no idmap that this volume could share",
            hint="say which: idmap=0-100000-65536, or give the container one with --idmap",
        )
    if mapping.reaches_root and "suid" in mount.options:
        raise InvalidConfig(
            f"volume on {target}: set-user-ID programs of others would become the host's root's",
            hint="leave out suid, or map to other IDs than 0",
        )
    return mapping


def _check_propagation(mount: HostPathMount) -> None:
    """mount_namespaces(7): only what is shared on the host can be a peer, or a master to a slave."""
    entry = _mount_of(os.path.realpath(mount.source))
    kinds = {field.partition(":")[0] for field in entry.propagation} if entry else set()
    if "shared" not in kinds:
        where = entry.mount_point if entry else mount.source
        raise InvalidConfig(
            f"volume {mount.source}: mounts cannot propagate, {where} is not shared on the host",
            hint=f"mount --make-shared {where}, or leave the propagation out",
        )


def _mount_of(path: str) -> MountEntry | None:
    """The mount that a real path lies in: the last of the longest."""
    best: MountEntry | None = None
    for entry in read_mountinfo():
        point = entry.mount_point
        inside = point == "/" or path == point or path.startswith(point + "/")
        if inside and (best is None or len(point) >= len(best.mount_point)):
            best = entry
    return best


def _note(target: str, mount: Own) -> str:
    suffix = ", read-only" if mount.read_only else ""
    if isinstance(mount, TmpfsMount):
        return f"memory at {target}: {'half of all' if mount.size is None else size(mount.size)}{suffix}"
    if mount.idmap is not None:
        suffix += ", owners as the root's" if mount.idmap == "root" else f", owners {mount.idmap.describe()}"
    return f"volume at {target}: {mount.source}{suffix}"
