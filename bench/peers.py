"""The peers: how each is asked to do what we are asked to do, and the process that starts and times them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Self

from bench import ROOT
from bench.bundle import MEMORY, PIDS, make_bundle

OCI_RUNTIMES = ("crun", "runc")
PROOF = f"""
cd /sys/fs/cgroup || exit 10
memory=$(cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max)
pids=$(cat pids/pids.max 2>/dev/null || cat pids.max)
[ "$memory" = {MEMORY} ] || exit 11
[ "$pids" = {PIDS} ] || exit 12
case $(cat /proc/self/status) in *"NoNewPrivs:	1"*"Seccomp:	2"*) ;; *) exit 13 ;; esac
[ $$ = 1 ] || exit 14
"""
"""A payload that ends with status 0 only when limits, filter and process namespace are really there."""


class Outcome(NamedTuple):
    """A command run some times: seconds in all on the wall and on the processors."""

    wall: float
    cpu: float


class Peers:
    """The spawner at work, and the commands it is given."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, root: Path) -> None:
        self._process = process
        self._folder = folder
        self._root = root

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, root: Path) -> AsyncIterator[Self]:
        """Start the spawner.  ``folder`` takes bundles and runtime state; containers run in ``root``."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(ROOT / "bench/spawner.py"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield cls(process, folder, root)
        finally:
            if process.stdin:
                process.stdin.close()
            await process.wait()

    async def run(self, command: tuple[str, ...], *, count: int = 1, in_flight: int = 1) -> Outcome:
        """Run it ``count`` times; raises when one of them did not end with status 0."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the spawner has no pipes")
        request = {"argv": [find(command[0]), *command[1:]], "count": count, "in_flight": in_flight}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        answer = json.loads(await self._process.stdout.readline() or b"null")
        if answer is None:
            raise RuntimeError("the spawner ended; its message stands above")
        if answer["failed"]:
            raise RuntimeError(f"{' '.join(command)}: exit statuses {answer['failed']}")
        return Outcome(answer["wall"], answer["cpu"])

    def oci(
        self, runtime: str, *, filtered: bool, payload: tuple[str, ...] = ("/bin/true",)
    ) -> tuple[str, ...]:
        """``RUNTIME run`` of a fully isolated container with limits, by crun or runc."""
        bundle = self.bundle(filtered=filtered, payload=payload)
        return (runtime, "--root", str(self.state(runtime)), "run", "--bundle", str(bundle), "{id}")

    async def sample(self, command: tuple[str, ...]) -> float:
        """Milliseconds for one run."""
        return (await self.run(command)).wall * 1e3

    def bundle(self, *, filtered: bool, payload: tuple[str, ...]) -> Path:
        """The bundle for this payload, made once."""
        key = hashlib.sha256("\0".join((str(filtered), *payload)).encode()).hexdigest()
        folder = self._folder / f"bundle-{key[:12]}"
        return folder if folder.exists() else make_bundle(folder, self._root, payload, filtered=filtered)

    def bubblewrap(self) -> tuple[str, ...]:
        """The same namespaces and mounts by bubblewrap, which knows neither cgroups nor profiles."""
        return (
            "bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup",
            "--ro-bind", str(self._root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
            "--hostname", "bench", "--as-pid-1", "--clearenv", "--setenv", "PATH", "/bin", "--chdir", "/",
            "/bin/true",
        )  # fmt: skip

    def state(self, runtime: str) -> Path:
        """Where a runtime keeps what it knows of its containers."""
        return self._folder / runtime

    def conmon(self, name: str, payload: tuple[str, ...]) -> tuple[str, ...]:
        """A sleeping container of crun's under a conmon, as podman starts it."""
        home = self._folder / "conmon" / name
        home.mkdir(parents=True, exist_ok=True)
        return (
            "conmon", "--cid", name, "--cuuid", name, "--name", name, "--runtime", find("crun"),
            "--runtime-arg", "--root", "--runtime-arg", str(self.state("crun")),
            "--bundle", str(self.bundle(filtered=True, payload=payload)),
            "--container-pidfile", str(home / "container.pid"), "--conmon-pidfile", str(home / "conmon.pid"),
            "--log-path", f"k8s-file:{home / 'log'}", "--exit-dir", str(home), "--persist-dir", str(home),
            "--socket-dir-path", str(home),
        )  # fmt: skip

    def conmon_pid(self, name: str) -> Path:
        """The file that holds this conmon's process ID."""
        return self._folder / "conmon" / name / "conmon.pid"

    def delete(self, name: str) -> tuple[str, ...]:
        """Kill and forget a container of crun's."""
        return ("crun", "--root", str(self.state("crun")), "delete", "--force", name)

    def image(self) -> str:
        """How our command line names the root that containers run in."""
        return f"dir:{self._root}"

    @staticmethod
    def limit_flags() -> tuple[str, ...]:
        """The limits of the bundle, as our command line's flags."""
        return ("--memory", str(MEMORY), "--cpus", "1", "--pids-limit", str(PIDS))

    async def prove(self) -> None:
        """Every OCI runtime shows that its containers have the limits and the filter; raises otherwise."""
        for runtime in OCI_RUNTIMES:
            await self.run(self.oci(runtime, filtered=True, payload=("/bin/sh", "-c", PROOF)))


def find(program: str) -> str:
    """The path of a program; raises with what to do when it is not installed."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{program} is not installed: run scripts/install-test-tools")
    return path
