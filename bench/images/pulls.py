"""From a registry to a root: time, processor time and memory, against the peers; that roots are equal."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.images.clients import PULLERS
from bench.images.effort import Effort, of_call
from bench.images.material import CODECS, Material
from bench.images.scratch import Scratch
from bench.ingest import floor
from bench.measure import OURS, Measured, Series, by_turns, limit
from fixtures.registry import Registry

LEAST = "isal or zstd, 2 × SHA-256"
"""What no verified pull can do without, on all processors, with the blobs in memory and nothing written."""

MEMORY_LIMIT = 150
"""MiB that a pull may take."""


def run(material: Material, scratch: Scratch, registry: Registry, *, rounds: int) -> list[Measured]:
    """Both codecs, all contenders."""
    measured: list[Measured] = []
    for codec in CODECS:
        efforts = _pull(scratch, f"{registry.host}/bench:{codec}", material.blobs(codec), rounds)
        for what in ("wall", "cpu"):
            values = {who: tuple(getattr(one, what) for one in made) for who, made in efforts.items()}
            series = tuple(Series(who, found) for who, found in values.items())
            measured.append(Measured(f"pull {codec}, {what}", "s", series))
        memory = Series(OURS, tuple(one.memory for one in efforts[OURS]))
        measured.append(Measured(f"pull {codec}, peak memory", "MiB", (memory, limit(MEMORY_LIMIT))))
    return measured


def _pull(scratch: Scratch, reference: str, blobs: list[Path], rounds: int) -> dict[str, list[Effort]]:
    trees: dict[str, dict[str, tuple[int, ...]]] = {}

    def sample(who: str) -> Effort:
        with scratch.fresh() as path, PULLERS[who](path) as client:
            effort = client.pull(reference)
            if who not in trees:
                with client.root(reference) as root:
                    trees[who] = look(root)
            return effort

    def least() -> Effort:
        with scratch.fresh() as path:
            return of_call(partial(all_floors, blobs), durable=path)

    contenders: dict[str, Callable[[], Effort]] = {who: partial(sample, who) for who in PULLERS}
    efforts = by_turns({**contenders, LEAST: least}, rounds=rounds)
    for who, tree in trees.items():
        if tree != trees[OURS]:
            odd = sorted(set(tree.items()) ^ set(trees[OURS].items()))[:4]
            raise RuntimeError(f"{who} and we made different roots of {reference}: {odd}")
    return efforts


def all_floors(blobs: list[Path]) -> None:
    """Decompress and hash every blob, the largest first, as many at a time as there are processors."""
    contents = sorted((path.read_bytes() for path in blobs), key=len, reverse=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(floor, contents))


def look(root: Path) -> dict[str, tuple[int, ...]]:
    """Mode, owner, and size of files and links, of everything below ``root``."""
    seen: dict[str, tuple[int, ...]] = {}
    for folder, _, names in os.walk(root):
        for path in (folder, *(f"{folder}/{name}" for name in names)):
            status = os.lstat(path)
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            seen[os.path.relpath(path, root)] = (status.st_mode, status.st_uid, status.st_gid, size)
    del seen["."]
    return seen
