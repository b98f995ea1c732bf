"""Roots: what mounting stacks of layers takes, and what a container on a known image still has to do."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from bench import ROOT
from bench.images.material import Material
from bench.images.scratch import Scratch
from bench.measure import OURS, Measured, Series, limit
from fixtures.registry import Registry
from layers import ingest
from mesocosm.images.layers.mounts import LayerMounts
from mesocosm.images.provisioner import Provisioner
from mesocosm.linux import mounts
from mesocosm.paths import Paths
from provisions import docker_archive, image_of, new_id
from tarballs import archive, file

LIMITS = {6: 1.0, 128: 20.0}
"""Milliseconds, by layers."""

TRIALS = 15
DEEP = 6
_MARK = "/nowhere/mark"
_WAITING = re.compile(r"\b(?:futex|epoll_wait|getpid)\(")
"""Calls of threads waiting for each other: how many depends on who is first."""

_MOUNT = re.compile(r"\b(?:mount|fsopen|fsmount|open_tree|move_mount)\(")


def run(material: Material, scratch: Scratch, registry: Registry, *, rounds: int) -> list[Measured]:
    """Mount stacks; then count the system calls of a second container."""
    del material, registry
    with scratch.fresh() as path:
        found = [_stack(path, count, rounds * TRIALS) for count in LIMITS]
        return [*found, *_second_container(path)]


def _stack(folder: Path, count: int, trials: int) -> Measured:
    """Mount ``count`` layer files that nobody has mounted, and an overlay with an upper directory on them."""
    home = folder / f"stack-{count}"
    home.mkdir()
    images: dict[str, tuple[Path, ...]] = {}
    for number in range(count):
        content = archive(file(b"layer-%d" % number))
        path = home / f"layer-{number}"
        ingest("erofs-a", path, content)
        images[hashlib.sha256(bytes([number])).hexdigest()] = (path,)
    layers = LayerMounts(home / "layers")
    values = tuple(_mount(layers, images, home / f"changes-{trial}") for trial in range(trials + 2))
    return Measured(f"{count} layers mounted", "ms", (Series(OURS, values[2:]), limit(LIMITS[count])))


def _mount(layers: LayerMounts, images: dict[str, tuple[Path, ...]], changes: Path) -> float:
    for name in ("upper", "work"):
        (changes / name).mkdir(parents=True)
    begin = time.perf_counter()
    places = layers.hold(images)
    root = mounts.overlay(
        [str(places[name]) for name in images], upper=str(changes / "upper"), work=str(changes / "work")
    )
    elapsed = time.perf_counter() - begin
    os.close(root)
    layers.drop(images)
    return elapsed * 1e3


def _second_container(folder: Path) -> list[Measured]:
    """System calls while a second container is given its root, by the number of the image's layers."""
    calls = {count: _traced(folder / f"known-{count}", count) for count in (1, DEEP)}
    made = sum(_MOUNT.search(call) is not None for call in calls[DEEP])
    deep = Series(OURS, (float(len(calls[DEEP])),))
    return [
        Measured(
            f"second container, {DEEP} layers, system calls",
            "calls",
            (deep, Series("one layer", (float(len(calls[1])),))),
        ),
        Measured("second container, calls that mount", "calls", (Series(OURS, (float(made),)), limit(1.0))),
    ]


def _traced(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    layers = [[file(b"layer-%d" % number)] for number in range(count)]
    docker_archive(image_of(layers), folder / "image.tar")
    trace = folder / "trace"
    words = ("strace", "-f", "-o", str(trace), sys.executable, "-m", "bench.images.mounting", str(folder))
    subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    lines = trace.read_text(errors="replace").splitlines()
    first, last = (number for number, line in enumerate(lines) if _MARK in line)
    calls = [line for line in lines[first + 1 : last] if "resumed>" not in line]
    return [line for line in calls if not _WAITING.search(line)]


async def _provision_twice(folder: Path) -> None:
    """Give one image's root to two containers, with a mark before and behind the second."""
    paths = Paths(folder / "root", folder / "run")
    for path in (paths.root, paths.runtime):
        path.mkdir(mode=0o700)
    async with Provisioner.open(paths) as provisioner:
        await provisioner.load(folder / "image.tar")
        containers = [new_id() for _ in range(3)]
        for number, container in enumerate(containers):
            if number == 2:
                os.access(_MARK, os.F_OK)
            await provisioner.provision(container, "example.org/app:1", scratch=folder / f"changes-{number}")
        os.access(_MARK, os.F_OK)
        for container in containers:
            await provisioner.release(container)


if __name__ == "__main__":
    asyncio.run(_provision_twice(Path(sys.argv[1])))
