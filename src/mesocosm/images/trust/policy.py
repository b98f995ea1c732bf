"""Which images may be used here: a file by registry and repository, enforced before fetching and before
starting.

    default = "accept"                       # or "reject"
    recheck = false                          # for what no rule matches; see below
    deny-layers = ["sha256:..."]             # diff IDs that no image may have, whatever else is said of it

    [[rule]]
    match = "registry.example.org/team/*"    # the most specific rule that matches decides
    action = "signed"                        # accept, reject, or signed
    keys = ["/etc/mesocosm/keys/team.pub"]   # any of these; absolute paths of PEM public keys (cosign)
    bundles = true                           # also cosign 3's bundles by these keys, which name no repository
    gpg-keys = ["/etc/mesocosm/keys/t.asc"]  # or any of these: OpenPGP (docker's simple signing, Appc)
    lookaside = "https://example.org/sigs"   # where OpenPGP signatures of a registry's images lie; or file:///
    identity = "exact"                       # they must name the tag, too; or "repository"
    sigstore = [{ identity = "...", issuer = "...", trusted-root = "/..." }]  # or keyless by any of these
    recheck = true                           # who uses it has to be given it by the registry (rights.py)

A rule is matched with the image's canonical name (``docker.io/library/debian``) or, for images from files,
with its transport and path (``oci:/srv/images/app``, ``host``, ``golden://web``).  ``*`` stands for anything
but a slash, ``**`` for anything.  Without a file everything is accepted, but not:

    allow-erofs = ["erofs:/srv/images/*"]    # images with ready-made EROFS layers, which the kernel parses
    allow-schema1 = ["registry.lan/old/**"]  # images in docker's schema 1, which says too little
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from mesocosm.errors import Denied, InvalidConfig
from mesocosm.images import mediatypes
from mesocosm.images.foreign import shown
from mesocosm.images.reference import TRANSPORTS, Reference, parse_docker_name

PATH: Final = Path("/etc/mesocosm/policy.toml")
SIZE_LIMIT: Final = 1 << 20

Action = Literal["accept", "reject", "signed"]

APPROVAL: Final = "https://sigstore.dev/cosign/sign/v1"
"""What ``cosign sign`` states of an image."""


class Signer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Who signs without a key of their own (keyless.py): an address or URI, exactly or by pattern, that
    ``issuer`` vouched for.  ``predicates`` are what they may state to have an image admitted.
    """

    issuer: str
    trusted_root: str
    identity: str = ""
    identity_pattern: str = ""
    predicates: tuple[str, ...] = (APPROVAL,)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What holds for the images whose name ``match`` describes."""

    match: str
    action: Action
    keys: tuple[str, ...] = ()
    bundles: bool = False
    gpg_keys: tuple[str, ...] = ()
    lookaside: str = ""
    identity: Literal["exact", "repository"] = "exact"
    recheck: bool = False
    sigstore: tuple[Signer, ...] = ()


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A policy file's content."""

    default: Literal["accept", "reject"] = "accept"
    recheck: bool = False
    deny_layers: tuple[str, ...] = ()
    allow_erofs: tuple[str, ...] = ()
    allow_schema1: tuple[str, ...] = ()
    rule: tuple[Rule, ...] = ()

    def decide(self, reference: Reference) -> Rule:
        """Return the rule for an image: the matching one that says most, else the default."""
        name = subject(reference)
        matching = [rule for rule in self.rule if pattern_of(rule.match).fullmatch(name)]
        if not matching:
            return Rule("**", self.default, recheck=self.recheck)
        return max(matching, key=lambda rule: (len(rule.match.replace("*", "")), rule.match))

    @property
    def rechecks(self) -> bool:
        """Whether anything at all has to be asked for again."""
        return self.recheck or any(rule.recheck for rule in self.rule)

    def check_erofs(self, reference: Reference, media_types: Iterable[str]) -> None:
        """Raise Denied when the image has an EROFS layer and is not one whose files are taken (I-21)."""
        name = subject(reference)
        if mediatypes.EROFS.isdisjoint(media_types) or _any(self.allow_erofs, name):
            return
        raise Denied(
            f"{reference.familiar} is a ready-made EROFS file system, which the kernel itself would parse",
            hint=f'if you trust its maker, put allow-erofs = ["{name}"] into {PATH}',
        )

    def takes_schema1(self, reference: Reference) -> bool:
        """Whether the image may be one in docker's schema 1."""
        return _any(self.allow_schema1, subject(reference))

    def check_schema1(self, reference: Reference) -> None:
        """Raise Denied when an image in docker's schema 1 is not taken by this name (G-02)."""
        if not self.takes_schema1(reference):
            raise Denied(
                f"{reference.familiar} is in docker's schema 1, which policy does not allow here",
                hint=f'if you trust its registry, put allow-schema1 = ["{subject(reference)}"] into {PATH}',
            )

    def check_layers(self, what: str, diff_ids: tuple[str, ...]) -> None:
        """Raise Denied when one of the layers is not to be used."""
        for diff_id in diff_ids:
            if diff_id in self.deny_layers:
                raise Denied(f"{what} has layer {diff_id}, which policy denies", hint="see deny-layers")


def subject(reference: Reference) -> str:
    """Return the name that rules are matched with."""
    if reference.transport == "docker":
        return reference.name
    if reference.transport == "host":
        return "host"
    slashes = "//" if reference.is_foreign else ""
    return f"{reference.transport}:{slashes}{reference.path or reference.repository}"


def takes_schema1(path: Path, reference: Reference) -> bool:
    """Whether the policy in a file takes the image where it is in docker's schema 1.  As `load`."""
    return load(path).takes_schema1(reference)


def load(path: Path) -> Policy:
    """Return the policy in a file; one that accepts everything when there is none.  Blocking.

    Raises InvalidConfig: a policy that cannot be read admits nothing.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        return Policy()
    except OSError as error:
        raise InvalidConfig(f"policy {path} cannot be read: {error.strerror}") from error
    if len(data) > SIZE_LIMIT:
        raise InvalidConfig(f"policy {path} is larger than {SIZE_LIMIT} bytes")
    try:
        policy = msgspec.convert(tomllib.loads(data.decode("utf-8")), type=Policy)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise InvalidConfig(f"policy {path}: {shown(error, 160)}", hint=_known(str(error))) from None
    for rule in policy.rule:
        what = f"policy {path}: rule {shown(rule.match, 80)!r}"
        _check_match(rule.match, what)
        _check_rule(rule, what)
    return policy


def _known(complaint: str) -> str | None:
    """What can be written in the place that ``complaint`` is about, by msgspec's words."""
    if "enum value" in complaint:
        return "default is accept or reject, action accept, reject or signed, identity exact or repository"
    if "unknown field" not in complaint:
        return None
    place = Signer if ".sigstore" in complaint else Rule if "$.rule" in complaint else Policy
    return f"known are {', '.join(field.encode_name for field in msgspec.structs.fields(place))}"


def _check_match(text: str, what: str) -> None:
    """Raise InvalidConfig for what can be no image's name: a rule that never matches protects nothing."""
    transport, colon, rest = text.partition(":")
    if colon and transport != "docker" and (transport in TRANSPORTS or rest.startswith("//")):
        return  # how paths, and names of other families, are written is theirs
    name = text.removeprefix("docker://")
    if "*" not in name and name != "host":
        try:
            name = parse_docker_name(name).name
        except InvalidConfig as error:
            raise InvalidConfig(f"{what} matches no image: {error.message}") from None
    if name != text:
        hint = f'images of registries are matched by registry and repository: match = "{name}"'
        raise InvalidConfig(f"{what} matches no image", hint=hint)


def _check_rule(rule: Rule, what: str) -> None:
    paths = (*rule.keys, *rule.gpg_keys, *(one.trusted_root for one in rule.sigstore))
    if rule.action == "signed" and not paths:
        raise InvalidConfig(f"{what} asks for signatures, but has neither keys nor signers")
    if rule.bundles and not rule.keys:
        raise InvalidConfig(f"{what} takes bundles, but has no keys that they could be by")
    if not all(path.startswith("/") for path in paths):
        raise InvalidConfig(f"{what} has keys or trusted roots that are no absolute paths")
    for signer in rule.sigstore:
        _check_signer(signer, what)
    if rule.lookaside and not rule.lookaside.startswith(("https://", "http://", "file:///")):
        raise InvalidConfig(
            f"{what} has the lookaside {shown(rule.lookaside, 80)!r}",
            hint="https://HOST/PATH or file:///PATH",
        )


def _check_signer(signer: Signer, what: str) -> None:
    if bool(signer.identity) == bool(signer.identity_pattern):
        raise InvalidConfig(f"{what} has a signer that needs identity or identity-pattern, and not both")
    if signer.identity_pattern and not signer.identity_pattern.replace("*", ""):
        raise InvalidConfig(f"{what} has an identity-pattern that anybody matches")
    if not signer.issuer:
        raise InvalidConfig(f"{what} has a signer without issuer: anybody could vouch for the name")
    if not signer.predicates:
        raise InvalidConfig(
            f"{what} has a signer that may state nothing", hint=f'predicates = ["{APPROVAL}"]'
        )


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(pattern_of(one).fullmatch(name) for one in patterns)


def pattern_of(text: str) -> re.Pattern[str]:
    """Return the pattern that a rule writes with ``*`` and ``**``; to be matched from end to end."""
    parts = re.split(r"(\*\*|\*)", text)
    words = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts), re.DOTALL)
