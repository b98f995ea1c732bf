"""Whether files can be shown with other owners here: id-mapped mounts, file system by file system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mesocosm.doctor.finding import Finding, tried
from mesocosm.images import mapped_layers


def examine(trial: Path) -> Iterator[Finding]:
    """Map a layer, a directory beside it, and put an overlay on them; map memory; ``trial`` is where."""
    yield tried(
        "id-mapped mounts",
        lambda: mapped_layers.try_layers(trial),
        good="--idmap and volumes with idmap work, without copying",
        without="images cannot be shown with other owners",
        fix="run Linux 5.19 or later, with the state directory on ext4, xfs or btrfs, or use --backend copy",
        required=False,
    )
    yield tried(
        "id-mapped memory",
        mapped_layers.try_memory,
        good="--idmap works for the image host, and for volumes on tmpfs",
        without="no --idmap for the image host, nor for volumes on tmpfs",
        fix="run Linux 6.3 or later, or use another image",
        required=False,
    )
