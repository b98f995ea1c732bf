"""Amounts and names as people write them, for notes, messages and hints."""

from __future__ import annotations

from collections.abc import Iterable

from mesocosm.model.size import size as size


def processors(amount: float) -> str:
    """Processors' worth of time: ``1 processor``, ``1.5 processors``."""
    return f"{amount:g} processor{'' if amount == 1 else 's'}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the known word closest to a mistyped one; None when none comes close."""
    import difflib  # noqa: PLC0415

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {found[0]}?" if found else None
