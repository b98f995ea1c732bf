"""Amounts and names as people write them, for notes, messages and hints."""

from __future__ import annotations

from collections.abc import Iterable

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(amount: int) -> str:
    """Bytes in the largest unit that leaves a number of at least one: ``256 MiB``, ``1.5 GiB``."""
    value = float(amount)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def processors(amount: float) -> str:
    """Processors' worth of time: ``1 processor``, ``1.5 processors``."""
    return f"{amount:g} processor{'' if amount == 1 else 's'}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word closest to a mistyped one; None when none comes close."""
    import difflib  # noqa: PLC0415

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else None
