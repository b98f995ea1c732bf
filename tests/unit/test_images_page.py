"""docs/images.md names verbs, options, members and methods that there are."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from mesocosm.frontends.cli.commands import cli
from mesocosm.images.library import Library
from mesocosm.images.registry.hosts_toml import SERVER_KEYS
from mesocosm.images.selection import KEYS
from mesocosm.images.stores import OURS

PAGE = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
LINES = re.findall(r"^ {4}(?:.*\| )?(mesocosm [a-z].*)$", PAGE, re.MULTILINE)


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that a line means, and the words behind it."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("line", LINES)
def test_every_line_is_understood(line: str) -> None:
    words = shlex.split(line.partition(" | ")[0].partition(" >")[0], comments=True)
    command, rest = command_of(words[1:])
    if command.name == "run":
        rest = rest[:1]
    command.make_parser(click.Context(command)).parse_args(rest)


def test_there_are_lines() -> None:
    verbs = {" ".join(line.split()[1:3]) for line in LINES if line.startswith("mesocosm image ")}
    assert len(verbs) >= 7
    assert len(LINES) >= 30


def test_the_example_calls_what_there_is() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    called = {
        node.attr
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "images"
    }
    assert len(called) >= 9
    assert [name for name in called if not hasattr(Library, name)] == []


def test_lists_on_the_page_are_whole() -> None:
    assert all(f"`{key}=" in PAGE for key in KEYS)
    assert all(f"`{key}`" in PAGE for key in SERVER_KEYS)
    assert all(f"`{name}" in PAGE for name in OURS if name != "docker")
