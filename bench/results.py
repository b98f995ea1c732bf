"""The two files that are committed: a table for people, a list for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.measure import Comparison, Series


def write(folder: Path, comparisons: Sequence[Comparison], conditions: Mapping[str, str]) -> None:
    """Rewrite ``RESULTS.md`` and ``results.json`` in ``folder``."""
    (folder / "results.json").write_text(json.dumps([as_object(one) for one in comparisons], indent=1) + "\n")
    (folder / "RESULTS.md").write_text("\n".join(page(comparisons, conditions)) + "\n")


def as_object(comparison: Comparison) -> dict[str, object]:
    """One comparison for programs; ``ratio`` is ours divided by the peer's."""
    return {
        "name": comparison.name,
        "ours": round(comparison.ours.median, 3),
        "peer": round(comparison.peer.median, 3),
        "peer_name": comparison.peer.name,
        "unit": comparison.unit,
        "ratio": round(comparison.ratio, 3),
        "better": comparison.better,
        "samples": len(comparison.ours.values),
    }


def page(comparisons: Sequence[Comparison], conditions: Mapping[str, str]) -> Iterator[str]:
    """The lines of RESULTS.md."""
    yield "# Results"
    yield ""
    yield "Written by `make bench`.  Medians, with the tenth and ninetieth percentile; contenders take turns."
    yield "The ratio is ours divided by the peer's; **bold** where ours is better."
    yield ""
    yield from table(comparisons)
    yield ""
    yield "Where the milliseconds of one launch go: [PROFILE.md](PROFILE.md)."
    yield ""
    yield "## Conditions"
    yield ""
    yield from (f"- {name}: {value}" for name, value in conditions.items())
    yield ""
    yield from Path(__file__).with_name("METHOD.md").read_text().splitlines()


def table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The comparisons as a Markdown table."""
    yield "| What | Mesocosm | Peer | | Unit | Ratio |"
    yield "|---|--:|--:|---|---|--:|"
    for one in comparisons:
        won = one.ratio < 1 if one.better == "lower" else one.ratio > 1
        ratio = f"**{one.ratio:.2f}**" if won else f"{one.ratio:.2f}"
        yield (
            f"| {one.name} | {_cell(one.ours)} | {_cell(one.peer)} | {one.peer.name} "
            f"| {one.unit}, {one.better} is better | {ratio} |"
        )


def _cell(series: Series) -> str:
    low, high = series.spread
    return f"{_figure(series.median)} ({_figure(low)}–{_figure(high)})"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
