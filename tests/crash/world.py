"""One pair of roots, driven by commands that die or do not, and what has to be left of them: nothing."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from fixtures import leaks
from mesocosm.linux import processes
from mesocosm.paths import Paths

HERE = Path(__file__).parent
PYTHON = sys.executable


class World:
    """One pair of roots, driven by commands that die or do not."""

    def __init__(self, base: Path, image: Path) -> None:
        self.root = base / "state"
        self.runtime = base / "run"
        self.image = f"dir:{image}"
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(base)}

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PYTHON, *words], capture_output=True, text=True, timeout=60, env=self.environment, check=False
        )

    def roots(self) -> tuple[str, ...]:
        """The options that name the roots."""
        return ("--root", str(self.root), "--runtime", str(self.runtime))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command that lives."""
        return self._run("-m", "mesocosm.frontends.cli.main", *self.roots(), *words)

    def points(self, file: Path, *words: str) -> list[str]:
        """The points a command passes, each once, in order."""
        done = self._run(str(HERE / "dying_command.py"), "--list", str(file), *self.roots(), *words)
        assert done.returncode == 0, done.stderr
        return list(dict.fromkeys(file.read_text().split()))

    def kill_at(self, point: str, *words: str) -> None:
        """The command, killed at a point."""
        done = self._run(str(HERE / "dying_command.py"), "--at", point, *self.roots(), *words)
        assert done.returncode == -9, f"{point} was not passed: {done.returncode} {done.stderr}"

    def restart(self) -> None:
        """As if the host had been: no process, no runtime root, and the boot IDs are of another boot."""
        for file in self.runtime.glob("containers/*/supervisor/process.json"):
            identities = json.loads(file.read_text())
            for pid, started in (identities["supervisor"], identities["payload"]):
                held = processes.hold(pid, started)
                if held is not None:
                    processes.send_signal(held, signal.SIGKILL)
                    select.select([held], [], [])
                    os.close(held)
        shutil.rmtree(self.runtime)
        for file in self.root.glob("containers/*/container.json"):
            intent = json.loads(file.read_text())
            file.write_text(json.dumps(intent | {"boot_id": "another"}))

    def containers(self) -> list[dict[str, object]]:
        """What ``ps`` lists, after its recovery."""
        done = self.command("ps", "-a", "--format", "json")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        listed: list[dict[str, object]] = json.loads(done.stdout)
        return listed

    def assert_clean(self) -> None:
        """Nothing of a container is left: no record, name, directory, cgroup, mount or half-written blob."""
        assert files(self.root / "containers") == []
        assert [path for path in files(self.root / "names") if path != ".lock"] == []
        assert files(self.runtime / "containers") == []
        assert files(self.root / "images" / "ingest") == []
        mounts = Path("/proc/self/mountinfo").read_text()
        assert str(self.root) not in mounts
        parent = Paths(self.root, self.runtime).cgroup_parent
        assert [path for path in leaks.cgroup_directories() if f"/{parent}" in path] == []


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


def settle(world: World) -> None:
    """Recovery by ``ps``, then ``rm -f`` of whatever is left."""
    left = [str(one["id"]) for one in world.containers()]
    if left:
        done = world.command("rm", "-f", *left)
        assert done.returncode == 0, done.stderr
    assert world.containers() == []
    world.assert_clean()
