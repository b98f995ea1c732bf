"""Amounts of bytes, and of time, as people write them."""

from __future__ import annotations

import re

from mesocosm.errors import InvalidConfig

_SIZE = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,6}))? ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(amount: float) -> str:
    """Bytes in the largest unit that leaves a number of at least one: ``256 MiB``, ``1.5 GiB``."""
    value = float(amount)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    number = f"{value:.1f}".removesuffix(".0")
    return "1 byte" if (number, unit) == ("1", "bytes") else f"{number} {unit}"


def parse_seconds(text: str, subject: str = "time") -> float:
    """``10``, ``1.5``, ``500ms``, ``2m``, ``720h`` → seconds; ``subject`` as for `parse_size`."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)?", text, re.ASCII)
    if match is None:
        raise InvalidConfig(f"{subject}: {text!r} is not a duration", hint="for example 10, 500ms or 2m")
    return float(match[1]) * {"ms": 0.001, None: 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_size(text: str, subject: str = "size") -> int:
    """``512m``, ``1.5g``, ``65536``, ``64KiB`` → bytes; powers of 1024, as docker has it.

    ``subject`` names what the size is for in the InvalidConfig that anything else raises.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidConfig(
            f"{subject}: {text!r} is not a size", hint="write a number and b, k, m or g: 512m"
        )
    whole, fraction, unit = match.groups()
    shift = _SHIFTS[unit.lower()]
    value = int(whole) << shift
    if fraction:
        value += (int(fraction) << shift) // 10 ** len(fraction)
    return value
