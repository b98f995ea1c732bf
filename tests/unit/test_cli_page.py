"""docs/cli.md says what the commands say."""

from __future__ import annotations

from pathlib import Path

from mesocosm.frontends.cli.commands import VERBS
from mesocosm.frontends.cli.reference import reference

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def test_the_reference_is_the_commands_own() -> None:
    head, mark, rest = PAGE.partition("## Reference\n\n")
    assert mark
    assert rest == reference(), "run: python -m mesocosm.frontends.cli.reference"
    assert "mesocosm doctor" in head


def test_every_verb_has_its_part() -> None:
    assert all(f"\n### {verb}\n\n    mesocosm {verb}" in PAGE for verb in VERBS)
