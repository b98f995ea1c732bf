"""Colour where a person looks, and none in a pipe."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TextIO

Paint = Callable[[str, str], str]
"""Takes a text and the name of a style; answers the text with or without it."""

_STYLES = {
    "title": "1",
    "faint": "2",
    "good": "32",
    "notice": "33",
    "bad": "31;1",
    "name": "36",
}


def painter(stream: TextIO) -> Paint:
    """What paints on this stream: nothing unless it is a terminal that can, and NO_COLOR is unset.

    Source: no-color.org.
    """
    if stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return _paint
    return plain


def plain(text: str, style: str) -> str:
    """The text as it is."""
    del style
    return text


def _paint(text: str, style: str) -> str:
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if text else text


def safe(text: str) -> str:
    """A text from an image, a payload or a file, with what would move a terminal's cursor escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
