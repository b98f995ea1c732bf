"""Ingesting layers in tests: the same archive into every kind of layer, seen as a directory tree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mesocosm.images.digest import Digest
from mesocosm.images.layers.mounts import mount_image
from mesocosm.images.layers.stream import DirectorySink, ErofsSink, LayerFacts, LayerIngest, LayerSink
from mesocosm.images.limits import DEFAULT_LIMITS, DEFAULT_POLICY, Limits, Policy
from mesocosm.linux.mounts import attach_at
from mesocosm.linux.syscalls import mount, umount2

SinkKind = Literal["apply", "overlay", "erofs-a", "erofs-i"]
SINKS: tuple[SinkKind, ...] = ("apply", "overlay", "erofs-a", "erofs-i")

MS_RDONLY = 1
UMOUNT_NOFOLLOW = 8


def new_sink(
    kind: SinkKind, path: Path, limits: Limits = DEFAULT_LIMITS, policy: Policy = DEFAULT_POLICY
) -> LayerSink:
    """A sink of the given kind that writes to ``path``."""
    if kind == "apply":
        return DirectorySink(path, flavour="apply", limits=limits, policy=policy)
    if kind == "overlay":
        return DirectorySink(path, flavour="overlay", limits=limits, policy=policy)
    return ErofsSink(path, form="a" if kind == "erofs-a" else "i", limits=limits, policy=policy)


def ingest(
    kind: SinkKind,
    path: Path,
    blob: bytes,
    *,
    limits: Limits = DEFAULT_LIMITS,
    policy: Policy = DEFAULT_POLICY,
    diff_id: Digest | None = None,
    piece: int = 1 << 18,
) -> LayerFacts:
    """Ingest a layer blob, whole."""
    stream = LayerIngest(new_sink(kind, path, limits, policy), limits=limits, diff_id=diff_id)
    for at in range(0, len(blob), piece):
        stream.feed(memoryview(blob)[at : at + piece])
    return stream.finish()


@contextmanager
def seen(kind: SinkKind, path: Path) -> Iterator[Path]:
    """The layer at ``path`` as a directory: itself, or its EROFS file mounted."""
    if not kind.startswith("erofs"):
        yield path
        return
    with mounted(path) as target:
        yield target


@contextmanager
def mounted(path: Path, devices: Sequence[Path] = ()) -> Iterator[Path]:
    """An EROFS file and those that it refers to, mounted in whichever way this kernel has."""
    target = path.with_name(path.name + ".mount")
    target.mkdir()
    detached = mount_image((path, *devices))
    try:
        attach_at(detached, str(target))
    finally:
        os.close(detached)
    try:
        yield target
    finally:
        umount2(str(target), UMOUNT_NOFOLLOW)
        target.rmdir()


@contextmanager
def stacked(target: Path, lowers: list[Path]) -> Iterator[Path]:
    """A read-only overlay of directories, the lowest first."""
    target.mkdir()
    empty = target.with_name(target.name + ".empty")
    empty.mkdir()
    order = ":".join(str(path) for path in [*reversed(lowers), empty])
    mount("overlay", str(target), "overlay", MS_RDONLY, f"lowerdir={order}")
    try:
        yield target
    finally:
        umount2(str(target), UMOUNT_NOFOLLOW)
        target.rmdir()
        empty.rmdir()
