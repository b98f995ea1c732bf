"""docs/cli.md says what the commands say, and the commands' examples and formats are what they take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import click
import pytest

from listed_images import APP, NOW, USAGE
from mesocosm.frontends.cli.commands import VERBS, cli
from mesocosm.frontends.cli.examples import lines_of
from mesocosm.frontends.cli.output import Row, by_template, format_help
from mesocosm.frontends.cli.reference import reference
from mesocosm.frontends.cli.verbs import commit
from mesocosm.frontends.cli.verbs import diff as changes
from mesocosm.frontends.cli.verbs.image import diff, du, history, ls
from mesocosm.images.committing import Committed
from mesocosm.images.comparison import Change
from mesocosm.images.inspection import Step
from mesocosm.images.stores import OURS
from mesocosm.root_files import RootChange

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(cli))
EXAMPLES = sorted({line for command in COMMANDS.values() for line in lines_of(command.epilog or "")})


def test_the_reference_is_the_commands_own() -> None:
    head, mark, rest = PAGE.partition("## Reference\n\n")
    assert mark
    assert rest == reference(), "run: python -m mesocosm.frontends.cli.reference"
    assert "mesocosm doctor" in head


def test_every_verb_has_its_part() -> None:
    assert all(f"\n### {verb}\n\n    mesocosm {verb}" in PAGE for verb in VERBS)


def test_every_family_is_in_the_table() -> None:
    table = PAGE.partition("## Images")[2].partition("\n## ")[0]
    assert [name for name in OURS if name != "docker" and f"`{name}" not in table] == []


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_are_understood(line: str) -> None:
    """Each command of a line, between the pipes, is one of ours with options that it has."""
    ours = [part for part in line.partition("#")[0].split(" | ") if "mesocosm" in part]
    assert ours
    for part in ours:
        words = shlex.split(part.partition(" <")[0].partition("mesocosm ")[2])
        length = 2 if tuple(words[:2]) in COMMANDS else 1
        command = COMMANDS[tuple(words[:length])]
        command.make_parser(click.Context(command)).parse_args(words[length:])
        assert len(line) <= 92, line


def test_what_everybody_uses_has_examples() -> None:
    verbs = {path for path, command in COMMANDS.items() if path[0] == "image" and len(path) == 2}
    without = {path for path in verbs if not lines_of(COMMANDS[path].epilog or "")}
    assert without == {("image", "pin"), ("image", "unpin")}


def test_members_of_formats_are_what_rows_have() -> None:
    step = Step(created="", created_by="", comment="", layer=None, size=0)
    change = Change(path="/x", kind="added")
    listed: list[tuple[ModuleType, Sequence[Row]]] = [
        (ls, ls.rows([APP], now=NOW)),
        (history, history.rows([step], now=NOW)),
        (du, du.rows(USAGE)),
        (diff, diff.rows([change])),
        (changes, diff.rows([RootChange(path="/x", kind="added")])),
        (commit, [commit.row(Committed(APP))]),
    ]
    for verb, rows in listed:
        assert len(rows[0]) == len(verb.MEMBERS)
        by_template(" ".join(f"{{{{.{member}}}}}" for member in verb.MEMBERS), rows)
        (option,) = [one for one in verb.command.params if one.name == "form"]
        assert option.help == format_help(*verb.MEMBERS)
        example = re.search(r"'(table .*?)'", option.help)
        assert example is not None and by_template(example[1], rows)
