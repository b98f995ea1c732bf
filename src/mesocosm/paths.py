"""Every path on disk.

    <root>/                            /var/lib/mesocosm, 0700, survives a reboot
        containers/<id>/
            container.json             the intent: configuration, name, boot ID; written once, first
            termination.json           how it ended; kept until the container is removed
            sandbox/                   the container's host directory
                stdout  stderr         what the payload wrote
                stdio.index            when, which stream, how many bytes
            root/upper  root/work      changes to the root file system
            etc/hosts hostname resolv.conf
        names/<name>                   symbolic link to the container's ID
        images/                        the image store, see docs/image-store.md

    <runtime>/                         /run/mesocosm, 0700, gone after a reboot, best on tmpfs
        containers/<id>/
            lock                       held (flock) by whoever is changing the container
            status.json                state, processes, what failed to be cleaned up
            plan.json                  the launch plan as it was run
            paused                     there while its processes are stopped, so that its root can be read
            supervisor/                the first process' supervisor
                lock                   held (flock) as long as the supervisor lives
                socket                 start, signal
                process.json           pid and start time of the supervisor and the payload
                exit.json              how the payload ended
            exec/<session>/            the same four files for each further process, and its output
        layers/<diff id>               the one mount of each layer on this host
        top/                           empty: what / looks like in read-only roots

A container ID with parents nests: ``containers/a/containers/b``.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import msgspec

from mesocosm.model.ids import ContainerID

ROOT = Path("/var/lib/mesocosm")
RUNTIME = Path("/run/mesocosm")


class SessionPaths(msgspec.Struct, frozen=True, dict=True):
    """The directory of one supervised process."""

    directory: Path

    @functools.cached_property
    def lock(self) -> Path:
        """Held by the supervisor while it lives."""
        return self.directory / "lock"

    @functools.cached_property
    def socket(self) -> Path:
        """Where the supervisor answers."""
        return self.directory / "socket"

    @functools.cached_property
    def process(self) -> Path:
        """Identities of supervisor and payload."""
        return self.directory / "process.json"

    @functools.cached_property
    def exit(self) -> Path:
        """How the payload ended."""
        return self.directory / "exit.json"


class ContainerPaths(msgspec.Struct, frozen=True, dict=True):
    """The two directories of one container: ``state`` survives a reboot, ``runtime`` does not."""

    state: Path
    runtime: Path

    @functools.cached_property
    def intent(self) -> Path:
        """The configuration as recorded before anything was done."""
        return self.state / "container.json"

    @functools.cached_property
    def termination(self) -> Path:
        """How it ended."""
        return self.state / "termination.json"

    @functools.cached_property
    def sandbox(self) -> Path:
        """The container's host directory."""
        return self.state / "sandbox"

    @functools.cached_property
    def scratch(self) -> Path:
        """Where a writable root keeps its changes."""
        return self.state / "root"

    @functools.cached_property
    def volumes(self) -> Path:
        """Where images that are mounted as volumes keep their changes, by number."""
        return self.scratch / "volumes"

    @functools.cached_property
    def etc(self) -> Path:
        """Generated files of /etc."""
        return self.state / "etc"

    @functools.cached_property
    def lock(self) -> Path:
        """Held by whoever is changing the container."""
        return self.runtime / "lock"

    @functools.cached_property
    def status(self) -> Path:
        """State, processes and failures."""
        return self.runtime / "status.json"

    @functools.cached_property
    def plan(self) -> Path:
        """The launch plan as run."""
        return self.runtime / "plan.json"

    @functools.cached_property
    def paused(self) -> Path:
        """There while its processes are stopped."""
        return self.runtime / "paused"

    @functools.cached_property
    def supervisor(self) -> SessionPaths:
        """Files of the first process' supervisor."""
        return SessionPaths(self.runtime / "supervisor")

    def session(self, name: str) -> SessionPaths:
        """Files of the supervisor of one further process."""
        return SessionPaths(self.runtime / "exec" / name)

    def sessions(self) -> list[SessionPaths]:
        """The further processes' directories that exist."""
        try:
            return [SessionPaths(entry) for entry in (self.runtime / "exec").iterdir()]
        except FileNotFoundError:
            return []


class Paths(msgspec.Struct, frozen=True):
    """Everything below one pair of roots; two pairs never share anything."""

    root: Path = ROOT
    runtime: Path = RUNTIME

    @property
    def cgroup_parent(self) -> str:
        """Name of the cgroup that holds all containers of this pair: ``mesocosm`` for the standard one."""
        if self.runtime == RUNTIME:
            return "mesocosm"
        return f"mesocosm-{hashlib.sha256(bytes(self.runtime)).hexdigest()[:12]}"

    @property
    def containers(self) -> Path:
        """Persistent directories of containers."""
        return self.root / "containers"

    @property
    def running(self) -> Path:
        """Runtime directories of containers."""
        return self.runtime / "containers"

    @property
    def names(self) -> Path:
        """Links from names to IDs."""
        return self.root / "names"

    @property
    def images(self) -> Path:
        """The image store."""
        return self.root / "images"

    @property
    def layers(self) -> Path:
        """Mount points of layers."""
        return self.runtime / "layers"

    @property
    def top(self) -> Path:
        """An empty directory, the topmost of read-only roots."""
        return self.runtime / "top"

    def container(self, container: ContainerID) -> ContainerPaths:
        """The directories of one container."""
        return _container(self.root, self.runtime, container)


@functools.lru_cache(maxsize=1024)
def _container(root: Path, runtime: Path, container: ContainerID) -> ContainerPaths:
    nested = Path(*(part for segment in container.segments for part in ("containers", segment)))
    return ContainerPaths(root / nested, runtime / nested)
