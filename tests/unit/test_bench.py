"""The benchmark's arithmetic and its two files; no timing is asserted here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import bundle, measure, results, timeline
from bench.images import goals
from bench.measure import Comparison, Measured, Series, by_turns, in_turns, limit


def _measured(unit: str = "ms") -> Measured:
    ours = Series("mesocosm", (2.0, 1.0, 3.0))
    peer = Series("crun", (4.0, 5.0, 3.0))
    return Measured("launch", "per s" if unit == "per s" else "ms", (peer, ours))


def test_ratio_is_ours_divided_by_the_peers_median() -> None:
    [comparison] = _measured().comparisons()
    assert (comparison.ours.median, comparison.peer.median, comparison.ratio) == (2.0, 4.0, 0.5)


def test_nothing_is_compared_when_we_were_left_out() -> None:
    assert Measured("launch", "ms", (Series("crun", (1.0,)), Series("runc", (2.0,)))).comparisons() == []


def test_bold_says_who_won_in_the_direction_that_is_good() -> None:
    assert "**0.50**" in "\n".join(results.table(_measured().comparisons()))
    lost = "\n".join(results.table(_measured("per s").comparisons()))
    assert "0.50" in lost
    assert "**" not in lost


def test_both_files_are_written(tmp_path: Path) -> None:
    results.write(tmp_path, _measured().comparisons(), {"kernel": "9.9"})
    [entry] = json.loads((tmp_path / "results.json").read_text())
    assert {key: entry[key] for key in ("name", "ours", "peer", "peer_name", "unit", "ratio")} == {
        "name": "launch",
        "ours": 2.0,
        "peer": 4.0,
        "peer_name": "crun",
        "unit": "ms",
        "ratio": 0.5,
    }
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| launch | 2.00 (1.00–3.00) | 4.00 (3.00–5.00) | crun |" in page
    assert "- kernel: 9.9" in page


def test_a_profile_joins_steps_of_a_kind_and_hides_none_of_the_time() -> None:
    marks = [("b", 3_000_000), ("a", 1_000_000), ("b", 2_000_000), ("c", 3_010_000), ("a", 9_000_000)]
    found = list(timeline.stretches(0, marks))
    assert [(one.name, one.times, one.spent) for one in found] == [
        ("a", 1, 1.0),
        ("b", 2, 2.0),
        ("c", 1, 0.01),
        ("a", 1, 5.99),
    ]
    merged = timeline.medians([found, found, [one._replace(spent=one.spent * 3) for one in found]])
    assert merged == found
    lines = "\n".join(timeline.page(merged, {"kernel": "9.9"}))
    assert "| b × 2 | 2.00 | 3.00 |" in lines
    assert "| a | 6.00 | 9.00 |" in lines
    assert "| c |" not in lines


async def test_contenders_take_turns_and_warm_up_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every round has each of them once, in an order that changes."""
    monkeypatch.setattr(measure, "PAUSE", 0)
    order: list[str] = []

    async def first() -> float:
        order.append("a")
        return len(order) - 1

    async def second() -> float:
        order.append("b")
        return len(order) - 1

    measured = await in_turns("x", "ms", {"a": first, "b": second}, rounds=8, warm_up=1)
    rounds = ["".join(order[at : at + 2]) for at in range(0, len(order), 2)]
    assert len(rounds) == 9
    assert set(rounds) == {"ab", "ba"}
    for series in measured.series:
        counted = [at for at, who in enumerate(order) if who == series.name and at >= 2]
        assert series.values == tuple(counted)


def test_spread_is_of_the_middle_four_fifths() -> None:
    assert Series("x", tuple(float(n) for n in range(101))).spread == (10.0, 90.0)


def test_profile_given_to_the_peers_is_resolved() -> None:
    """Rules for capabilities it has not are left out; nothing of the form of Docker alone remains."""
    profile = bundle.seccomp()
    names = {name for rule in profile["syscalls"] for name in rule["names"]}
    assert "read" in names
    assert "init_module" not in names
    assert all(set(rule) <= {"names", "action", "errnoRet", "args"} for rule in profile["syscalls"])


def test_comparison_knows_which_direction_is_good() -> None:
    series = Series("x", (1.0,))
    assert Comparison("x", "KiB", series, series).better == "lower"
    assert Comparison("x", "per s", series, series).better == "higher"


def test_image_goals_are_ratios_not_to_be_exceeded() -> None:
    """What has a goal is told as met or not; what has none is told without."""
    fast = Comparison("pull gzip, wall", "s", Series("mesocosm", (2.0,)), Series("containerd", (8.0,)))
    slow = Comparison("pull gzip, wall", "s", Series("mesocosm", (2.0,)), Series("podman", (8.0,)))
    free = Comparison("pull gzip, cpu", "s", Series("mesocosm", (2.0,)), Series("podman", (8.0,)))
    assert goals.missed([fast, slow, free]) == [slow]
    lines = list(results.table([fast, slow, free], goals.goal))[2:]
    assert [line.rpartition("**")[2] for line in lines] == [
        " | ≤ 0.29: met |",
        " | ≤ 0.20: not met |",
        " | |",
    ]


def test_image_files_are_written(tmp_path: Path) -> None:
    one = Comparison("6 layers mounted", "ms", Series("mesocosm", (0.5,)), limit(1.0))
    results.write_images(tmp_path, [one], {"kernel": "9.9"}, goals.goal)
    [entry] = json.loads((tmp_path / "images.json").read_text())
    assert (entry["name"], entry["peer_name"], entry["ratio"]) == ("6 layers mounted", "the limit", 0.5)
    page = (tmp_path / "IMAGES.md").read_text()
    assert "≤ 1.00: met" in page
    assert "- kernel: 9.9" in page
    assert "## Method" in page


def test_image_contenders_take_turns_without_a_warm_up() -> None:
    order: list[str] = []
    found = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b", "b", "a"]
    assert {who: len(made) for who, made in found.items()} == {"a": 2, "b": 2}
