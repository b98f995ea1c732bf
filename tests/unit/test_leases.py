"""Leases: they add up, die with their pulls, and a torn one is never guessed at (PRV-6, Q-18)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesocosm.errors import Corrupt
from mesocosm.images.digest import Digest
from mesocosm.images.leases import Leases

A, B, C = (Digest.of(text) for text in (b"a", b"b", b"c"))


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    """An empty set of leases."""
    made = Leases(tmp_path)
    made.prepare()
    return made


def test_a_containers_lease_only_grows(leases: Leases) -> None:
    leases.extend("container-x", [A], [B])
    leases.extend("container-x", [B], [])
    leases.extend("container-y", [A], [C])
    needed = leases.needed()
    assert needed.digests == {str(A), str(B)} and needed.layers == {str(B), str(C)}
    assert needed.owners[str(A)] == ("container-x", "container-y")
    assert leases.drop("container-x") and not leases.drop("container-x")
    assert leases.needed().layers == {str(C)}


def test_a_pull_holds_what_it_names_as_long_as_it_lasts(leases: Leases) -> None:
    with leases.pulling() as pulling:
        pulling.need([A], [B])
        pulling.need([C], [])
        assert leases.needed().digests == {str(A), str(C)} and leases.needed().layers == {str(B)}
    assert leases.needed().digests == frozenset() and leases.owners() == []


def test_a_dead_pull_is_forgotten(leases: Leases, tmp_path: Path) -> None:
    """Its lock dies with its process, whatever pid comes after it."""
    program = (
        "import os, sys; from pathlib import Path; from mesocosm.images.leases import Leases\n"
        "from mesocosm.images.digest import Digest\n"
        "leases = Leases(Path(sys.argv[1])); context = leases.pulling(); pulling = context.__enter__()\n"
        "pulling.need([Digest.of(b'a')], []); print(len(leases.needed().digests)); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-uc", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-9, "1\n")
    assert len(leases.owners("pull-")) == 1
    assert leases.needed().digests == frozenset() and leases.owners() == []


def test_unknown_containers_are_dropped_and_pins_stay(leases: Leases) -> None:
    for owner in ("container-known", "container-known.nested", "container-gone", "pin-x"):
        leases.extend(owner, [A], [])
    dropped = leases.drop_all_but(lambda: {"known", "known.nested"})
    assert dropped == ["container-gone"]
    assert leases.owners() == ["container-known", "container-known.nested", "pin-x"]


def test_a_container_recorded_meanwhile_keeps_its_lease(leases: Leases) -> None:
    """The owners are listed before the containers are asked for."""

    def known() -> set[str]:
        leases.extend("container-new", [A], [])
        return set()

    assert leases.drop_all_but(known) == []
    assert leases.owners() == ["container-new"]


def test_an_empty_lease_is_a_power_cuts_and_holds_nothing(leases: Leases, tmp_path: Path) -> None:
    (tmp_path / "leases/container-x").write_bytes(b"")
    assert leases.needed().digests == frozenset()
    leases.extend("container-x", [A], [])
    assert leases.needed().digests == {str(A)}


@pytest.mark.parametrize("garbage", [b"{", b"\xff\xff", b"[]", b'{"owner": "x", "version": 99}'])
def test_what_cannot_be_read_stops_collection(garbage: bytes, leases: Leases, tmp_path: Path) -> None:
    (tmp_path / "leases/container-x").write_bytes(garbage)
    with pytest.raises(Corrupt, match="container-x"), leases.frozen():
        pass
    os.unlink(tmp_path / "leases/container-x")
    with leases.frozen() as needed:
        assert needed.layers == frozenset()
