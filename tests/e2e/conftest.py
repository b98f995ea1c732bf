"""Fixtures of the end-to-end tests: the installed command on roots of its own, which ends empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.commandline import CommandLine
from e2e.leftovers import assert_nothing_left, names_in


def leave(commands: CommandLine) -> None:
    """End what still runs; nothing of it may be left."""
    if names_in(commands.root / "containers"):
        commands.leave()
    assert_nothing_left(commands)


@pytest.fixture
def mesocosm(tmp_path: Path) -> Iterator[CommandLine]:
    """The command on roots of its own; afterwards nothing of its containers may be left."""
    commands = CommandLine(tmp_path / "mesocosm")
    yield commands
    leave(commands)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command on roots that a module's tests share, for what takes long to pull."""
    commands = CommandLine(tmp_path_factory.mktemp("shared") / "mesocosm")
    yield commands
    leave(commands)
