"""The steps between fork and exec, as data.

A step carries no authority: it names what to do, ``launch/child.py`` does it, ``describe`` says it to people.
Each kind belongs to one phase; phases run in the order of ``Phase``, and within a phase the isolators' order
decides, then the order inside one contribution.  That fixes the order of security-relevant acts once, for
run, exec, nested containers and every frontend (the 23 steps of parity §6).

Paths called ``target`` are inside the container: absolute, resolved beneath its root by the kernel, never
through a link that leaves it.  Paths called ``source`` are the host's.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import msgspec

from mesocosm.model.idmap import IDMap


class Phase(IntEnum):
    """When a step runs."""

    CGROUP = 1  # before anything is allocated: the limits hold from the first byte on
    JOIN = 2  # enter namespaces that exist
    KERNEL = 3  # host name, loopback: state of the new namespaces
    ROOT = 4  # propagation cut, root file system assembled and held
    FILESYSTEM = 5  # mounts, devices, links and files beneath the held root
    MASK = 6  # paths hidden or made read-only, after every mount that could lie over them
    LOOKUP = 7  # users and groups read from the held root, by descriptor
    ENTER = 8  # pivot_root, or setns into a mount namespace: from here on raw system calls only
    LIMITS = 9  # keyring, rlimits, umask
    DIRECTORY = 10  # working directory, checked against escape (CVE-2024-21626)
    EARLY_FILTER = 11  # a system call filter without no_new_privs needs CAP_SYS_ADMIN to load
    IDENTITY = 12  # groups, user, capabilities, no_new_privs
    GATE = 13  # held here until told to start: this is the state CREATED
    FILTER = 14  # a system call filter with no_new_privs: as late as possible
    EXEC = 15


class Operation(msgspec.Struct, frozen=True, kw_only=True, tag_field="op"):
    """Base of all steps.  ``singleton`` kinds may come from one isolator only."""

    phase: ClassVar[Phase]
    singleton: ClassVar[bool] = False

    def describe(self) -> str:
        """The step in one line, for ``explain`` and for launch errors."""
        raise NotImplementedError


def _owners(idmap: IDMap | None) -> str:
    return "" if idmap is None else f", owners mapped by {idmap.describe()}"


class JoinCgroup(Operation, frozen=True, kw_only=True, tag="join-cgroup"):
    """Write ``0`` to a v1 ``tasks`` or v2 ``cgroup.procs`` file: the writer moves itself."""

    phase = Phase.CGROUP
    source: str

    def describe(self) -> str:
        return f"join cgroup {self.source.rpartition('/')[0]}"


class JoinNamespaces(Operation, frozen=True, kw_only=True, tag="join-namespaces"):
    """Enter namespaces of a living process, identified by pid and start time (clock ticks since boot).

    All but the mount namespace; the process' root directory becomes the held root.
    """

    phase = Phase.JOIN
    singleton = True
    pid: int
    start_time: int
    kinds: tuple[str, ...]

    def describe(self) -> str:
        return f"join the {', '.join(self.kinds)} namespaces of process {self.pid}"


class SetHostname(Operation, frozen=True, kw_only=True, tag="hostname"):
    """The host name inside the UTS namespace."""

    phase = Phase.KERNEL
    singleton = True
    name: str

    def describe(self) -> str:
        return f"set the host name to {self.name}"


class LoopbackUp(Operation, frozen=True, kw_only=True, tag="loopback-up"):
    """Bring ``lo`` up in the new network namespace."""

    phase = Phase.KERNEL
    singleton = True

    def describe(self) -> str:
        return "bring the loopback interface up"


class JoinKeyring(Operation, frozen=True, kw_only=True, tag="keyring"):
    """A session keyring of its own: keys of the caller's session stay out of reach (R-27)."""

    phase = Phase.LIMITS
    singleton = True
    name: str

    def describe(self) -> str:
        return f"start session keyring {self.name}"


class CutPropagation(Operation, frozen=True, kw_only=True, tag="cut-propagation"):
    """``/`` becomes a recursive slave (or private): no mount made here reaches the host (R-28)."""

    phase = Phase.ROOT
    singleton = True

    def describe(self) -> str:
        return "stop mounts from propagating to the host"


class OverlayRoot(Operation, frozen=True, kw_only=True, tag="overlay-root"):
    """The root is an overlay.  ``layers`` are directories of the host, top first.

    With ``upper`` and ``work`` (directories of one file system) it is writable; without, read-only: at least
    two layers then, and names that other steps need and no layer has are shown from memory.
    ``volatile`` skips syncing the upper layer, for containers whose changes go with them.  ``idmap`` shows
    the layers with other owners, each through an id-mapped mount of the child's own; ``upper`` is as it is.
    """

    phase = Phase.ROOT
    singleton = True
    layers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    volatile: bool = True
    idmap: IDMap | None = None

    def describe(self) -> str:
        what = f"read-only overlay of {len(self.layers)} directories"
        if self.upper is not None:
            what = f"writable overlay of {len(self.layers)} layer(s)"
        return f"mount the root: a {what}{_owners(self.idmap)}"


class BindRoot(Operation, frozen=True, kw_only=True, tag="bind-root"):
    """The root is a directory of the host, made a mount of its own, id-mapped with ``idmap``."""

    phase = Phase.ROOT
    singleton = True
    source: str
    read_only: bool = True
    idmap: IDMap | None = None

    def describe(self) -> str:
        suffix = f"{', read-only' if self.read_only else ''}{_owners(self.idmap)}"
        return f"mount the root: {self.source}{suffix}"


class HostRoot(Operation, frozen=True, kw_only=True, tag="host-root"):
    """The root is the host's own, copy-on-write: an overlay with ``/`` as lower layer.

    ``hidden`` paths do not exist in the view, ``emptied`` directories are there and empty.  ``submounts`` are
    host mount points of disk file systems that are shown too, each through an overlay of its own.  Changes go
    to ``upper`` (one directory per mount, made beneath it) and ``work``.  ``idmap`` as in OverlayRoot.
    """

    phase = Phase.ROOT
    singleton = True
    hidden: tuple[str, ...]
    submounts: tuple[str, ...]
    upper: str
    work: str
    emptied: tuple[str, ...] = ()
    idmap: IDMap | None = None

    def describe(self) -> str:
        count = len(self.hidden) + len(self.emptied)
        suffix = f"{count} path(s) hidden or empty{_owners(self.idmap)}"
        return f"mount the root: the host's own, copy-on-write, {suffix}"


class MakeFilesAs(Operation, frozen=True, kw_only=True, tag="make-files-as"):
    """What is made in the root from here on belongs to this user and group of the host: a mapping's root.

    Without it the host's root would own mount points, /dev and the like, whom the mapping does not know.
    """

    phase = Phase.ROOT
    singleton = True
    uid: int
    gid: int

    def describe(self) -> str:
        return f"make files as user {self.uid}, group {self.gid}"


class MountFilesystem(Operation, frozen=True, kw_only=True, tag="mount"):
    """A new file system (proc, sysfs, tmpfs, devpts, mqueue, cgroup2) on ``target``, made if missing.

    ``options`` are the file system's own ``key`` or ``key=value`` strings, ``flags`` among ro, nosuid, nodev,
    noexec, noatime, nosymfollow.  proc and sysfs go onto real directories only (R-07).  ``trusted`` as in
    BindMount.
    """

    phase = Phase.FILESYSTEM
    fstype: str
    target: str
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    target_mode: int = 0o755
    trusted: bool = False

    def describe(self) -> str:
        words = ", ".join((*self.flags, *self.options))
        return f"mount {self.fstype} on {self.target}{f' ({words})' if words else ''}"


class BindMount(Operation, frozen=True, kw_only=True, tag="bind"):
    """A file or directory of the host on ``target``; the target is made as the same kind if missing.

    ``flags`` as in MountFilesystem; ``ro`` applies to every mount below when ``recursive`` (R-40).
    ``trusted`` marks targets below /proc and /sys that only our own isolators may cover (R-07).  ``idmap``
    makes it an id-mapped mount.
    """

    phase = Phase.FILESYSTEM
    source: str
    target: str
    recursive: bool = True
    flags: tuple[str, ...] = ()
    propagation: str = "private"
    trusted: bool = False
    idmap: IDMap | None = None

    def describe(self) -> str:
        words = ", ".join((*self.flags, *(() if self.propagation == "private" else (self.propagation,))))
        suffix = f"{f' ({words})' if words else ''}{_owners(self.idmap)}"
        return f"show host path {self.source} at {self.target}{suffix}"


class MountImage(Operation, frozen=True, kw_only=True, tag="mount-image"):
    """An image on ``target``, assembled as a root is; only its ``subpath`` where that is not empty.

    The subpath is resolved within the image, as a process with the image as its root would.  ``reference``
    is for people, ``flags`` as in MountFilesystem.
    """

    phase = Phase.FILESYSTEM
    root: OverlayRoot | BindRoot
    reference: str
    target: str
    subpath: str = ""
    flags: tuple[str, ...] = ()

    def describe(self) -> str:
        part = f"/{self.subpath} of " if self.subpath else ""
        words = f" ({', '.join(self.flags)})" if self.flags else ""
        owners = _owners(self.root.idmap)
        return f"show {part}image {self.reference} at {self.target}{words}{owners}"


class KeepWritable(Operation, frozen=True, kw_only=True, tag="keep-writable"):
    """A directory of the root as a mount of its own, made if missing: a read-only root leaves it writable.

    What is mounted there already stays as it is.
    """

    phase = Phase.FILESYSTEM
    target: str

    def describe(self) -> str:
        return f"keep {self.target} writable, whatever the root is"


class MakeDirectory(Operation, frozen=True, kw_only=True, tag="directory"):
    """A directory beneath the root, with what is missing above it; one that is there stays as it is."""

    phase = Phase.FILESYSTEM
    target: str
    mode: int = 0o755

    def describe(self) -> str:
        return f"make directory {self.target}"


class MakeSymlink(Operation, frozen=True, kw_only=True, tag="symlink"):
    """A symbolic link; an existing entry of that name stays."""

    phase = Phase.FILESYSTEM
    target: str
    points_to: str

    def describe(self) -> str:
        return f"link {self.target} to {self.points_to}"


class MakeDevice(Operation, frozen=True, kw_only=True, tag="device"):
    """A character (``c``) or block (``b``) device node below /dev.

    Where mknod is refused, or the root read-only, the host's node of the same number is bound there.
    """

    phase = Phase.FILESYSTEM
    target: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666

    def describe(self) -> str:
        return f"make device {self.target} ({self.kind} {self.major}:{self.minor})"


class MaskPath(Operation, frozen=True, kw_only=True, tag="mask"):
    """Hide a path: an empty read-only directory over directories, the null device over files; absent is fine.

    The null device is taken from the host and checked, never from the image (R-09).
    """

    phase = Phase.MASK
    target: str

    def describe(self) -> str:
        return f"hide {self.target}"


class ReadOnlyPath(Operation, frozen=True, kw_only=True, tag="read-only"):
    """Make a path below the root read-only, with everything mounted beneath; absent is fine (R-14)."""

    phase = Phase.MASK
    target: str

    def describe(self) -> str:
        return f"make {self.target} read-only"


class ReadOnlyMount(Operation, frozen=True, kw_only=True, tag="read-only-mount"):
    """Make the mount on a path read-only; mounts below it keep their own flags, and no mount is fine."""

    phase = Phase.MASK
    target: str

    def describe(self) -> str:
        return f"make what is mounted at {self.target} read-only"


class ReadOnlyRoot(Operation, frozen=True, kw_only=True, tag="read-only-root"):
    """Make the root mount itself read-only; mounts below it keep their own flags."""

    phase = Phase.MASK
    singleton = True

    def describe(self) -> str:
        return "make the root read-only"


class LookUpUser(Operation, frozen=True, kw_only=True, tag="look-up-user"):
    """Find uid, gid and supplementary groups of ``user`` (``name|uid[:group|gid]``) in the root's
    /etc/passwd and /etc/group, read by descriptor and bounded (R-18, R-19, R-20).  Without a root (host file
    system) the same files of the host are read.  ``groups``, names or gids, are added."""

    phase = Phase.LOOKUP
    singleton = True
    user: str
    groups: tuple[str, ...] = ()

    def describe(self) -> str:
        added = f", and add group {', '.join(self.groups)}" if self.groups else ""
        return f"look up user {self.user} in the image{added}"


class EnterRoot(Operation, frozen=True, kw_only=True, tag="enter-root"):
    """pivot_root into the held root and detach the old one."""

    phase = Phase.ENTER
    singleton = True

    def describe(self) -> str:
        return "make the root this process' root and let the host's go"


class EnterMounts(Operation, frozen=True, kw_only=True, tag="enter-mounts"):
    """Enter the mount namespace, and with it the root, of the process that JoinNamespaces holds."""

    phase = Phase.ENTER
    singleton = True
    pid: int

    def describe(self) -> str:
        return f"enter the mount namespace and root of process {self.pid}"


class SetRlimit(Operation, frozen=True, kw_only=True, tag="rlimit"):
    """One resource limit; None is unlimited.  What the kernel refuses to raise is clamped, with a warning."""

    phase = Phase.LIMITS
    name: str
    soft: int | None
    hard: int | None

    def describe(self) -> str:
        soft, hard = ("unlimited" if limit is None else str(limit) for limit in (self.soft, self.hard))
        return f"limit {self.name} to {soft} (at most {hard})"


class SetUmask(Operation, frozen=True, kw_only=True, tag="umask"):
    """The file mode mask of the payload."""

    phase = Phase.LIMITS
    singleton = True
    mask: int = 0o022

    def describe(self) -> str:
        return f"set the file mode mask to {self.mask:03o}"


class ChangeDirectory(Operation, frozen=True, kw_only=True, tag="working-directory"):
    """Make the working directory if missing (mode 0755), enter it, and check that it lies in the root."""

    phase = Phase.DIRECTORY
    singleton = True
    target: str

    def describe(self) -> str:
        return f"work in {self.target}"


class SetUser(Operation, frozen=True, kw_only=True, tag="user"):
    """Become the user that LookUpUser found: setgroups, setresgid, setresuid, verified afterwards."""

    phase = Phase.IDENTITY
    singleton = True

    def describe(self) -> str:
        return "become that user"


class SetCapabilities(Operation, frozen=True, kw_only=True, tag="capabilities"):
    """The five sets as bit masks (capabilities(7)).

    ``inheritable`` and ``ambient`` are empty unless asked for (R-17).  A user other than root keeps only what
    is ambient.
    """

    phase = Phase.IDENTITY
    singleton = True
    bounding: int
    permitted: int
    effective: int
    inheritable: int = 0
    ambient: int = 0

    def describe(self) -> str:
        return f"keep {self.bounding.bit_count()} capabilities (bounding set {self.bounding:016x})"


class NoNewPrivileges(Operation, frozen=True, kw_only=True, tag="no-new-privileges"):
    """Set no_new_privs (prctl(2)): execve gains nothing from set-user-ID bits or file capabilities (R-21)."""

    phase = Phase.IDENTITY
    singleton = True

    def describe(self) -> str:
        return "give up gaining privileges through set-user-ID programs"


class LoadFilter(Operation, frozen=True, kw_only=True, tag="syscall-filter"):
    """Install a compiled system call filter; ``program`` is its BPF code in base 64."""

    phase = Phase.FILTER
    singleton = True
    program: str
    summary: str

    def describe(self) -> str:
        return f"load the system call filter: {self.summary}"


class LoadFilterEarly(Operation, frozen=True, kw_only=True, tag="syscall-filter-early"):
    """The same filter, loaded while CAP_SYS_ADMIN is still held, because no_new_privs is off."""

    phase = Phase.EARLY_FILTER
    singleton = True
    program: str
    summary: str

    def describe(self) -> str:
        return f"load the system call filter (no_new_privs is off): {self.summary}"


class Gate(Operation, frozen=True, kw_only=True, tag="gate"):
    """Report that all is set up and wait to be told to start."""

    phase = Phase.GATE
    singleton = True

    def describe(self) -> str:
        return "wait for the start"


class Execute(Operation, frozen=True, kw_only=True, tag="execute"):
    """Replace the process by the payload.

    A program without a slash is looked for in the environment's PATH, with raw calls.  HOME is set from the
    looked-up user when ``environment`` lacks it.  With ``init`` the first process stays as a reaper that
    forwards signals, and the payload is its child.
    """

    phase = Phase.EXEC
    singleton = True
    arguments: tuple[str, ...]
    environment: tuple[str, ...] = ()
    init: bool = False

    def describe(self) -> str:
        return f"execute {self.arguments[0]}{' under an init' if self.init else ''}"


Step = (
    JoinCgroup
    | JoinNamespaces
    | SetHostname
    | LoopbackUp
    | JoinKeyring
    | CutPropagation
    | OverlayRoot
    | BindRoot
    | HostRoot
    | MakeFilesAs
    | MountFilesystem
    | BindMount
    | MountImage
    | KeepWritable
    | MakeDirectory
    | MakeSymlink
    | MakeDevice
    | MaskPath
    | ReadOnlyPath
    | ReadOnlyMount
    | ReadOnlyRoot
    | LookUpUser
    | EnterRoot
    | EnterMounts
    | SetRlimit
    | SetUmask
    | ChangeDirectory
    | SetUser
    | SetCapabilities
    | NoNewPrivileges
    | LoadFilter
    | LoadFilterEarly
    | Gate
    | Execute
)

RootStep = OverlayRoot | BindRoot | HostRoot
VolumeStep = MountFilesystem | BindMount | MountImage | KeepWritable
