"""Whose files are whose: user and group IDs of an image or a volume, mapped to those of the host.

A mapping is ordered ranges, as in user_namespaces(7): an ID that lies in none of them belongs to nobody.
"""

from __future__ import annotations

import re

import msgspec

from mesocosm.errors import InvalidConfig

LAST = 0xFFFFFFFE
"""The largest ID: the next one means "no such user" to the kernel."""
RANGES_LIMIT = 340
TEXT_LIMIT = 4095
"""What the kernel takes in one map: so many ranges, in so many bytes (user_namespaces(7))."""

_RANGE = re.compile(r"([0-9]{1,10})([:-])([0-9]{1,10})\2([0-9]{1,10})", re.ASCII)
_HINT = "CONTAINER:HOST:LENGTH as in 0:100000:65536, more of them after #, or uids=…;gids=…"


class IDRange(msgspec.Struct, frozen=True):
    """IDs from ``container`` on are the host's from ``host`` on, ``length`` of them."""

    container: int
    host: int
    length: int

    def describe(self) -> str:
        """``0:100000:65536``."""
        return f"{self.container}:{self.host}:{self.length}"


class IDMap(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping of user and of group IDs.

    Raises InvalidConfig for what the kernel would not take: no range, ranges that overlap on either side, IDs
    out of range, too many of them.
    """

    uids: tuple[IDRange, ...]
    gids: tuple[IDRange, ...]

    def __post_init__(self) -> None:
        for kind, ranges in (("user", self.uids), ("group", self.gids)):
            _check(kind, ranges)

    @property
    def owner(self) -> tuple[int, int] | None:
        """The host's user and group that stand for root; None where root is not mapped."""
        uid, gid = self.uid(0), self.gid(0)
        return None if uid is None or gid is None else (uid, gid)

    def uid(self, number: int) -> int | None:
        """The host's user for one of the container, None when there is none."""
        return _find(self.uids, number)

    def gid(self, number: int) -> int | None:
        """The host's group for one of the container, None when there is none."""
        return _find(self.gids, number)

    @property
    def reaches_root(self) -> bool:
        """Whether some ID becomes 0 on the host."""
        return any(one.host == 0 for one in (*self.uids, *self.gids))

    def describe(self) -> str:
        """The mapping as `parse_idmap` reads it."""
        uids, gids = ("#".join(one.describe() for one in ranges) for ranges in (self.uids, self.gids))
        return uids if uids == gids else f"uids={uids};gids={gids}"


def parse_idmap(text: str, subject: str = "idmap") -> IDMap:
    """``0:100000:65536``, ``0:1000:1#1:100000:65535``, ``uids=…;gids=…`` → a mapping; podman's grammar.

    ``-`` may stand for ``:`` where that has another meaning.  ``subject`` names what the mapping is for in
    the InvalidConfig that anything else raises.
    """
    kinds: dict[str, tuple[IDRange, ...]] = {}
    if not text.startswith(("uids=", "gids=")):
        kinds["uids"] = kinds["gids"] = _ranges(text, subject)
        return IDMap(**kinds)
    for part in text.split(";"):
        kind, equals, ranges = part.partition("=")
        if kind not in ("uids", "gids") or not equals or kind in kinds:
            raise InvalidConfig(f"{subject}: {text!r} is not a mapping of IDs", hint=_HINT)
        kinds[kind] = _ranges(ranges, subject)
    if len(kinds) != 2:
        raise InvalidConfig(f"{subject}: {text!r} maps only {' '.join(kinds)}", hint="give uids and gids")
    return IDMap(**kinds)


def require_root(mapping: IDMap, subject: str) -> None:
    """Raise InvalidConfig unless the mapping suits a root file system.

    Root must be somebody, or nothing could be made in it; and it must not be the host's root, for then a
    set-user-ID program of an image would be the host's root's again, which a mapping is there to prevent.
    """
    if mapping.owner is None:
        raise InvalidConfig(
            f"{subject}: {mapping.describe()} does not map root",
            hint="begin with 0:HOST:LENGTH, as in 0:100000:1",
        )
    if mapping.reaches_root:
        raise InvalidConfig(
            f"{subject}: {mapping.describe()} maps to the host's root",
            hint="map to IDs that nobody on the host has, such as 0:100000:65536",
        )


def _ranges(text: str, subject: str) -> tuple[IDRange, ...]:
    found = []
    for part in text.split("#"):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise InvalidConfig(f"{subject}: {part!r} is not a range of IDs", hint=_HINT)
        found.append(IDRange(int(match[1]), int(match[3]), int(match[4])))
    return tuple(found)


def _check(kind: str, ranges: tuple[IDRange, ...]) -> None:
    if not ranges:
        raise InvalidConfig(f"a mapping of {kind} IDs without a range maps nobody", hint=_HINT)
    for one in ranges:
        if one.length < 1 or min(one.container, one.host) < 0:
            raise InvalidConfig(f"range {one.describe()} of {kind} IDs is empty or negative", hint=_HINT)
        if max(one.container, one.host) + one.length - 1 > LAST:
            raise InvalidConfig(f"range {one.describe()} of {kind} IDs goes beyond {LAST}")
    _check_overlap(kind, ranges, "container")
    _check_overlap(kind, ranges, "host")
    text = sum(len(one.describe()) + 1 for one in ranges)
    if len(ranges) > RANGES_LIMIT or text > TEXT_LIMIT:
        raise InvalidConfig(
            f"{len(ranges)} ranges of {kind} IDs are more than the kernel takes",
            hint=f"at most {RANGES_LIMIT}, and {TEXT_LIMIT} characters",
        )


def _check_overlap(kind: str, ranges: tuple[IDRange, ...], side: str) -> None:
    """user_namespaces(7): neither the IDs inside nor those outside of two ranges may overlap."""
    ordered = sorted(ranges, key=lambda one: int(getattr(one, side)))
    for low, high in zip(ordered, ordered[1:], strict=False):
        if int(getattr(low, side)) + low.length > int(getattr(high, side)):
            raise InvalidConfig(
                f"ranges {low.describe()} and {high.describe()} of {kind} IDs overlap on the {side}'s side"
            )


def _find(ranges: tuple[IDRange, ...], number: int) -> int | None:
    for one in ranges:
        if one.container <= number < one.container + one.length:
            return one.host + number - one.container
    return None
