"""Choosing images by --filter, and an image's process by --change."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import InvalidConfig, MesocosmError, NotFound
from mesocosm.images.changes import runtime_of
from mesocosm.images.image import Image
from mesocosm.images.registry.session import registry_name
from mesocosm.images.selection import Selection, made, matches
from mesocosm.images.strict import Json
from mesocosm.model import ImageRuntime

OLD = Image(
    references=("docker://docker.io/library/debian:12", "docker://localhost:5000/a/b:x"),
    digest="sha256:" + "a" * 64,
    image_id="sha256:" + "b" * 64,
    platform="linux/amd64",
    size=1,
    created="2024-01-01T00:00:00Z",
    pulled_at=1e9,
    last_used=1e9,
    checked_at=None,
    layers=(),
    runtime=ImageRuntime(labels={"team": "a", "flag": ""}),
    source="s",
)
NEW = msgspec.structs.replace(OLD, references=(), created="2025-01-01T00:00:00+02:00", runtime=ImageRuntime())


def find(text: str) -> Image:
    if text == "old":
        return OLD
    if text == "new":
        return NEW
    raise NotFound(text)


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        ([], True, True),
        (["reference=debian"], True, False),
        (["reference=debian:1*"], True, False),
        (["reference=docker.io/library/debian:12"], True, False),
        (["reference=*/a/b"], True, False),
        (["reference=debian:13"], False, False),
        (["reference=debian:13", "reference=*/b:x"], True, False),
        (["label=team"], True, False),
        (["label=team=a", "label=flag"], True, False),
        (["label=team=b"], False, False),
        (["before=new"], True, False),
        (["since=old"], False, True),
        (["since=old", "before=old"], False, False),
        (["dangling=true"], False, True),
        (["dangling=0"], True, False),
        (["dangling=true", "reference=debian"], False, False),
    ],
)
def test_filters(words: list[str], old: bool, new: bool) -> None:
    selection = Selection(words, find)
    assert (selection.admits(OLD), selection.admits(NEW)) == (old, new)


def test_only_names_that_are_meant_are_shown() -> None:
    selection = Selection(["reference=*:x"], find)
    assert [name for name in OLD.references if selection.names(name)] == [OLD.references[1]]


@pytest.mark.parametrize("word", ["reference", "colour=red", "dangling=maybe", "=", "label="])
def test_filters_that_are_not_known(word: str) -> None:
    with pytest.raises(InvalidConfig, match="filter"):
        Selection([word], find)


def test_filters_that_name_nothing() -> None:
    with pytest.raises(NotFound):
        Selection(["before=other"], find)


@given(st.text(max_size=30))
def test_authors_dates_are_hostile(created: str) -> None:
    assert made(msgspec.structs.replace(OLD, created=created)) >= -1e11


@given(st.text(max_size=20), st.text(max_size=20))
def test_patterns_are_hostile(reference: str, pattern: str) -> None:
    assert matches(reference, pattern) in (True, False)


def test_changes() -> None:
    lines = [
        'CMD ["/bin/sh", "-c", "x"]',
        "entrypoint run it",
        'ENV A=b "C=d e"',
        "ENV OLD way of it",
        "LABEL team=a",
        "EXPOSE 80 53/udp",
        'VOLUME ["/data"]',
        "USER 1000:100",
        "WORKDIR /srv",
        "STOPSIGNAL SIGUSR1",
    ]
    assert runtime_of(lines) == {
        "Cmd": ["/bin/sh", "-c", "x"],
        "Entrypoint": ["/bin/sh", "-c", "run it"],
        "Env": ["A=b", "C=d e", "OLD=way of it"],
        "Labels": {"team": "a"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
        "User": "1000:100",
        "WorkingDir": "/srv",
        "StopSignal": "SIGUSR1",
    }
    assert runtime_of([]) == {}
    given: dict[str, Json] = {"User": "1", "AdditionalGids": [7]}
    assert runtime_of(["USER 2"], given) == {"User": "2"} and runtime_of([], given) == given


@pytest.mark.parametrize(
    "line", ["", "CMD", "RUN true", "FROM x", 'CMD ["a"', "CMD [1]", "ENV A", "ENV A=b c", 'ENV "A=b']
)
def test_changes_that_are_not_understood(line: str) -> None:
    with pytest.raises(InvalidConfig, match="change"):
        runtime_of([line])


@given(st.text(max_size=40))
def test_changes_fail_in_words(line: str) -> None:
    try:
        runtime_of([line])
    except MesocosmError as error:
        assert "change" in str(error)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker.io", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("https://ghcr.io/", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("", "docker.io"),
    ],
)
def test_registries(text: str, name: str) -> None:
    assert registry_name(text) == name


@pytest.mark.parametrize("text", ["a b", "ghcr.io/org", "user:pw@host", "host:port", "\x1b[2J", "-x"])
def test_no_registries(text: str) -> None:
    with pytest.raises(InvalidConfig, match="is not a registry"):
        registry_name(text)
