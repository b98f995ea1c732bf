"""What a registry wants people to be told: ``Warning: 299 - "text"`` (distribution spec, "Warnings").

Nothing is done about them but to tell them, each once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mesocosm.images.foreign import shown

LIMIT: Final = 4096
"""Characters of all warnings together that the specification allows."""

COUNT: Final = 16
LENGTH: Final = 300

_WARNING = re.compile(r'299 - "((?:[^"\\]|\\.)*)"', re.ASCII)


class Warnings:
    """Those of one server."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._new: list[str] = []

    def note(self, headers: Iterable[str]) -> None:
        """Take an answer's ``Warning`` headers."""
        for match in _WARNING.finditer(", ".join(headers)[:LIMIT]):
            self.say(re.sub(r"\\(.)", r"\1", match[1]))

    def say(self, text: str) -> None:
        """Take a text."""
        text = shown(text, LENGTH)
        if text and text not in self._known and len(self._known) < COUNT:
            self._known.add(text)
            self._new.append(text)

    def take(self) -> tuple[str, ...]:
        """Return those that were not taken yet."""
        new, self._new = tuple(self._new), []
        return new
