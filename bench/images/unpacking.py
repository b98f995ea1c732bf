"""From layer blobs in the page cache to layers: what it costs above the floor, and against unpackers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.images.effort import Effort, of_call, of_commands
from bench.images.material import Material
from bench.images.scratch import Scratch
from bench.ingest import PIECE, floor
from bench.measure import OURS, Measured, Series, by_turns
from fixtures.registry import Registry
from layers import SinkKind, new_sink
from mesocosm.images.digest import Digest
from mesocosm.images.layers.stream import LayerIngest

FLOOR = "isal, 2 × SHA-256"


def run(material: Material, scratch: Scratch, registry: Registry, *, rounds: int) -> list[Measured]:
    """EROFS files against the floor; a directory tree against bsdtar and GNU tar, which verify nothing."""
    del registry
    blobs = material.blobs("gzip")

    def in_child(kind: SinkKind | None, *, alone: bool = False) -> Effort:
        with scratch.fresh() as path:
            return of_call(partial(make_layers, blobs, kind, path), durable=path, alone=alone)

    def by_tool(program: str) -> Effort:
        with scratch.fresh() as path:
            words = [(program, "-xzf", str(blob), "-C", str(path)) for blob in blobs]
            return of_commands(*words, durable=path)

    layers = by_turns(
        {FLOOR: lambda: in_child(None, alone=True), OURS: lambda: in_child("erofs-a", alone=True)},
        rounds=rounds,
    )
    trees = by_turns(
        {OURS: lambda: in_child("apply"), "bsdtar": lambda: by_tool("bsdtar"), "tar": lambda: by_tool("tar")},
        rounds=rounds,
    )
    return [
        _measured("ingest gzip, cpu", layers, "cpu"),
        _measured("directory tree, verified, wall", trees, "wall"),
        _measured("directory tree, verified, cpu", trees, "cpu"),
    ]


def make_layers(blobs: list[Path], kind: SinkKind | None, folder: Path) -> None:
    """Ingest layers, one after another: into a file each, into one tree ("apply"), or (None) the floor."""
    for number, path in enumerate(blobs):
        blob = path.read_bytes()
        if kind is None:
            floor(blob)
            continue
        target = folder / ("tree" if kind == "apply" else f"layer-{number}")
        digest = Digest("sha256", path.name)
        stream = LayerIngest(new_sink(kind, target), blob=digest, blob_size=len(blob))
        for at in range(0, len(blob), PIECE):
            stream.feed(memoryview(blob)[at : at + PIECE])
        stream.finish()


def _measured(name: str, efforts: dict[str, list[Effort]], what: str) -> Measured:
    series = (Series(who, tuple(getattr(one, what) for one in made)) for who, made in efforts.items())
    return Measured(name, "s", tuple(series))
