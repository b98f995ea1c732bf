"""Policies: what files say, which rule decides, and that a bad one admits nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesocosm.errors import Denied, InvalidConfig
from mesocosm.images.policy import Policy, Rule, load
from mesocosm.images.reference import parse_reference

POLICY = """
default = "reject"
deny-layers = ["sha256:aa"]
[[rule]]
match = "docker.io/**"
action = "accept"
[[rule]]
match = "docker.io/library/*"
action = "signed"
keys = ["/etc/keys/a.pub"]
[[rule]]
match = "docker.io/library/debian"
action = "accept"
[[rule]]
match = "oci:/srv/*"
action = "accept"
"""


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("debian", "accept"),
        ("alpine", "signed"),
        ("someone/thing", "accept"),
        ("quay.io/a/b", "reject"),
        ("oci:/srv/app", "accept"),
        ("oci:/srv/deep/app", "reject"),
        ("host", "reject"),
        ("dir:/srv/app", "reject"),
    ],
)
def test_the_most_specific_rule_decides(text: str, action: str, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    assert load(tmp_path / "policy.toml").decide(parse_reference(text)).action == action


def test_without_a_file_everything_is_accepted(tmp_path: Path) -> None:
    assert load(tmp_path / "absent").decide(parse_reference("debian")) == Rule("**", "accept")


def test_denied_layers() -> None:
    policy = Policy(deny_layers=("sha256:aa",))
    policy.check_layers("x", ("sha256:bb",))
    with pytest.raises(Denied, match="sha256:aa"):
        policy.check_layers("x", ("sha256:bb", "sha256:aa"))


@pytest.mark.parametrize(
    "text",
    [
        "default = 1",
        'default = "maybe"',
        "defualt = 'accept'",
        "[[rule]]\nmatch = 'a'",
        "[[rule]]\nmatch = 'a'\naction = 'signed'",
        "[[rule]]\nmatch = 'a'\naction = 'signed'\nkeys = ['relative.pub']",
        "[[rule]]\nmatch = 'a'\naction = 'accept'\nkees = []",
        "[[rule]]\nmatch = 'a'\naction = 'signed'\ngpg-keys = ['relative.asc']",
        "[[rule]]\nmatch = 'a'\naction = 'signed'\ngpg-keys = ['/k']\nlookaside = 'ftp://x'",
        "[[rule]]\nmatch = 'a'\naction = 'signed'\ngpg-keys = ['/k']\nidentity = 'loose'",
        "\x00",
        "[",
    ],
)
def test_a_bad_file_admits_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(InvalidConfig, match=r"policy\.toml"):
        load(tmp_path / "policy.toml")


def test_a_directory_in_its_place_admits_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        load(tmp_path)
