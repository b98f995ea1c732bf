"""What must be there by now."""

from __future__ import annotations

from typing import TypeVar

from mesocosm.errors import Corrupt

T = TypeVar("T")


def certain(value: T | None, what: str) -> T:
    """Return ``value``; raise Corrupt when it is None, for then a layer made us lose the thread."""
    if value is None:
        raise Corrupt(f"a layer cannot be followed: {what} is missing")
    return value
