"""What the host's side does before the fork, as data: a container's cgroups, limits, files, directories.

The containerizer applies these in order and ``explain`` prints them; preparing touches nothing else of the
host.  All of them may be applied twice.
"""

from __future__ import annotations

import msgspec


class HostStep(msgspec.Struct, frozen=True, kw_only=True, tag_field="op"):
    """Base of the host-side steps."""

    def describe(self) -> str:
        """The step in one line."""
        raise NotImplementedError


class MakeCgroup(HostStep, frozen=True, kw_only=True, tag="make-cgroup"):
    """The container's cgroup in the hierarchy that serves ``controller``.

    ``controller`` is a controller's v2 name (cpu, memory, pids, devices, cpuset, io …), or ``tree`` for the
    hierarchy that holds the process tree together (cgroup2, else the v1 freezer).
    """

    controller: str

    def describe(self) -> str:
        return f"make the container's {self.controller} cgroup"


class WriteCgroup(HostStep, frozen=True, kw_only=True, tag="write-cgroup"):
    """Write ``value`` to ``file`` of the container's cgroup for ``controller``."""

    controller: str
    file: str
    value: str

    def describe(self) -> str:
        return f"write {self.value} to {self.controller}:{self.file}"


class AllowDevices(HostStep, frozen=True, kw_only=True, tag="allow-devices"):
    """Refuse every device but these rules, each ``kind major:minor access`` as in ``c 1:3 rwm``.

    ``*`` stands for any number.  v1 writes devices.deny and devices.allow, v2 attaches a BPF program (parity
    §3.3 devices, R-24).
    """

    rules: tuple[str, ...]

    def describe(self) -> str:
        return f"refuse all devices but {len(self.rules)} rule(s)"


class MakeHostDirectory(HostStep, frozen=True, kw_only=True, tag="host-directory"):
    """A directory on the host, with what is missing above it."""

    path: str
    mode: int = 0o700

    def describe(self) -> str:
        return f"make host directory {self.path}"


class WriteHostFile(HostStep, frozen=True, kw_only=True, tag="host-file"):
    """A small file on the host, replaced as a whole; ``owner`` is a user and a group, None for ourselves."""

    path: str
    content: str
    mode: int = 0o644
    owner: tuple[int, int] | None = None

    def describe(self) -> str:
        return f"write host file {self.path}"


HostAction = MakeCgroup | WriteCgroup | AllowDevices | MakeHostDirectory | WriteHostFile
