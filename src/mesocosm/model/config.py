"""What is asked of a container, before anything has been looked up or done."""

from __future__ import annotations

from typing import Literal

import msgspec

from mesocosm.errors import InvalidConfig
from mesocosm.model.idmap import IDMap, require_root
from mesocosm.model.ids import check_name
from mesocosm.model.resources import Resources

PULL_POLICIES = ("missing", "always", "newer", "never")


class HostPathMount(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="bind"):
    """A file or directory of the host shown in the container (parity VOL-H).

    ``source`` and ``target`` are absolute.  With ``create_source`` a missing source becomes a directory.
    ``propagation`` is the mount's relation to the host's: ``private``, ``slave`` (host to container) or
    ``shared`` (both ways; the source must lie on a shared mount).  ``idmap`` shows the files with other
    owners, ``"root"`` with those that the root's mapping gives them; nothing changes on the host.
    """

    source: str
    target: str
    read_only: bool = False
    recursive: bool = True
    create_source: bool = False
    propagation: Literal["private", "slave", "shared"] = "private"
    options: tuple[str, ...] = ()  # any of nosuid, nodev, noexec, and their opposites suid, dev, exec
    idmap: IDMap | Literal["root"] | None = None


class TmpfsMount(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="tmpfs"):
    """An empty file system in memory.  ``size`` in bytes, ``mode`` the root directory's permission bits."""

    target: str
    size: int | None = None
    mode: int = 0o1777
    read_only: bool = False
    options: tuple[str, ...] = ()


class ImageMount(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="image"):
    """An image's files, or the part of them at ``subpath``, in the container (parity VOL, GAP-24).

    ``source`` is a reference, as the root's; ``platform`` None is the container's.  Unless ``read_only``,
    changes are the container's own and go with it.
    """

    source: str
    target: str
    subpath: str = ""
    platform: str | None = None
    read_only: bool = True
    options: tuple[str, ...] = ()  # as HostPathMount's

    def __post_init__(self) -> None:
        if not self.source or "\0" in self.source:
            raise InvalidConfig(f"the image to be mounted on {self.target} has no name")
        parts = self.subpath.split("/")
        if "\0" in self.subpath or self.subpath.startswith("/") or ".." in parts:
            raise InvalidConfig(
                f"subpath {self.subpath!r} is not a path within the image", hint="as in subpath=usr/share"
            )


Mount = HostPathMount | TmpfsMount | ImageMount


class RootChanges(msgspec.Struct, frozen=True):
    """Keep the changes to the root in the directory ``path``, beyond the container.

    They fit the image that they were made to; ``rebase`` lays them over another one.
    """

    path: str
    rebase: bool = False


class Rlimit(msgspec.Struct, frozen=True):
    """One resource limit: name as in ``nofile``; None stands for unlimited (parity RL-1)."""

    name: str
    soft: int | None
    hard: int | None


class CapabilityRequest(msgspec.Struct, frozen=True):
    """Names with or without ``CAP_``, or ``ALL``; drops apply before additions, as docker has it."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class NamespaceModes(msgspec.Struct, frozen=True, kw_only=True):
    """Which namespaces are the container's own.  ``net``: ``none`` is a namespace with loopback only."""

    pid: Literal["private", "host"] = "private"
    ipc: Literal["private", "host"] = "private"
    uts: Literal["private", "host"] = "private"
    cgroup: Literal["private", "host"] = "private"
    net: Literal["none", "host"] = "none"


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A whole request for one container, as recorded.

    ``image``        an image reference; ``host`` is the host's own root, copy-on-write; None runs on the
                     host's file system itself (isolator ``filesystem/posix``)
    ``command``      arguments for, or in place of, the image's entrypoint (parity §4.5)
    ``entrypoint``   replaces the image's; an empty tuple removes it
    ``env``          ``KEY=VALUE`` strings; they win over the image's
    ``user``         ``name|uid[:group|gid]``; None takes the image's, and the groups that it adds
    ``groups``       further groups of the process, names or numbers, looked up in the image
    ``root_changes`` where changes to the root stay; None lets them go with the container
    ``idmap``        owners of the root's files, mapped to IDs of the host that are not its root's
    ``seccomp``      ``default``, ``unconfined`` or a profile's JSON text (Docker's format)
    ``isolation``    isolator names or aliases; empty takes the default set
    ``stop_timeout`` seconds between the stop signal and the kill
    """

    image: str | None = None
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    name: str | None = None
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    groups: tuple[str, ...] = ()
    hostname: str | None = None
    resources: Resources = Resources()
    isolation: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    root_changes: RootChanges | None = None
    idmap: IDMap | None = None
    capabilities: CapabilityRequest = CapabilityRequest()
    seccomp: str = "default"
    no_new_privileges: bool = True
    rlimits: tuple[Rlimit, ...] = ()
    shm_size: int = 64 << 20
    namespaces: NamespaceModes = NamespaceModes()
    init: bool = False
    stdin: bool = False
    labels: dict[str, str] = {}
    stop_signal: str | None = None
    stop_timeout: float = 10.0
    auto_remove: bool = False
    pull: Literal["missing", "always", "newer", "never"] = "missing"
    platform: str | None = None
    backend: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name(self.name)
        process = (*self.command, *(self.entrypoint or ()), *self.env, self.workdir or "", self.user or "")
        for text in (*process, *self.groups):
            if "\0" in text:
                raise InvalidConfig(f"{text!r} contains a zero byte")
        for entry in self.env:
            if "=" not in entry[1:]:
                raise InvalidConfig(f"environment entry {entry!r} is not KEY=VALUE")
        for mount in self.mounts:
            if not mount.target.startswith("/") or "\0" in mount.target:
                raise InvalidConfig(f"mount target {mount.target!r} is not an absolute path")
        if self.workdir and not self.workdir.startswith("/"):
            raise InvalidConfig(f"working directory {self.workdir!r} is not an absolute path")
        self._check_root_changes()
        self._check_idmap()
        self._check_backend()
        if self.stop_timeout < 0:
            raise InvalidConfig(f"stop timeout {self.stop_timeout} is negative")
        if not 0 <= self.shm_size < 1 << 62:
            raise InvalidConfig(f"shm size {self.shm_size} is out of range")

    def _check_idmap(self) -> None:
        if self.idmap is None:
            return
        require_root(self.idmap, "idmap")
        if self.image is None:
            raise InvalidConfig("without an image the root is the host's own: its owners cannot be mapped")

    def _check_backend(self) -> None:
        images = self.image is not None or any(isinstance(mount, ImageMount) for mount in self.mounts)
        if self.backend is not None and not images:
            raise InvalidConfig("without an image the root is the host's own: no backend makes it")

    def _check_root_changes(self) -> None:
        changes = self.root_changes
        if changes is None:
            return
        if not changes.path.startswith("/") or "\0" in changes.path:
            raise InvalidConfig(f"the directory for root changes {changes.path!r} is not an absolute path")
        if self.read_only:
            raise InvalidConfig("a read-only root has no changes to keep")
        if self.image is None:
            raise InvalidConfig("without an image the root is the host's own: there are no changes to keep")
