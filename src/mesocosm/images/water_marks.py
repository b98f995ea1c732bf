"""Two water marks as people write them: where collection begins, and where it ends."""

from __future__ import annotations

import re

from mesocosm.errors import InvalidConfig
from mesocosm.images.collect import Limits
from mesocosm.images.foreign import shown
from mesocosm.model.size import parse_size

_PERCENT = re.compile(r"([0-9]{1,3})%?", re.ASCII)
_SHARE = 0.8
"""The lower mark where it is not said: a share of the file system, …"""
_PART = 0.9
"""… and a part of the upper mark where that is an amount."""


def between(above: str | None, down_to: str | None, upper: str, lower: str) -> Limits | None:
    """The limits that two marks set; None without any.

    Each is a share of the file system in use (``85%``), or bytes that images take (``20G``); both are of one
    kind.  ``upper`` and ``lower`` name them in the InvalidConfig that anything else raises.
    """
    if above is None:
        if down_to is not None:
            raise InvalidConfig(f"{lower} says where {upper} ends", hint=f"give {upper}, too")
        return None
    share = _share(above, upper)
    if share is None:
        return _sizes(above, down_to, upper, lower)
    low = min(_SHARE, share) if down_to is None else _share(down_to, lower)
    if low is None:
        raise InvalidConfig(f"{lower} {shown(down_to, 40)} is an amount, {upper} {above} is a share")
    if low > share:
        raise InvalidConfig(f"{lower} {down_to} is more than {upper} {above}")
    return Limits(high=share, low=low)


def _sizes(above: str, down_to: str | None, upper: str, lower: str) -> Limits:
    high = parse_size(above, upper)
    if down_to is not None and _share(down_to, lower) is not None:
        raise InvalidConfig(f"{lower} {shown(down_to, 40)} is a share, {upper} {above} is an amount")
    low = int(high * _PART) if down_to is None else parse_size(down_to, lower)
    if low > high:
        raise InvalidConfig(f"{lower} {down_to} is more than {upper} {above}")
    return Limits(ceiling=high, budget=low)


def _share(text: str, option: str) -> float | None:
    """A percentage; None for what is written like a size."""
    match = _PERCENT.fullmatch(text)
    if match is None and re.fullmatch(r"[0-9].*[a-zA-Z]", text):
        return None
    if match is None or int(match[1]) > 100:
        raise InvalidConfig(
            f"{option} {shown(text, 40)!r} is no percentage and no size", hint="85% or 20G, for example"
        )
    return int(match[1]) / 100
