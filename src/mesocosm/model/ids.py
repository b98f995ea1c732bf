"""Container identity."""

from __future__ import annotations

import os
import re
from functools import total_ordering

from mesocosm.errors import InvalidConfig

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
LENGTH_LIMIT = 242  # Mesos' bound (parity 1.6): leaves room for suffixes within NAME_MAX


@total_ordering
class ContainerID:
    """A container's ID: one segment, or the parent's segments and its own, printed ``parent.child``.

    A segment is 1 to 64 characters of ``A-Za-z0-9_-``, the first one alphanumeric, so that an ID is a safe
    file, cgroup and namespace name (attack R-30).  Values are immutable, hashable and ordered parents first.
    """

    __slots__ = ("_segments",)

    def __init__(self, segments: tuple[str, ...]) -> None:
        if not segments or not all(_SEGMENT.fullmatch(segment) for segment in segments):
            raise InvalidConfig(
                f"container ID {'.'.join(segments)!r} is not allowed",
                hint="use letters, digits, '-' and '_', starting with a letter or digit",
            )
        if sum(map(len, segments)) + len(segments) - 1 > LENGTH_LIMIT:
            raise InvalidConfig(f"container ID is longer than {LENGTH_LIMIT} characters")
        self._segments = segments

    @classmethod
    def parse(cls, text: str) -> ContainerID:
        """Read the printed form.  Raises InvalidConfig."""
        return cls(tuple(text.split(".")))

    @classmethod
    def generate(cls) -> ContainerID:
        """A new top-level ID: 16 hexadecimal digits from the kernel's random source."""
        return cls((os.urandom(8).hex(),))

    @property
    def segments(self) -> tuple[str, ...]:
        """From the root container's own segment to this one's."""
        return self._segments

    @property
    def parent(self) -> ContainerID | None:
        """The parent container's ID, None for a top-level container."""
        return ContainerID(self._segments[:-1]) if len(self._segments) > 1 else None

    def child(self, segment: str) -> ContainerID:
        """The ID of a nested container of this one."""
        return ContainerID((*self._segments, segment))

    def __str__(self) -> str:
        return ".".join(self._segments)

    def __repr__(self) -> str:
        return f"ContainerID({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ContainerID) and self._segments == other._segments

    def __lt__(self, other: ContainerID) -> bool:
        return self._segments < other._segments

    def __hash__(self) -> int:
        return hash(self._segments)


def check_name(name: str) -> str:
    """Return ``name`` if it may name a container (docker's grammar), else raise InvalidConfig."""
    if not _NAME.fullmatch(name):
        raise InvalidConfig(
            f"container name {name!r} is not allowed",
            hint="use letters, digits, '_', '.' and '-', starting with a letter or digit, at most 128",
        )
    return name
