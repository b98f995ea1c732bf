"""Two processes on one store, one of which is killed (Q-02, Q-18): the other one ends well.

At each point that the victim passes, and at which the other one is with all it holds, by default at a sample
of both; ``-m thorough`` visits all points of either.  Afterwards every promise of docs/image-store.md holds,
the survivor has done what it was for, both images can be had, and nothing is left.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from crash import invariants
from crash.rivals import Case, Outcome, Rival
from crash.test_calls_image_store import spread
from crash.test_kill_image_store import ONE, TWO, check, layouts
from mesocosm.images.digest import hex_of
from mesocosm.images.provisioner import Provisioner
from provisions import opened, paths_of
from registry_fixtures import write_layout

PROGRAM = Path(__file__).parent / "rivals.py"
ROOT = Path(__file__).parents[1]
SAMPLES = 3
"""Points of each verb visited by default."""

PAIRS = [
    ("pull", "pull"),
    ("pull", "prune"),
    ("prune", "pull"),
    ("pull", "rm"),
    ("rm", "pull"),
    ("mount", "mount"),
    ("mount", "rm"),
    ("rm", "mount"),
    ("mount", "prune"),
    ("prune", "mount"),
]
"""Victim and survivor.  ``pull`` brings the second image, the others are about the first."""


PASSING = [("pull", "prune"), ("pull", "rm")]
"""Those in which the survivor waits for nothing: a pull holds what it needs by its lease alone."""


class Arena:
    """Stores that have the first image, each for one case, below one folder."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for image, name in ((ONE, "layout-one"), (TWO, "layout-two")):
            write_layout(image, base / name)
        self.names = layouts(base / "any")
        asyncio.run(self._begin())
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                "PYTHONPATH": f"{ROOT}:{ROOT.parent}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PATH": "/usr/bin:/bin",
            },
        )

    async def _begin(self) -> None:
        (self.base / "first").mkdir()
        async with opened(self.base / "first") as provisioner:
            await provisioner.pull(self.names[0])

    def close(self) -> None:
        """No further case."""
        self._process.communicate()
        assert self._process.returncode == 0

    def rival(self, verb: str, own: str, at: tuple[str, int] = ("", 1)) -> Rival:
        """What one does, stopped at a passing of a point."""
        return Rival(verb=verb, image=self.names[verb == "pull"], own=own, point=at[0], passing=at[1])

    def passings(self, verb: str) -> list[tuple[str, int]]:
        """Every passing of a point by one who is alone, in order."""
        outcome = self.play(self.rival("none", "victim"), self.rival(verb, "survivor"))
        passed: Counter[str] = Counter()
        found = []
        for point in outcome.survivor:
            passed[point] += 1
            found.append((point, passed[point]))
        return found

    def play(self, victim: Rival, survivor: Rival, begins: str = "victim") -> Outcome:
        """One case on a store of its own, and what has to hold after it."""
        folder = self.base / "case"
        shutil.copytree(self.base / "first", folder, symlinks=True)
        case = Case(folder=str(folder), victim=victim, survivor=survivor, begins=begins)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(case) + b"\n")
        self._process.stdin.flush()
        outcome = msgspec.json.decode(self._process.stdout.readline(), type=Outcome)
        assert (outcome.status, outcome.words) == (0, ""), case.words
        assert invariants.broken(folder / "state/images") == [], case.words
        asyncio.run(self._done(folder, case))
        asyncio.run(check(folder, case.words, self.names))
        shutil.rmtree(folder)
        return outcome

    async def _done(self, folder: Path, case: Case) -> None:
        """What the survivor was for."""
        async with Provisioner.open(paths_of(folder)) as provisioner:
            here = {image.digest: image for image in await provisioner.images()}
            match case.survivor.verb:
                case "pull":
                    assert here[TWO.digest].complete and here[TWO.digest].references, case.words
                case "mount":
                    assert here[ONE.digest].complete, case.words
                    assert "survivor" in here[ONE.digest].in_use, case.words
                    layers = {hex_of(layer.diff_id) for layer in here[ONE.digest].layers}
                    assert layers <= set(provisioner.mounts.mounted()), case.words
                case _ if case.victim.verb == "pull":
                    assert ONE.digest not in here, case.words


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    made = Arena(tmp_path)
    yield made
    made.close()


def killed(arena: Arena, victim: str, survivor: str, samples: int | None) -> None:
    """The victim at each point, with the survivor running into it; then with the survivor stopped."""
    deaths, stops = arena.passings(victim), arena.passings(survivor)
    assert len(deaths) >= 2 and len(stops) >= 2
    reached = waited = 0
    for number in spread(len(deaths), samples):
        death = deaths[number - 1]
        outcome = arena.play(arena.rival(victim, "victim", death), arena.rival(survivor, "survivor"))
        reached += death[0] in outcome.victim
        waited += any(point.endswith(".waiting") for point in outcome.survivor)
    assert reached == len(spread(len(deaths), samples))
    assert waited > 0 or (victim, survivor) in PASSING
    for number in spread(len(stops), samples):
        for death in (deaths[number % len(deaths)], ("", 1)):
            arena.play(
                arena.rival(victim, "victim", death),
                arena.rival(survivor, "survivor", stops[number - 1]),
                begins="survivor",
            )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("victim", "survivor"), PAIRS)
def test_q18_one_of_two_is_killed(victim: str, survivor: str, arena: Arena) -> None:
    killed(arena, victim, survivor, SAMPLES)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("victim", "survivor"), PAIRS)
def test_q18_one_of_two_is_killed_at_every_point(victim: str, survivor: str, arena: Arena) -> None:
    killed(arena, victim, survivor, None)
