"""Stores and backends that other distributions install, found by their entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from mesocosm.errors import InvalidConfig
from mesocosm.images.foreign import shown

T = TypeVar("T")


def names(group: str) -> tuple[str, ...]:
    """What is installed in a group, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def load(group: str, name: str, base: type[T]) -> type[T] | None:
    """Return the class that an entry point names; None where there is no such entry point.

    InvalidConfig when two distributions bring one, when it cannot be imported, and when it is no ``base``.
    """
    points = list(entry_points(group=group, name=name))
    if not points:
        return None
    what = f"{base.__name__.lower()} {name}"
    if len({point.value for point in points}) > 1:
        owners = " and ".join(sorted(map(_owner, points)))
        raise InvalidConfig(f"{what} comes from {owners}", hint="uninstall one of them")
    try:
        found = points[0].load()
    except Exception as error:
        raise InvalidConfig(
            f"{what} cannot be loaded from {_owner(points[0])}: {shown(error, 200)}",
            hint="reinstall that distribution, or ask its authors",
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InvalidConfig(f"{what}: {points[0].value} of {_owner(points[0])} is no {base.__name__}")
    return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
