"""``kill -9``, and a failing disk, at system calls of an image store's life (Q-02, Q-06, Q-18, Q-19).

Every call that changes something is counted by a dry run.  By default an evenly spread sample of them gets
its fault; ``-m thorough`` visits all.  After each fault: every promise of docs/image-store.md holds, no wrong
byte can be read, the next command goes on and ends with the right result, and nothing is left.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from crash import invariants
from crash.dying_calls import DONE, REFUSED, Outcome
from crash.test_kill_image_store import ONE, TWO
from mesocosm.model import ContainerID
from provisions import opened, shown
from registry_fixtures import write_layout

PROGRAM = Path(__file__).parent / "dying_calls.py"
ROOT = Path(__file__).parents[1]
SAMPLES = {"kill": 24, "fault": 10}
"""Calls visited by default."""


class Lives:
    """Lives below one folder, on one backend."""

    def __init__(self, base: Path, backend: str) -> None:
        self.base, self.backend = base, backend
        self.names = [f"oci:{base / name}" for name in ("layout-one", "layout-two")]
        for image, name in ((ONE, "layout-one"), (TWO, "layout-two")):
            write_layout(image, base / name)

    def run(self, fault: str, numbers: list[int]) -> Iterator[Outcome]:
        """Live once for each number."""
        with subprocess.Popen(
            [
                sys.executable,
                str(PROGRAM),
                str(self.base),
                *self.names,
                self.backend,
                fault,
                *map(str, numbers),
            ],
            stdout=subprocess.PIPE,
            env={
                "PYTHONPATH": f"{ROOT}:{ROOT.parent}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PATH": "/usr/bin:/bin",
            },
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield msgspec.json.decode(line, type=Outcome)
        assert process.returncode == 0

    def calls(self, fault: str) -> int:
        """How many calls an unharmed life makes."""
        (outcome,) = self.run(fault, [])
        assert (outcome.status, outcome.words) == (0, "")
        asyncio.run(self.check(outcome))
        return len(outcome.calls)

    def failures(self, outcome: Outcome) -> list[str]:
        """What `check` finds, in words."""
        try:
            asyncio.run(self.check(outcome))
        except Exception as error:
            return [f"{outcome.at}: {type(error).__name__} {error}"]
        return []

    async def check(self, outcome: Outcome) -> None:
        """The store is as documented; the next command goes on, has the right bytes, and leaves nothing."""
        folder = self.base / str(outcome.number)
        store, at = folder / "state/images", f"{self.backend}: {outcome.at}"
        assert invariants.broken(store) == [], at
        async with opened(folder) as provisioner:
            await provisioner.recover(set())
            assert provisioner.store.leases.owners("pull-") == [], at
            for image in await provisioner.images() if self.backend == "erofs" else ():
                assert (await provisioner.verify(image.digest)).sound, at
            for name, own in zip(self.names, ("one", "two"), strict=True):
                container = ContainerID.parse(own)
                provision = await provisioner.provision(
                    container, name, backend=self.backend, scratch=folder / own
                )
                with shown(provision.root, folder / "root") as root:
                    assert (root / "d" / own).read_bytes() == (b"1" if own == "one" else b"2"), at
                    assert (root / "base").read_bytes() == b"b" * 50_000, at
                await provisioner.release(container)
            assert invariants.broken(store) == [], at
            for image in await provisioner.images():
                await provisioner.unpin(image.digest)
                await provisioner.remove(image.digest, force=True)
            invariants.let_a_day_pass(store)
            await provisioner.prune()
        assert invariants.left_over(store, folder / "run") == [], at


def spread(count: int, samples: int | None) -> list[int]:
    """Numbers from 1 to ``count``: all, or so many evenly spread."""
    if samples is None or samples >= count:
        return list(range(1, count + 1))
    return sorted({1 + round(index * (count - 1) / (samples - 1)) for index in range(samples)})


def killed(base: Path, backend: str, samples: int | None) -> None:
    lives, failures, reached = Lives(base, backend), [], 0
    for outcome in lives.run("kill", spread(lives.calls("kill"), samples)):
        if outcome.status not in (9, DONE):
            failures.append(f"{outcome.at}: {outcome.status} {outcome.words}")
        reached += outcome.status == 9
        failures += lives.failures(outcome)
    assert not failures, "\n".join(failures)
    assert reached > 10


def faulted(base: Path, backend: str, fault: str, samples: int | None) -> None:
    lives, failures, refused = Lives(base, backend), [], 0
    wanted = "exhausted: " if fault.startswith("ENOSPC") else "unavailable: "
    for outcome in lives.run(fault, spread(lives.calls(fault), samples)):
        code = outcome.status >> 8
        typed = code == REFUSED and outcome.words.startswith(wanted) and "\n" not in outcome.words
        if code != DONE and not typed and not outcome.own:
            failures.append(f"{outcome.at}: {outcome.status} {outcome.words}")
        refused += code == REFUSED
        failures += lives.failures(outcome)
    assert not failures, "\n".join(failures)
    assert refused > 3


@pytest.mark.parametrize("backend", ["erofs", "overlay"])
def test_q02_killed_at_calls(backend: str, tmp_path: Path) -> None:
    killed(tmp_path, backend, SAMPLES["kill"])


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "EIO+", "ENOSPC+"])
def test_q06_a_disk_that_fails_at_calls(fault: str, tmp_path: Path) -> None:
    faulted(tmp_path, "erofs" if fault.endswith("+") else "overlay", fault, SAMPLES["fault"])


@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["erofs", "overlay"])
def test_q02_killed_at_every_call(backend: str, tmp_path: Path) -> None:
    killed(tmp_path, backend, None)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["erofs", "overlay"])
@pytest.mark.parametrize("fault", ["EIO", "ENOSPC", "EIO+", "ENOSPC+"])
def test_q06_a_disk_that_fails_at_every_call(fault: str, backend: str, tmp_path: Path) -> None:
    faulted(tmp_path, backend, fault, None)
