"""Who pulls: containerd, podman and we, each with everything it keeps below the scratch file system."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from bench.images.effort import Effort, of_commands, output
from bench.measure import OURS
from bench.ours import COMMAND
from mesocosm.images.provisioner import Provisioner
from mesocosm.model import ContainerID
from mesocosm.paths import Paths
from provisions import new_id, shown

_CONFIG = """\
version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{home}/socket"
"""


class Client(Protocol):
    """One contender on one scratch file system."""

    def pull(self, reference: str) -> Effort:
        """From nothing to layers that can be mounted, durable."""

    def root(self, reference: str) -> contextlib.AbstractContextManager[Path]:
        """The image's root, mounted."""


class Containerd:
    """A containerd of its own, and ``ctr``.  Layers are unpacked for overlayfs."""

    def __init__(self, scratch: Path, daemon: int) -> None:
        self._scratch = scratch
        self._daemon = daemon
        self._ctr = ("ctr", "--address", str(scratch / "socket"))

    @classmethod
    @contextlib.contextmanager
    def open(cls, scratch: Path) -> Iterator[Containerd]:
        """Start it, and stop it at the end."""
        config = scratch / "config.toml"
        config.write_text(_CONFIG.format(home=scratch))
        with open(scratch / "log", "w") as log:
            process = subprocess.Popen(("containerd", "--config", str(config)), stdout=log, stderr=log)
        try:
            _await(scratch / "socket", process)
            yield cls(scratch, process.pid)
        finally:
            process.terminate()
            process.wait(30)

    def pull(self, reference: str) -> Effort:
        words = (*self._ctr, "images", "pull", "--plain-http", reference)
        return of_commands(words, durable=self._scratch, daemon=self._daemon)

    @contextlib.contextmanager
    def root(self, reference: str) -> Iterator[Path]:
        target = self._scratch / "mounted"
        target.mkdir()
        output(*self._ctr, "images", "mount", reference, str(target))
        try:
            yield target
        finally:
            output("umount", str(target))


class Podman:
    """Podman as root, with overlayfs."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._env = {"TMPDIR": str(scratch)}
        self._podman: tuple[str, ...] = (
            "podman", "--root", str(scratch / "root"), "--runroot", str(scratch / "run"),
            "--storage-driver", "overlay",
        )  # fmt: skip

    @classmethod
    @contextlib.contextmanager
    def open(cls, scratch: Path) -> Iterator[Podman]:
        """Podman has no daemon: nothing is started."""
        yield cls(scratch)

    def pull(self, reference: str) -> Effort:
        words = (*self._podman, "pull", "--quiet", "--tls-verify=false", f"docker://{reference}")
        return of_commands(words, durable=self._scratch, env=self._env)

    @contextlib.contextmanager
    def root(self, reference: str) -> Iterator[Path]:
        yield Path(output(*self._podman, "image", "mount", reference, env=self._env))
        output(*self._podman, "image", "umount", reference, env=self._env)


class Mesocosm:
    """Our command line.  Layers become EROFS files, or with another backend trees."""

    def __init__(self, scratch: Path) -> None:
        self.paths = Paths(scratch / "root", scratch / "run")
        self._scratch = scratch
        self._command = (COMMAND, "--root", str(self.paths.root), "--runtime", str(self.paths.runtime))

    @classmethod
    @contextlib.contextmanager
    def open(cls, scratch: Path) -> Iterator[Mesocosm]:
        """The directories; no daemon is needed."""
        client = cls(scratch)
        for path in (client.paths.root, client.paths.runtime):
            path.mkdir(mode=0o700)
        yield client

    def pull(self, reference: str) -> Effort:
        return of_commands((*self._command, "pull", "--quiet", reference), durable=self._scratch)

    @contextlib.contextmanager
    def root(self, reference: str) -> Iterator[Path]:
        with self.roots(reference, 1) as roots:
            yield roots[0]

    @contextlib.contextmanager
    def roots(self, reference: str, count: int) -> Iterator[list[Path]]:
        """The roots of so many containers of one image, mounted."""
        with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
            opened = Provisioner.open(self.paths)
            provisioner = runner.run(opened.__aenter__())
            stack.callback(lambda: runner.run(opened.__aexit__(None, None, None)))
            found = []
            for number in range(count):
                container, scratch = new_id(), self._scratch / f"container-{number}"
                made = runner.run(provisioner.provision(container, reference, scratch=scratch))
                stack.callback(_release, runner, provisioner, container)
                found.append(stack.enter_context(shown(made.root, self._scratch / f"mounted-{number}")))
            yield found


PULLERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Client]]] = {
    "containerd": Containerd.open,
    "podman": Podman.open,
    OURS: Mesocosm.open,
}


def _release(runner: asyncio.Runner, provisioner: Provisioner, container: ContainerID) -> None:
    runner.run(provisioner.release(container))


def _await(socket: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if socket.exists():
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"containerd did not start: {(socket.parent / 'log').read_text()[-1500:]}")
