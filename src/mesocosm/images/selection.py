"""Choosing images: docker's ``--filter KEY=VALUE``.

    reference=PATTERN   a name, with * ? [..]; without a tag every tag
    label=KEY[=VALUE]   what the image says of itself
    before=IMAGE        made before that image        since=IMAGE    made after it
    dangling=true       without a name                dangling=false  with one

Those of one key are alternatives (labels: all have to hold), different keys hold together.
"""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from mesocosm.errors import InvalidConfig, MesocosmError
from mesocosm.images.foreign import shown
from mesocosm.images.image import Image
from mesocosm.images.reference import Reference, parse_reference

KEYS: Final = ("reference", "label", "before", "since", "dangling")

Find = Callable[[str], Image]
"""Finds the image that a text names; raises NotFound."""


class Selection:
    """What was asked for; raises InvalidConfig for what is not understood."""

    def __init__(self, words: Sequence[str], find: Find) -> None:
        self._wanted: dict[str, list[str]] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if key not in KEYS or not equals or not value:
                hint = f"KEY=VALUE with {', '.join(KEYS)}"
                raise InvalidConfig(f"filter {shown(word, 80)!r} is not known", hint=hint)
            if key == "dangling" and value not in ("true", "false", "1", "0"):
                raise InvalidConfig(f"filter dangling={shown(value, 40)} is neither true nor false")
            self._wanted.setdefault(key, []).append(value)
        self._before = [made(find(text)) for text in self._wanted.get("before", ())]
        self._since = [made(find(text)) for text in self._wanted.get("since", ())]

    def admits(self, image: Image) -> bool:
        """Whether the image is among those asked for."""
        labels = image.runtime.labels
        return (
            all(map(image_label(labels), self._wanted.get("label", ())))
            and all(made(image) < when for when in self._before)
            and all(made(image) > when for when in self._since)
            and self._dangling(image)
            and (not self.patterns or any(map(self.names, image.references)))
        )

    @property
    def patterns(self) -> list[str]:
        """The patterns of names asked for."""
        return self._wanted.get("reference", [])

    def names(self, reference: str) -> bool:
        """Whether a name is among those asked for."""
        return not self.patterns or any(matches(reference, pattern) for pattern in self.patterns)

    def _dangling(self, image: Image) -> bool:
        asked = self._wanted.get("dangling", ())
        return not asked or any((value in ("true", "1")) == (not image.references) for value in asked)


def image_label(labels: dict[str, str]) -> Callable[[str], bool]:
    """Return what says whether ``KEY`` or ``KEY=VALUE`` holds for these labels."""

    def holds(word: str) -> bool:
        key, equals, value = word.partition("=")
        return key in labels and (not equals or labels[key] == value)

    return holds


def matches(reference: str, pattern: str) -> bool:
    """Whether a canonical reference is meant by a pattern, in any form that people write it."""
    try:
        parsed = parse_reference(reference)
    except MesocosmError:
        return False
    return any(fnmatch.fnmatchcase(form, pattern) for form in _forms(parsed))


def _forms(reference: Reference) -> list[str]:
    if reference.transport != "docker":
        return [str(reference)]
    whole = f"{reference.name}:{reference.tag}" if reference.tag else str(reference)
    familiar = reference.familiar
    return [whole, reference.name, familiar, familiar.removesuffix(f":{reference.tag}")]


def made(image: Image) -> float:
    """Return when the image was made by its author's word, else when it came here; seconds since the
    epoch.
    """
    try:
        when = datetime.datetime.fromisoformat(image.created)
    except ValueError:
        return image.pulled_at
    return when.timestamp() if when.tzinfo else image.pulled_at


def select(images: Sequence[Image], words: Sequence[str], find: Find) -> list[Image]:
    """Return the images asked for, each with those of its names that are meant."""
    selection = Selection(words, find)
    return [
        msgspec.structs.replace(image, references=tuple(filter(selection.names, image.references)))
        for image in images
        if selection.admits(image)
    ]
