"""docs/security.md: every attack on images and registries has a row, and every test it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = {
    row: tests.split()
    for row, tests in re.findall(
        r"^\| ((?:I|G|A|PRV|APC|BK|GAP)-[0-9]+) \|[^|]*\| ([^|]*) \|$", PAGE, re.MULTILINE
    )
}
WANTED = [
    *(f"I-{number:02}" for number in range(1, 22)),
    *(f"G-{number:02}" for number in range(1, 14)),
    "A-10",
    *("PRV-1", "PRV-2", "PRV-3", "PRV-4", "PRV-5", "PRV-6", "BK-1", "BK-2", "BK-3", "BK-4", "APC-1"),
    "GAP-1",
    *(f"GAP-{number}" for number in range(20, 28)),
]


@cache
def defined() -> frozenset[str]:
    """The names of all test functions, those of the suites that are shipped too."""
    names = set()
    suites = (ROOT / "src/mesocosm/images/conformance").glob("*.py")
    for path in (*(ROOT / "tests").rglob("test_*.py"), *suites):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                names.add(node.name)
    return frozenset(names)


@pytest.mark.parametrize("row", WANTED)
def test_every_row_is_proved_by_tests_that_are_there(row: str) -> None:
    tests = [word.strip("`,") for word in ROWS.get(row, [])]
    assert tests, f"{row} has no row in docs/security.md"
    assert not set(tests) - defined(), f"{row} names tests that are not there"


def test_no_other_rows_are_named() -> None:
    assert set(ROWS) == set(WANTED)
