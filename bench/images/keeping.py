"""Images that are there: what their containers keep in memory, and what taking an image away costs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.images.clients import Mesocosm
from bench.images.effort import of_call
from bench.images.material import Material
from bench.images.scratch import Scratch, sync
from bench.images.unpacking import make_layers
from bench.measure import OURS, Measured, Series
from fixtures.registry import Registry
from mesocosm.images.provisioner import Provisioner
from mesocosm.paths import Paths

CONTAINERS = 4
_PAGE = 4096


def run(material: Material, scratch: Scratch, registry: Registry, *, rounds: int) -> list[Measured]:
    """Page cache of several containers; removal of an image and of its tree, in turns."""
    reference = f"{registry.host}/bench:gzip"
    cached, removed = [], []
    for number in range(rounds):
        with scratch.fresh() as path, Mesocosm.open(path) as client:
            client.pull(reference)
            of_call(partial(make_layers, material.blobs("gzip"), "apply", path), durable=path)
            scratch.chill()
            cached.append(_read_everywhere(client, reference))
            scratch.chill()
            removed.append(_remove_both(path, client.paths, reference, tree_first=bool(number % 2)))
    return [
        Measured(
            f"page cache, {CONTAINERS} containers",
            "MiB",
            (
                Series(OURS, tuple(one[0] for one in cached)),
                Series("one copy", tuple(one[1] for one in cached)),
            ),
        ),
        Measured(
            "image removed",
            "ms",
            (
                Series(OURS, tuple(one[0] for one in removed)),
                Series("rm of its tree", tuple(one[1] for one in removed)),
            ),
        ),
    ]


def _read_everywhere(client: Mesocosm, reference: str) -> tuple[float, float]:
    """MiB that the page cache grows by, and MiB of all files, when each container reads all its files."""
    with client.roots(reference, CONTAINERS) as roots:
        before = _page_cache()
        sizes = [_read(root) for root in roots]
        return (_page_cache() - before) / (1 << 20), sizes[0] / (1 << 20)


def _read(root: Path) -> int:
    """Read every file once; returns their bytes in whole pages."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            path = f"{folder}/{name}"
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                while file.read(1 << 20):
                    pass
            if (status.st_dev, status.st_ino) not in seen:  # each layer numbers its own
                seen.add((status.st_dev, status.st_ino))
                total += (status.st_size + _PAGE - 1) & -_PAGE
    return total


def _page_cache() -> int:
    """Bytes of files and block devices in the page cache, but for those of file systems in memory."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    kibibytes = {name: int(value.split()[0]) for name, value in fields.items()}
    return (kibibytes["Cached"] + kibibytes["Buffers"] - kibibytes["Shmem"]) << 10


def _remove_both(path: Path, paths: Paths, reference: str, *, tree_first: bool) -> tuple[float, float]:
    def image() -> None:
        asyncio.run(_remove(paths, reference))

    def tree() -> None:
        subprocess.run(("rm", "-rf", str(path / "tree")), check=True)

    def timed(work: Callable[[], None]) -> float:
        begin = time.perf_counter()
        work()
        sync(path)
        return (time.perf_counter() - begin) * 1e3

    if tree_first:
        second = timed(tree)
        return timed(image), second
    return timed(image), timed(tree)


async def _remove(paths: Paths, reference: str) -> None:
    async with Provisioner.open(paths) as provisioner:
        removal = await provisioner.remove(reference)
        if not removal.deleted:
            raise RuntimeError(f"nothing was removed of {reference}")
