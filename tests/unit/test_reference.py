"""Image references: grammar, defaults, canonical form."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesocosm.errors import InvalidConfig
from mesocosm.images.reference import Reference, parse_docker_name, parse_reference

HEX = "a" * 64
PIN = f"sha256:{HEX}"

EXAMPLES = {
    "debian": "docker://docker.io/library/debian:latest",
    "debian:12": "docker://docker.io/library/debian:12",
    "user/app": "docker://docker.io/user/app:latest",
    "index.docker.io/debian": "docker://docker.io/library/debian:latest",
    "docker://ghcr.io/a/b/c:1.0": "docker://ghcr.io/a/b/c:1.0",
    "localhost/x": "docker://localhost/x:latest",
    "localhost:5000/x": "docker://localhost:5000/x:latest",
    "localhost:5000": "docker://docker.io/library/localhost:5000",
    "10.0.0.1:5000/x:y": "docker://10.0.0.1:5000/x:y",
    "[::1]:5000/x:y": "docker://[::1]:5000/x:y",
    "GHCR.io/x": "docker://ghcr.io/x:latest",
    f"debian@{PIN}": f"docker://docker.io/library/debian@{PIN}",
    f"debian:12@{PIN}": f"docker://docker.io/library/debian:12@{PIN}",
    "host": "host",
    "docker://host": "docker://docker.io/library/host:latest",
    "docker:dind": "docker://docker.io/library/docker:dind",
    "oci:/a/b": "oci:/a/b",
    "oci:rel/b:v1": "oci:rel/b:v1",
    f"oci:/a:v1@{PIN}": f"oci:/a:v1@{PIN}",
    "oci-archive:/a.tar:docker.io/library/x:1": "oci-archive:/a.tar:docker.io/library/x:1",
    "docker-archive:/a.tar": "docker-archive:/a.tar",
    "docker-archive:/a.tar:debian:12": "docker-archive:/a.tar:docker.io/library/debian:12",
    "docker-archive:/a.tar:@1": "docker-archive:/a.tar:@1",
    "dir:/srv/root": "dir:/srv/root",
    "dir:a:b@c": "dir:a:b@c",
    "tarball:./x.tar.gz": "tarball:./x.tar.gz",
    f"tarball:https://e.org/x.tar@{PIN}": f"tarball:https://e.org/x.tar@{PIN}",
    "appc:example.com/app": "appc:example.com/app",
    "appc:example.com/app:1.0,os=linux,arch=amd64": "appc:example.com/app:1.0,arch=amd64,os=linux",
    "aci:x.aci": "aci:x.aci",
    "erofs:/x.erofs": "erofs:/x.erofs",
    "golden://web": "golden://web",
    "acme-2://a:b@c/d e": "acme-2://a:b@c/d e",
    f"golden://web@{PIN}": f"golden://web@{PIN}",
}

REFUSED = [
    "",
    " ",
    "debian ",
    "debian\n",
    "Debian",
    "a//b",
    "/a",
    "a/",
    "-a",
    "a_-b",
    "a..b/c",
    "x:",
    "x:.y",
    "x:" + "y" * 129,
    "x@",
    "x@sha256:abc",
    "x@md5:" + "a" * 32,
    f"x@{PIN}@{PIN}",
    HEX,
    "host:99999999/x",
    "h.o:99999/x",
    "h.o:0/x",
    "ho_st.x/a",
    "http://docker.io/x",
    "https://docker.io/x",
    "docker://",
    "docker://http://x/y",
    "ftp://e.org/x",
    "file:///etc/shadow",
    "golden://",
    f"golden://@{PIN}",
    "golden://a\x1b[31m",
    "Golden://x",
    "-acme://x",
    "host://x",
    "dir-://x",
    "a" * 256,
    "a/../b",
    "caf\u00e9",
    "x:\u0661",
    "oci:",
    "oci:/a:b c",
    "oci:/a:..",
    "dir:",
    "dir:/a\x00b",
    "dir:/a\x1b[31m",
    "docker-archive:/a:@x",
    "docker-archive:/a:@01",
    f"docker-archive:/a:b@{PIN}x",
    "tarball:ftp://e.org/x",
    "tarball:file:///etc/shadow",
    "tarball:http://e.org/a b",
    "appc:",
    "appc:Example.com/App",
    "appc:../x",
    "appc:a,b",
    "appc:a,b=c,b=d",
    "appc:a:1,version=2",
    "appc:a,B=c",
]


@pytest.mark.parametrize("text", list(EXAMPLES))
def test_examples_have_their_canonical_form(text: str) -> None:
    parsed = parse_reference(text)
    assert str(parsed) == EXAMPLES[text]
    assert parse_reference(str(parsed)) == parsed
    assert parse_reference(parsed.familiar) == parsed


@pytest.mark.parametrize("text", REFUSED)
def test_refused_by_name_on_one_line(text: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        parse_reference(text)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


def test_the_whole_reference_is_named_not_only_its_bad_part() -> None:
    with pytest.raises(InvalidConfig, match=r"'docker://ghcr\.io/Foo:1'.*lower case"):
        parse_reference("docker://ghcr.io/Foo:1")


@pytest.mark.parametrize(
    "text, short",
    [
        ("docker.io/library/debian:12", "debian:12"),
        ("docker.io/user/app:1", "user/app:1"),
        ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        (f"docker://docker.io/library/debian@{PIN}", f"debian@{PIN}"),
        ("oci:/a:b", "oci:/a:b"),
    ],
)
def test_familiar_forms(text: str, short: str) -> None:
    assert parse_reference(text).familiar == short


def test_pinning() -> None:
    from mesocosm.images.digest import Digest

    assert str(parse_reference("debian:12").pinned(Digest.parse(PIN))).endswith(f":12@{PIN}")


@given(st.text(max_size=80))
@example("docker://a@b")
@example("oci::")
@example("appc:,")
def test_any_text_is_parsed_into_something_stable_or_refused(text: str) -> None:
    try:
        parsed = parse_reference(text)
    except InvalidConfig:
        return
    assert parse_reference(str(parsed)) == parsed
    assert str(parse_reference(str(parsed))) == str(parsed)


# The distribution reference grammar, written apart from the code under test.
COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+(?::[1-9][0-9]{0,3})?"
NAME = re.compile(rf"{DOMAIN}/{COMPONENT}(?:/{COMPONENT})*(?::[\w][\w.-]{{0,127}})?(?:@{PIN})?", re.ASCII)
ALPHABET = "ab0.-_/:@ A\n\u0661"


@given(st.from_regex(NAME, fullmatch=True))
def test_everything_of_the_grammar_is_accepted(text: str) -> None:
    name = text.partition("@")[0]
    if len(re.sub(r":[\w.-]*\Z", "", name, flags=re.ASCII)) > 200:
        return
    assert parse_docker_name(text).transport == "docker"


@given(st.text(ALPHABET, min_size=1, max_size=30))
def test_accepted_names_are_of_the_grammar(text: str) -> None:
    try:
        parsed = parse_docker_name("r.io/" + text)
    except InvalidConfig:
        assert not NAME.fullmatch("r.io/" + text)
        return
    assert NAME.fullmatch("r.io/" + text), parsed


PATHS = st.text(st.characters(whitelist_categories=("L", "N"), whitelist_characters="/.-_ @"), min_size=1)


@given(st.sampled_from(["oci", "dir", "tarball", "aci", "erofs", "docker-archive"]), PATHS)
def test_paths_round_trip(transport: str, path: str) -> None:
    reference = parse_reference(f"{transport}:{path}")
    assert reference.path == path
    assert parse_reference(str(reference)) == reference


def test_a_value_that_would_not_round_trip_cannot_be_built() -> None:
    wrongs: tuple[Callable[[], Reference], ...] = (
        lambda: Reference("oci", path="/a:b"),
        lambda: Reference("oci", path=f"/a@{PIN}"),
        lambda: Reference("docker", registry="docker.io", repository="debian", tag="1"),
        lambda: Reference("docker", registry="r.io", repository="a"),
        lambda: Reference("appc", repository="a", labels=(("b", "1"), ("a", "2"))),
        lambda: Reference("dir", path="/a", ref="b"),
        lambda: Reference("ftp", path="/a"),
    )
    for wrong in wrongs:
        with pytest.raises(InvalidConfig):
            wrong()
