"""What is to be reached, as the largest ratio of ours to the peer's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.measure import Comparison

MOST: Final[dict[tuple[str, str], float]] = {
    ("pull gzip, wall", "containerd"): 1 / 3.5,
    ("pull gzip, wall", "podman"): 1 / 5,
    ("pull zstd, wall", "containerd"): 1 / 2.5,
    ("pull zstd, wall", "podman"): 1 / 2.5,
    ("pull gzip, peak memory", "the limit"): 1.0,
    ("pull zstd, peak memory", "the limit"): 1.0,
    ("ingest gzip, cpu", "isal, 2 × SHA-256"): 1.25,
    ("directory tree, verified, wall", "bsdtar"): 1 / 1.2,
    ("directory tree, verified, wall", "tar"): 1 / 1.2,
    ("6 layers mounted", "the limit"): 1.0,
    ("128 layers mounted", "the limit"): 1.0,
    ("second container, 6 layers, system calls", "one layer"): 1.0,
    ("second container, calls that mount", "the limit"): 0.0,
    ("page cache, 4 containers", "one copy"): 1.1,
    ("image removed", "rm of its tree"): 1 / 5,
}
"""By question and peer; what is not here is told without a goal."""


def goal(comparison: Comparison) -> float | None:
    """The largest ratio that is good enough, None where there is no goal."""
    return MOST.get((comparison.name, comparison.peer.name))


def missed(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those whose goal was not reached."""
    return [one for one in comparisons if (most := goal(one)) is not None and one.ratio > most]
