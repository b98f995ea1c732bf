"""Fixtures of the attacks: every test here needs root and a real kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attacks.commandline import CommandLine, copy_root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them drive the command against the kernel."""
    for item in items:
        if "attacks" in item.path.parts:
            item.add_marker("kernel")


@pytest.fixture
def mesocosm(tmp_path: Path) -> Iterator[CommandLine]:
    """The command on roots of its own; everything is ended afterwards."""
    commands = CommandLine(tmp_path / "mesocosm")
    yield commands
    commands.leave()


@pytest.fixture
def image(busybox_root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a busybox root to spoil: ``image("etc/passwd")`` is one without that file."""
    made = 0

    def make(*without: str) -> Path:
        nonlocal made
        made += 1
        return copy_root(busybox_root, tmp_path / f"image-{made}", *without)

    return make
