"""System call filters in the form that launch plans carry them, made ahead where that is possible.

Most containers have the default profile and the default capabilities.  To read a profile and compile it takes
a fresh process some 30 ms, to read what ``profiles/compiled.json`` holds under one.  That file is written by
``scripts/compile-filters``; a test compiles again and compares.
"""

from __future__ import annotations

import binascii
import hashlib
import os
from functools import cache
from pathlib import Path

import msgspec

from mesocosm.linux import capabilities

KERNEL_FLOOR = (4, 8)  # the one version that the default profile tells apart; what is made ahead is for later
ARCHITECTURES = ("x86_64", "aarch64")
AHEAD = Path(__file__).parent / "profiles" / "compiled.json"
_DEFAULT = AHEAD.with_name("default.json")


class Compiled(msgspec.Struct, frozen=True):
    """A filter: ``program`` in base 64, a line for people, and what of the profile could not be had."""

    program: str
    summary: str
    warnings: tuple[str, ...] = ()


class Ahead(msgspec.Struct, frozen=True):
    """``profiles/compiled.json``: filters of the default profile by architecture.

    ``profile`` is the profile's digest (``sha256:...``), ``capabilities`` the bounding set as a mask.
    """

    profile: str
    capabilities: int
    filters: dict[str, Compiled]


def default_filter(bounding: int, kernel: tuple[int, int]) -> Compiled:
    """The default profile's filter for a container with this bounding set, on a host of this kernel."""
    ahead, arch = _ahead(), os.uname().machine
    fits = ahead.capabilities == bounding and ahead.profile == digest() and kernel >= KERNEL_FLOOR
    return (
        ahead.filters[arch] if fits and arch in ahead.filters else compiled(_DEFAULT.read_bytes(), bounding)
    )


def compiled(profile: bytes, bounding: int, arch: str | None = None) -> Compiled:
    """A profile's filter for this host, or for another architecture.

    Raises InvalidConfig, Unsupported and Exhausted as the compiler does.
    """
    from mesocosm.linux import seccomp  # noqa: PLC0415

    held = frozenset(capabilities.names(bounding))
    found = seccomp.compile_profile(seccomp.parse_profile(profile), capabilities=held, arch=arch)
    warnings = []
    if found.unknown:
        warnings.append(f"seccomp profile: unknown system calls are skipped: {', '.join(found.unknown)}")
    if found.flags:
        warnings.append("seccomp profile: its flags are not used")
    program = binascii.b2a_base64(found.program, newline=False).decode()
    conditional, denied = len(found.conditional), len(found.denied)
    summary = f"{found.allowed} allowed, {conditional} on conditions, {denied} denied"
    return Compiled(program, summary, tuple(warnings))


def make_ahead() -> bytes:
    """What ``compiled.json`` has to hold."""
    text = _DEFAULT.read_bytes()
    filters = {arch: compiled(text, capabilities.DEFAULT, arch) for arch in ARCHITECTURES}
    return msgspec.json.format(msgspec.json.encode(Ahead(digest(), capabilities.DEFAULT, filters)), indent=2)


@cache
def digest() -> str:
    """Of the default profile as it is here."""
    return f"sha256:{hashlib.sha256(_DEFAULT.read_bytes()).hexdigest()}"


@cache
def _ahead() -> Ahead:
    return msgspec.json.decode(AHEAD.read_bytes(), type=Ahead)
