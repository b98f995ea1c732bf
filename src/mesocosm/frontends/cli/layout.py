"""Columns of text, and amounts as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from mesocosm.frontends.cli.colour import Paint, plain

Row = Sequence[str]

_AGES = (
    (86400 * 365, "year"),
    (86400 * 30, "month"),
    (86400 * 7, "week"),
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
    (1, "second"),
)


def columns(rows: Sequence[Row], *, header: Row | None = None, paint: Paint = plain, gap: int = 3) -> str:
    """Rows as aligned columns, the last one ragged; no line ends in spaces."""
    table = [*([header] if header is not None else []), *rows]
    if not table:
        return ""
    widths = [max(width(row[place]) for row in table) for place in range(len(table[0]))]
    lines = [_line(row, widths, gap) for row in table]
    if header is not None:
        lines[0] = paint(lines[0], "title")
    return "\n".join(lines)


def _line(row: Row, widths: Sequence[int], gap: int) -> str:
    cells = [cell + " " * (wide - width(cell) + gap) for cell, wide in zip(row, widths, strict=True)]
    return "".join(cells).rstrip()


def width(text: str) -> int:
    """Columns of a terminal that a text takes, wide characters counted as two (Unicode TR 11)."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)


def cut(text: str, length: int) -> str:
    """At most ``length`` characters, an ellipsis where there were more."""
    return text if len(text) <= length else text[: length - 1] + "…"


def age(seconds: float) -> str:
    """How long, in the largest whole unit: ``3 minutes``, ``1 hour``, ``less than a second``."""
    for unit, name in _AGES:
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "less than a second"


def ago(then: float, now: float) -> str:
    """How long since ``then``, both in seconds since the epoch: ``3 days ago``."""
    return f"{age(max(0.0, now - then))} ago"


def duration(seconds: float) -> str:
    """A measured time, three digits: ``0.42 ms``, ``12.3 ms``, ``1.23 s``, ``4 min 10 s``, ``2 h 5 min``."""
    if seconds < 0.9995:
        return f"{_digits(seconds * 1e3)} ms"
    if seconds < 59.95:
        return f"{_digits(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _digits(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def share(part: float, whole: float) -> str:
    """``35 %``."""
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def count(number: int, noun: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
