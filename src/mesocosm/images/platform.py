"""Platforms (``linux/arm64/v8``) and the choice of one manifest out of an index.

Source: OCI image spec "image-index.md", Go's GOOS, GOARCH and GOARM names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images import mediatypes
from mesocosm.images.foreign import shown

if TYPE_CHECKING:
    from mesocosm.images.documents import Descriptor

_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armv8l": "arm",
    "armv7l": "arm",
    "armv6l": "arm",
    "armhf": "arm",
    "armel": "arm",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
}
_KNOWN = frozenset({*_ARCHITECTURES, *_ARCHITECTURES.values(), "riscv64", "ppc64le", "s390x", "loong64"})
"""Architectures that are understood without an operating system before them."""

_DEFAULT_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
_VARIANT_OF_MACHINE = {"armhf": "v7", "armel": "v6", "armv6l": "v6", "armv7l": "v7", "armv8l": "v8"}
_ORDERED = {"amd64": ("v1", "v2", "v3", "v4"), "arm": ("v5", "v6", "v7", "v8"), "arm64": ("v8", "v9")}
"""Variants where code for an earlier one runs on a later one."""

_ATTESTATION = "vnd.docker.reference.type"
_ATTESTED = "vnd.docker.reference.digest"


class Platform(msgspec.Struct, frozen=True):
    """What an image runs on, in Go's words.  An empty variant means the architecture's baseline."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def parse_platform(text: str) -> Platform:
    """Return the platform written as ``os/arch[/variant]``; as in docker, ``arch[/variant]`` means Linux.

    Raises InvalidConfig.
    """
    parts = text.split("/")
    if parts[0].lower() in _KNOWN:
        parts.insert(0, "linux")
    if len(parts) not in (2, 3) or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidConfig(
            f"platform {shown(text, 80)!r} is malformed",
            hint="expected OS/ARCH[/VARIANT], or arm64 for linux/arm64",
        )
    return normalised(Platform(*parts))


def normalised(platform: Platform) -> Platform:
    """Return ``platform`` in lower case, with kernel machine names as Go's and the baseline variant left
    out.
    """
    machine = platform.architecture.lower()
    architecture = _ARCHITECTURES.get(machine, machine)
    variant = platform.variant.lower() or _VARIANT_OF_MACHINE.get(machine, "")
    if variant.isascii() and variant.isdigit():
        variant = f"v{variant}"
    if variant == _DEFAULT_VARIANT.get(architecture):
        variant = ""
    return Platform(platform.os.lower(), architecture, variant, platform.os_version)


def host_platform() -> Platform:
    """Return this machine's platform."""
    return normalised(Platform("linux", os.uname().machine))


def platform_of(text: str | None) -> Platform:
    """Return the platform that was asked for, the host's own where none was.  Raises InvalidConfig."""
    return parse_platform(text) if text else host_platform()


def recorded(text: str) -> Platform:
    """Return the platform in an image's record; earlier versions wrote ``linux`` for no architecture."""
    return parse_platform(text) if "/" in text else host_platform()


def rank(offered: Platform, wanted: Platform) -> int | None:
    """Return how well ``offered`` runs where ``wanted`` was asked: higher is better, None is not at all."""
    offered, wanted = normalised(offered), normalised(wanted)
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return None
    if offered.variant == wanted.variant:
        return 100
    order = _ORDERED.get(wanted.architecture, ())
    default = _DEFAULT_VARIANT.get(wanted.architecture, "")
    have, ceiling = offered.variant or default, wanted.variant or default
    if have not in order or ceiling not in order or order.index(have) > order.index(ceiling):
        return None
    return order.index(have)


def select(manifests: Sequence[Descriptor], wanted: Platform, what: str) -> Descriptor:
    """Return the best descriptor for ``wanted``; on a tie the first that is not of docker's schema 1.

    An entry that names no platform is taken only when it is alone: then the image's configuration decides.
    Attestations (``vnd.docker.reference.type``) are never images.  Raises NotFound naming what there is.
    """
    images = _images(manifests)
    if len(images) == 1 and images[0].platform is None:
        return images[0]
    best: tuple[tuple[int, bool], Descriptor] | None = None
    for one in images:
        close = rank(one.platform, wanted) if one.platform else None
        score = None if close is None else (close, one.media_type not in mediatypes.SCHEMA1)
        if score is not None and (best is None or score > best[0]):
            best = (score, one)
    if best is None:
        raise NotFound(f"{what} has no image for {wanted}", hint=_offers(images))
    return best[1]


def offers(manifests: Sequence[Descriptor]) -> tuple[Platform, ...]:
    """Return the platforms that an index's images name, normalised, each once, in its order."""
    named = (one.platform for one in _images(manifests) if one.platform is not None)
    return tuple(dict.fromkeys(normalised(Platform(one.os, one.architecture, one.variant)) for one in named))


def attested(entry: Descriptor) -> str:
    """Return the digest of the image that an index's entry attests something of; empty for all others."""
    return entry.annotations.get(_ATTESTED, "") if _ATTESTATION in entry.annotations else ""


def _images(manifests: Sequence[Descriptor]) -> list[Descriptor]:
    return [one for one in manifests if _ATTESTATION not in one.annotations]


def _offers(images: Iterable[Descriptor]) -> str:
    names = {shown(one.platform, 60) for one in images if one.platform}
    listed = ", ".join(sorted(names))
    return f"it has {listed}; choose with --platform" if listed else "none of what it lists names a platform"
