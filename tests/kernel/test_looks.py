"""What a layer's record says of its implied directories and its root is what its file system says."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layers import ingest, mounted
from mesocosm.images.layers.facts import ErofsFacts, TreeFacts
from mesocosm.images.layers.looks import find_looks, hides_all
from mesocosm.images.layers.tree import NOTED_PLACES
from tarballs import Member, archive, directory, file

PARTS = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map(b"/".join)
MEMBERS = st.one_of(
    st.builds(file, PATHS),
    st.builds(directory, PATHS),
    st.builds(lambda path: file(path + b"/.wh..wh..opq", b""), PATHS),
    st.builds(lambda path: file(path + b"/.wh.gone", b""), PATHS),
    st.just(file(b".wh..wh..opq", b"")),
    st.just(directory(b".")),
)


def facts_of(path: Path, members: list[Member]) -> ErofsFacts:
    made = ingest("erofs-a", path, archive(*members)).made
    assert isinstance(made, ErofsFacts)
    return made


@contextlib.contextmanager
def held(*layers: Path) -> Iterator[list[int]]:
    """Descriptors of the layers' roots."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for layer in layers:
            fd = os.open(stack.enter_context(mounted(layer)), os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, fd)
            descriptors.append(fd)
        yield descriptors


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(MEMBERS, max_size=8), min_size=2, max_size=3))
def test_noted_places_lead_to_the_looks_that_a_walk_finds(stack: list[list[Member]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths, facts = [], []
        for number, members in enumerate(stack):
            # A file below a file is no layer; what is asked here needs none.
            files = {member.name for member in members if not member.name.endswith(b"opq")}
            kept = [each for each in members if not any(each.name.startswith(name + b"/") for name in files)]
            paths.append(Path(folder) / f"layer-{number}")
            facts.append(facts_of(paths[-1], kept))
        with held(*reversed(paths)) as layers:
            noted = [fact.implied_at for fact in reversed(facts)]
            assert find_looks(layers, noted) == find_looks(layers, [None] * len(layers))
            assert [fact.opaque for fact in reversed(facts)] == [hides_all(layer) for layer in layers]


def test_the_places_are_those_below_the_root_and_in_order(tmp_path: Path) -> None:
    facts = facts_of(tmp_path / "layer", [file(b"usr/lib/x"), directory(b"etc"), file(b"etc/apt/y")])
    assert facts.implied_at == ("etc/apt", "usr", "usr/lib")
    assert facts.implied == 4, "the root is one of them"
    assert not facts.opaque


def test_a_layer_that_describes_all_it_has_has_no_places(tmp_path: Path) -> None:
    facts = facts_of(tmp_path / "layer", [directory(b"etc"), file(b"etc/motd")])
    assert facts.implied_at == ()


def test_too_many_places_are_not_noted(tmp_path: Path) -> None:
    most = [file(b"d%d/f" % number) for number in range(NOTED_PLACES - 1)]
    assert len(facts_of(tmp_path / "most", most).implied_at or ()) == NOTED_PLACES - 1
    assert facts_of(tmp_path / "more", [*most, file(b"one-more/f")]).implied_at is None


def test_a_place_that_is_no_utf8_is_not_noted(tmp_path: Path) -> None:
    assert facts_of(tmp_path / "layer", [file(b"caf\xe9/menu")]).implied_at is None


def test_a_tree_notes_nothing(tmp_path: Path) -> None:
    made = ingest("overlay", tmp_path / "layer", archive(file(b"usr/bin/x"))).made
    assert isinstance(made, TreeFacts)
    assert made.implied_at is None
    assert made.opaque is None
