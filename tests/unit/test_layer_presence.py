"""What is remembered of layers that were there, and what makes it void (images/layers/presence.py)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mesocosm.images.digest import Digest
from mesocosm.images.layers.presence import MOST, SETTLED, Presence

LAYERS = tuple(Digest.of(b"layer %d" % number) for number in range(6))


class Folder:
    """A directory of layers, and how often somebody looked for one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.looks = 0
        path.mkdir()
        for layer in LAYERS:
            (path / layer.hex).mkdir()

    def has(self, layer: Digest) -> bool:
        self.looks += 1
        return (self.path / layer.hex).exists()

    def settle(self) -> None:
        """Wait until the kernel's clock of files has gone on."""
        time.sleep(SETTLED * 1.5 / 1e9)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "layers")
    made.settle()
    return made


def test_layers_that_were_there_are_looked_for_once(folder: Folder) -> None:
    """The work of a further container on a known image does not grow with the image's layers."""
    known = Presence(str(folder.path))
    assert all(known.all(LAYERS, folder.has) for _ in range(5))
    assert folder.looks == len(LAYERS)


def test_a_layer_that_goes_is_missed_at_once(folder: Folder) -> None:
    known = Presence(str(folder.path))
    assert known.all(LAYERS, folder.has)
    (folder.path / LAYERS[3].hex).rename(folder.path.parent / "trash")
    assert not known.all(LAYERS, folder.has)
    (folder.path.parent / "trash").rename(folder.path / LAYERS[3].hex)
    assert known.all(LAYERS, folder.has)


def test_one_layer_in_the_place_of_another_is_noticed(folder: Folder) -> None:
    """The number of links is the same then; the time is not."""
    known = Presence(str(folder.path))
    assert known.all(LAYERS, folder.has)
    (folder.path / LAYERS[3].hex).rename(folder.path / "other")
    assert not known.all(LAYERS, folder.has)


def test_nothing_is_remembered_right_behind_a_change(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel whose clock of files ticks slowly would give the next change the same time."""
    changed = folder.path.stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed + SETTLED)
    known = Presence(str(folder.path))
    assert known.all(LAYERS, folder.has)
    assert known.all(LAYERS, folder.has)
    assert folder.looks == 2 * len(LAYERS)


def test_nothing_is_remembered_of_the_future(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was set back: how old the last change is cannot be told."""
    changed = folder.path.stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed - 3600 * 10**9)
    known = Presence(str(folder.path))
    assert known.all(LAYERS, folder.has)
    assert known.all(LAYERS, folder.has)
    assert folder.looks == 2 * len(LAYERS)


def test_missing_layers_are_not_remembered(folder: Folder) -> None:
    known = Presence(str(folder.path))
    (folder.path / LAYERS[0].hex).rmdir()
    folder.settle()
    assert not known.all(LAYERS, folder.has)
    assert not known.all(LAYERS, folder.has)
    assert known.all(LAYERS[1:], folder.has)


def test_what_is_remembered_is_bounded(folder: Folder) -> None:
    known = Presence(str(folder.path))
    for number in range(2 * MOST + 3):
        assert known.all(LAYERS[:1] * (number + 1), folder.has)
        assert len(known._known) <= MOST
