"""``kill -9`` of commands that make and collect images, at system calls of theirs (Q-02, Q-18, Q-19; GAP-24,
GAP-27).

A dry run counts the calls that change something.  By default an evenly spread sample of them is visited;
``-m thorough`` visits all.  After each: every promise of docs/image-store.md holds, the same command goes on
and ends with the same result, and the store has what it had after an unharmed run, to the last file.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from crash import invariants
from crash.dying_calls import Outcome
from crash.test_calls_image_store import spread
from crash.test_kill_image_store import ONE, TWO
from crash.tracer import Call
from crash.world import World, settle
from fixtures.command import run
from fixtures.host_settings import host_settings
from mesocosm.images.collect import Limits
from mesocosm.images.provisioner import Provisioner
from mesocosm.model import ContainerID
from mesocosm.paths import Paths
from provisions import image_of, new_id, opened, paths_of, shown
from registry_fixtures import write_layout
from tarballs import file

PROGRAM = Path(__file__).parent / "dying_cli.py"
ROOT = Path(__file__).parents[1]
SAMPLES = 6
"""Calls of each command visited by default."""
THREE = image_of([[file(b"d/three", b"3")]])


class Victim:
    """One command, killed over and over."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def of(cls, *words: str) -> Iterator[Victim]:
        """The command with these arguments."""
        path = f"{ROOT}:{ROOT.parent}"
        environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
        with subprocess.Popen(
            [sys.executable, str(PROGRAM), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        ) as process:
            yield cls(process)
            process.communicate()
        assert process.returncode == 0

    def killed(self, number: int) -> Outcome:
        """What comes of it, killed at this call."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % number)
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Outcome)

    def unharmed(self) -> Outcome:
        """What comes of it."""
        outcome = self.killed(0)
        assert outcome.status == 0, outcome.words
        return outcome


class Surroundings(Protocol):
    """What a command is killed in."""

    def restore(self) -> None:
        """Put things as they were before the command."""

    def killed(self, at: str) -> None:
        """Check what a command that was killed left."""

    def finished(self, at: str) -> None:
        """Check what one that ran to its end left."""


def visited(victim: Victim, place: Surroundings, samples: int | None, about: str) -> None:
    """Kill the command at each call, or a sample, then let it run to its end; check each time.

    It has to make calls ``about`` files that are called so; the first two of these are always visited.
    """
    calls: tuple[Call, ...] = ()
    for _ in range(2):  # the first one also makes what every command finds from then on
        place.restore()
        calls = victim.unharmed().calls
        place.finished("unharmed")
    meant = [number for number, call in enumerate(calls, start=1) if about in call.file]
    assert len(meant) >= 2
    reached, numbers = 0, sorted({*spread(len(calls), samples), *meant[:2]})
    for number in numbers:
        place.restore()
        outcome = victim.killed(number)
        assert outcome.status in (0, 9), f"{outcome.at}: {outcome.words}"
        reached += outcome.status == 9
        place.killed(outcome.at)
        victim.unharmed()
        place.finished(outcome.at)
    assert reached > 0.8 * len(numbers)


def contents(store: Path) -> set[str]:
    """What a store has, down to a blob, a layer, a record; but for downloads that may be resumed."""
    found = {*store.glob("*/*"), *store.glob("blobs/*/*")} - {*store.glob("ingest/sha256-*")}
    return {str(path.relative_to(store)) for path in found}


# --- collection ---


class Collected:
    """A store with a pinned image, and another one that is mounted, and that nobody names."""

    def __init__(self, base: Path, backend: str) -> None:
        self.base, self.backend = base, backend
        self.store = base / "state/images"
        images = {"kept": ONE, "doomed": TWO, "third": THREE}
        self.names = {name: f"oci:{write_layout(image, base / name)}" for name, image in images.items()}
        self.after: set[str] = set()

    @property
    def roots(self) -> tuple[str, ...]:
        """The options that name the roots."""
        return ("--root", str(self.base / "state"), "--runtime", str(self.base / "run"))

    def restore(self) -> None:
        asyncio.run(self._restore())

    async def _restore(self) -> None:
        async with Provisioner.open(paths_of(self.base), settings=self.base / "none") as provisioner:
            for name in ("kept", "doomed"):
                await provisioner.pull(self.names[name], backend=self.backend)
            await provisioner.pin(self.names["kept"])
            container = ContainerID.parse("container")
            await provisioner.provision(
                container, self.names["doomed"], backend=self.backend, scratch=self.base / "scratch"
            )
            provisioner.store.catalogue.unname(self.names["doomed"])
        provisioner.store.leases.drop(f"container-{container}")  # its layers stay mounted

    def killed(self, at: str) -> None:
        """The store is as documented, every image that is listed is whole, and so is what is seen of one."""
        assert invariants.broken(self.store) == [], at
        asyncio.run(self._whole(at))

    def finished(self, at: str) -> None:
        """What an unharmed run leaves; the others' layers are neither there nor mounted."""
        self.killed(at)
        found = contents(self.store)
        self.after = self.after or found
        assert found == self.after, at
        mounted = {path.name for path in (self.base / "run/layers").glob("*")}
        assert mounted <= {path.name for path in (self.store / "layers").iterdir()}, at

    def end(self) -> None:
        """Give everything back."""
        asyncio.run(self._end())
        assert invariants.left_over(self.store, self.base / "run") == []

    async def _end(self) -> None:
        invariants.let_a_day_pass(self.store)
        async with opened(self.base) as provisioner:
            await provisioner.unpin(ONE.digest)
            await provisioner.prune(Limits(age=0.0))

    async def _whole(self, at: str) -> None:
        async with opened(self.base) as provisioner:
            for image in await provisioner.images() if self.backend == "erofs" else ():
                assert (await provisioner.verify(image.digest)).sound and image.complete, at
            container = new_id()
            provision = await provisioner.provision(
                container, ONE.digest, pull="never", backend=self.backend, scratch=self.base / str(container)
            )
            with shown(provision.root, self.base / "root") as root:
                assert (root / "d/one").read_bytes() == b"1", at


COLLECTING = {
    "prune": ("image", "prune", "--force"),
    "marks": ("image", "prune", "--force", "--above", "0%", "--down-to", "0%"),
    "settings": ("image", "prune", "--force", "--auto"),
    "pull": ("pull", "--quiet", "THIRD"),
}
"""Commands that collect; ``pull`` does afterwards, by the settings."""


def collected(base: Path, backend: str, words: tuple[str, ...], samples: int | None) -> None:
    place = Collected(base, backend)
    command = [place.names["third"] if word == "THIRD" else word for word in words]
    with host_settings(base) as settings:
        (settings / "images.toml").write_text('collect-above = "0%"\ncollect-spare = "0"\n')
        with Victim.of(*place.roots, *command) as victim:
            visited(victim, place, samples, about="/trash/")
    place.end()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", list(COLLECTING))
def test_q18_a_collection_killed_at_calls(way: str, tmp_path: Path) -> None:
    collected(tmp_path, "overlay" if way == "prune" else "erofs", COLLECTING[way], SAMPLES)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["erofs", "overlay"])
@pytest.mark.parametrize("way", list(COLLECTING))
def test_q18_a_collection_killed_at_every_call(way: str, backend: str, tmp_path: Path) -> None:
    collected(tmp_path, backend, COLLECTING[way], None)


# --- commit ---


MADE = "example.org/made:1"


class Committing:
    """A running container with changes, of which an image is made."""

    def __init__(self, world: World, root: Path, base: Path) -> None:
        self.world, self.store = world, world.root / "images"
        run("tar", "-C", root, "-cf", base / "root.tar", ".")
        assert world.command("import", "-q", str(base / "root.tar"), "example.org/box:1").returncode == 0
        start = ("run", "-d", "--quiet", "--name", "on", "example.org/box:1", "sleep", "1000")
        assert world.command(*start).returncode == 0
        assert (
            world.command("exec", "on", "sh", "-c", "mkdir /d; echo new > /d/new; rm /etc/group").returncode
            == 0
        )
        self.before = contents(self.store)
        self.made: set[str] = set()

    def restore(self) -> None:
        asyncio.run(self._restore())
        assert contents(self.store) == self.before

    async def _restore(self) -> None:
        paths = Paths(self.world.root, self.world.runtime)
        async with Provisioner.open(paths) as provisioner:
            for image in await provisioner.images(["reference=" + MADE]):
                await provisioner.remove(image.digest, force=True)

    def killed(self, at: str) -> None:
        """The container goes on, and the store is as documented."""
        assert invariants.broken(self.store) == [], at
        done = self.world.command("exec", "on", "cat", "/d/new")
        assert (done.returncode, done.stdout) == (0, "new\n"), at

    def finished(self, at: str) -> None:
        """What is new is what an unharmed run makes."""
        assert invariants.broken(self.store) == [], at
        made = contents(self.store) - self.before
        self.made = self.made or made
        assert made == self.made and len(made) > 3, at


def committed(world: World, root: Path, base: Path, samples: int | None) -> None:
    words = ("commit", "-q", "--timestamp", "1600000000", "on", MADE)
    committing = Committing(world, root, base)
    with Victim.of(*world.roots(), *words) as victim:
        visited(victim, committing, samples, about="/cgroup.freeze")
    settle(world)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_gap27_a_commit_killed_at_calls(world: World, busybox_root: Path, tmp_path: Path) -> None:
    committed(world, busybox_root, tmp_path, SAMPLES)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_gap27_a_commit_killed_at_every_call(world: World, busybox_root: Path, tmp_path: Path) -> None:
    committed(world, busybox_root, tmp_path, None)
