"""Policies: what files say, which rule decides, and that a bad one admits nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesocosm.errors import Denied, InvalidConfig
from mesocosm.images.reference import parse_reference
from mesocosm.images.trust.policy import Policy, Rule, load

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
[[rule]]
match = "golden://team/*"
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
        ("golden://team/web", "accept"),
        ("golden://web", "reject"),
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


SIGNERS = [
    "",
    "identity = 'me@x'",
    "identity = 'me@x', issuer = 'https://i'",
    "identity = 'me@x', trusted-root = '/r'",
    "issuer = 'https://i', trusted-root = '/r'",
    "identity = 'me@x', issuer = '', trusted-root = '/r'",
    "identity = '', issuer = 'https://i', trusted-root = '/r'",
    "identity = 'me@x', issuer = 'https://i', trusted-root = 'r'",
    "identity = 'me@x', issuer = 'https://i', trusted-root = ''",
    "identity = 'me@x', identity-pattern = '*@x', issuer = 'https://i', trusted-root = '/r'",
    "identity-pattern = '**', issuer = 'https://i', trusted-root = '/r'",
    "identity = 'me@x', issuer = 'https://i', trusted-root = '/r', predicates = []",
    "identity = 'me@x', issuer = 'https://i', trusted-root = '/r', idenity = 'you@x'",
]
"""Signers that a rule may not name: each lacks something, or says too much."""


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
        "[[rule]]\nmatch = 'a'\naction = 'signed'\ngpg-keys = ['/k']\nbundles = true",
        "[[rule]]\nmatch = 'a'\naction = 'signed'\ngpg-keys = ['/k']\nlookaside = 'ftp://x'",
        "[[rule]]\nmatch = 'a'\naction = 'signed'\ngpg-keys = ['/k']\nidentity = 'loose'",
        *(f"[[rule]]\nmatch = 'a'\naction = 'signed'\nsigstore = [{{ {signer} }}]" for signer in SIGNERS),
        "\x00",
        "[",
    ],
)
def test_a_bad_file_admits_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(InvalidConfig, match=r"policy\.toml"):
        load(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("default = 'rejct'", "default is accept or reject"),
        ("defalt = 'reject'", "known are default, recheck, deny-layers, allow-erofs, allow-schema1, rule"),
        ("[[rule]]\nmatch = 'a'\naction = 'accept'\nkees = []", "known are match, action, keys"),
        (
            "[[rule]]\nmatch = 'a'\naction = 'signed'\nsigstore = [{ x = 1 }]",
            "known are issuer, trusted-root, identity",
        ),
    ],
)
def test_what_can_be_written_instead_is_told(text: str, known: str, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        load(tmp_path / "policy.toml")
    assert (caught.value.hint or "").startswith(known)


def test_signers_are_named_with_their_issuer_and_trusted_root(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(
        "[[rule]]\nmatch = 'docker.io/**'\naction = 'signed'\n"
        "[[rule.sigstore]]\nidentity = 'me@x'\nissuer = 'https://i'\ntrusted-root = '/r'\n"
        "[[rule.sigstore]]\nidentity-pattern = '*@x'\nissuer = 'https://i'\ntrusted-root = '/r'\n"
        "predicates = ['https://slsa.dev/provenance/v1']\n"
    )
    exact, some = load(tmp_path / "policy.toml").decide(parse_reference("debian")).sigstore
    assert (exact.identity, exact.predicates) == ("me@x", ("https://sigstore.dev/cosign/sign/v1",))
    assert (some.identity_pattern, some.predicates) == ("*@x", ("https://slsa.dev/provenance/v1",))


def test_a_directory_in_its_place_admits_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        load(tmp_path)


@pytest.mark.parametrize(
    ("match", "meant"),
    [
        ("debian", "docker.io/library/debian"),
        ("someone/thing", "docker.io/someone/thing"),
        ("docker://quay.io/a/b", "quay.io/a/b"),
        ("docker://quay.io/a/*", "quay.io/a/*"),
        ("quay.io/a/b:1", "quay.io/a/b"),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b"),
        (f"quay.io/a/b@sha256:{'a' * 64}", "quay.io/a/b"),
        ("Quay.io/a/b", "quay.io/a/b"),
        ("index.docker.io/library/debian", "docker.io/library/debian"),
    ],
)
def test_a_rule_that_matches_no_image_is_refused_with_what_was_meant(
    match: str, meant: str, tmp_path: Path
) -> None:
    """It would protect nothing, and nobody would see that."""
    file = tmp_path / "policy.toml"
    file.write_text(f'[[rule]]\nmatch = "{match}"\naction = "reject"\n')
    with pytest.raises(InvalidConfig, match="matches no image") as refusal:
        load(file)
    assert refusal.value.hint is not None and f'"{meant}"' in refusal.value.hint
    file.write_text(f'[[rule]]\nmatch = "{meant}"\naction = "reject"\n')
    name = parse_reference(meant.replace("*", "x"))
    assert load(file).decide(name).action == "reject"


@pytest.mark.parametrize("match", ["quay.io/A/b", "quay.io/a b", "", "quay.io/"])
def test_a_rule_for_what_is_no_name_is_refused(match: str, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(f'[[rule]]\nmatch = "{match}"\naction = "reject"\n')
    with pytest.raises(InvalidConfig, match="matches no image"):
        load(tmp_path / "policy.toml")


@pytest.mark.parametrize(
    "match", ["host", "*", "**", "registry:5000/a/b", "docker:5000/**", "oci:/srv/a:b", "golden://web", "h*"]
)
def test_whatever_can_be_a_name_may_stand_in_a_rule(match: str, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(f'[[rule]]\nmatch = "{match}"\naction = "accept"\n')
    assert load(tmp_path / "policy.toml").rule[0].match == match
