"""The two files that are committed: a table for people, a list for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.measure import Comparison, Series

FOLDER = Path(__file__).parent
Goal = Callable[[Comparison], float | None]
"""The largest ratio that is good enough, None where there is no goal."""


def write(folder: Path, comparisons: Sequence[Comparison], conditions: Mapping[str, str]) -> None:
    """Rewrite ``RESULTS.md`` and ``results.json`` in ``folder``."""
    (folder / "results.json").write_text(json.dumps([as_object(one) for one in comparisons], indent=1) + "\n")
    (folder / "RESULTS.md").write_text("\n".join(page(comparisons, conditions)) + "\n")


def write_images(
    folder: Path, comparisons: Sequence[Comparison], conditions: Mapping[str, str], goal: Goal
) -> None:
    """Rewrite ``IMAGES.md`` and ``images.json`` in ``folder``."""
    (folder / "images.json").write_text(json.dumps([as_object(one) for one in comparisons], indent=1) + "\n")
    (folder / "IMAGES.md").write_text("\n".join(images_page(comparisons, conditions, goal)) + "\n")


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
    yield from _conditions(conditions)
    yield ""
    yield from (FOLDER / "METHOD.md").read_text().splitlines()


def images_page(
    comparisons: Sequence[Comparison], conditions: Mapping[str, str], goal: Goal
) -> Iterator[str]:
    """The lines of IMAGES.md."""
    yield "# Images"
    yield ""
    yield "Written by `make bench-images`.  Medians, with the tenth and ninetieth percentile; contenders take"
    yield "turns.  The ratio is ours divided by the peer's; **bold** where ours is better."
    yield ""
    yield from table(comparisons, goal)
    yield ""
    yield from _conditions(conditions)
    yield ""
    yield from (FOLDER / "METHOD-IMAGES.md").read_text().splitlines()


def _conditions(conditions: Mapping[str, str]) -> Iterator[str]:
    yield "## Conditions"
    yield ""
    yield from (f"- {name}: {value}" for name, value in conditions.items())


def table(comparisons: Sequence[Comparison], goal: Goal | None = None) -> Iterator[str]:
    """The comparisons as a Markdown table, with ``goal`` also whether it was reached."""
    yield "| What | Mesocosm | Peer | | Unit | Ratio |" + (" Goal |" if goal else "")
    yield "|---|--:|--:|---|---|--:|" + ("---|" if goal else "")
    for one in comparisons:
        won = one.ratio < 1 if one.better == "lower" else one.ratio > 1
        ratio = f"**{one.ratio:.2f}**" if won else f"{one.ratio:.2f}"
        yield (
            f"| {one.name} | {_cell(one.ours)} | {_cell(one.peer)} | {one.peer.name} "
            f"| {one.unit}, {one.better} is better | {ratio} |{_verdict(one, goal) if goal else ''}"
        )


def _verdict(comparison: Comparison, goal: Goal) -> str:
    most = goal(comparison)
    if most is None:
        return " |"
    return f" ≤ {most:.2f}: {'met' if comparison.ratio <= most else 'not met'} |"


def _cell(series: Series) -> str:
    low, high = series.spread
    return f"{_figure(series.median)} ({_figure(low)}–{_figure(high)})"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
