"""Strict JSON: documents that every reader reads alike, or none.

Duplicate keys, keys that differ only in case from a known one (Go's decoder takes both), deep nesting, huge
numbers, NaN, byte order marks and lone surrogates make two honest readers disagree about one signed document
(attacks G-02, CVE-2021-41190).  All are refused here.  Every failure is Corrupt.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NoReturn

from mesocosm.errors import Corrupt, Exhausted, InvalidConfig
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import shown

DOCUMENT_LIMIT = 4 << 20
"""Largest manifest, index or configuration, in bytes: the distribution spec's own recommendation for
manifests.
"""

DEPTH_LIMIT = 32
INTEGER_LIMIT = 1 << 62

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def load(data: bytes, what: str, *, limit: int = DOCUMENT_LIMIT) -> dict[str, Json]:
    """Return the object that ``data`` holds; ``what`` names the document in messages.

    Raises Exhausted above ``limit`` bytes and Corrupt for anything that is not exactly one strict JSON
    object.
    """
    value = _decode(data, what, limit)
    if not isinstance(value, dict):
        raise Corrupt(f"{what} is not a JSON object")
    return value


def load_list(data: bytes, what: str) -> list[Json]:
    """As `load`, for a document that is a list."""
    value = _decode(data, what, DOCUMENT_LIMIT)
    if not isinstance(value, list):
        raise Corrupt(f"{what} is not a JSON list")
    return value


def _decode(data: bytes, what: str, limit: int) -> Json:
    if len(data) > limit:
        raise Exhausted(f"{what} has {len(data)} bytes, more than the {limit} allowed")
    try:
        text = data.decode("utf-8")
        value: Json = json.loads(
            text,
            object_pairs_hook=lambda pairs: _object(pairs, what),
            parse_int=lambda digits: _integer(digits, what),
            parse_float=lambda digits: _float(digits, what),
            parse_constant=lambda name: _refuse(what, f"the constant {name}"),
        )
        _check_depth(value, what, DEPTH_LIMIT)
    except (ValueError, RecursionError) as error:
        if data.lstrip()[:1] == b"<":
            hint = "another kind of server, or a proxy, may have answered"
            raise Corrupt(f"{what} is a web page, not JSON", hint=hint) from None
        raise Corrupt(f"{what} is not JSON: {shown(error, 120)}") from None
    return value


def _refuse(what: str, why: str) -> NoReturn:
    raise Corrupt(f"{what} is not strict JSON: it holds {why}")


def _object(pairs: list[tuple[str, Json]], what: str) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(name for name, _ in pairs)  # linear: an object may have half a million keys
        twice = next(name for name, count in counts.items() if count > 1)
        _refuse(what, f"the key {shown(twice, 60)!r} twice")
    return result


def _integer(digits: str, what: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) > INTEGER_LIMIT:
        _refuse(what, f"the number {shown(digits, 40)}")
    return value


def _float(digits: str, what: str) -> float:
    if len(digits) > 40 or not math.isfinite(value := float(digits)):
        _refuse(what, f"the number {shown(digits, 40)}")
    return value


def _check_depth(value: Json, what: str, left: int) -> None:
    if isinstance(value, str):
        if not value.isascii():
            value.encode("utf-8")  # lone surrogates are a UnicodeEncodeError, which is a ValueError
        return
    if left == 0:
        _refuse(what, f"more than {DEPTH_LIMIT} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_depth(key, what, left - 1)
            _check_depth(item, what, left - 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, what, left - 1)


class Fields:
    """Typed access to one object's members.  ``where`` names it in messages: ``manifest, layer 3``.

    ``known`` lists the keys that have a meaning here; a key that equals one of them but for case is refused.
    JSON ``null`` counts as absent: Go writes it for nil slices and maps.
    """

    def __init__(self, value: Json, where: str, known: Iterable[str]) -> None:
        if not isinstance(value, dict):
            raise Corrupt(f"{where} is not a JSON object")
        self.where = where
        self.value: Mapping[str, Json] = value
        self._check_case(known)

    def _check_case(self, known: Iterable[str]) -> None:
        folded = {name.lower(): name for name in known}
        for key in self.value:
            meant = folded.get(key.lower())
            if meant is not None and meant != key:
                raise Corrupt(f"{self.where} is ambiguous: key {shown(key, 60)!r} beside {meant!r}")

    def fail(self, name: str, why: str) -> Corrupt:
        """Return the error for member ``name``."""
        return Corrupt(f"{self.where}: {name} {why}")

    def has(self, name: str) -> bool:
        """Whether the member is there and not null."""
        return self.value.get(name) is not None

    def raw(self, name: str) -> Json:
        """The member as it is; None when absent."""
        return self.value.get(name)

    def text(self, name: str) -> str | None:
        """A string without NUL; None when absent."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or "\0" in value:
            raise self.fail(name, "is not a string")
        return value

    def integer(self, name: str) -> int | None:
        """An integer that is not negative; None when absent."""
        value = self.value.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fail(name, "is not a number that counts something")
        return value

    def integers(self, name: str, among: range) -> tuple[int, ...]:
        """A list of integers ``among`` those that may be; empty when absent."""
        items = self.items(name)
        result = tuple(one for one in items if isinstance(one, int) and not isinstance(one, bool))
        if len(result) != len(items) or not all(one in among for one in result):
            raise self.fail(name, f"is not a list of numbers from {among[0]} to {among[-1]}")
        return result

    def flag(self, name: str) -> bool:
        """A boolean; False when absent."""
        value = self.value.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.fail(name, "is not true or false")
        return value is True

    def items(self, name: str) -> list[Json]:
        """A list; empty when absent."""
        value = self.value.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fail(name, "is not a list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings without NUL; empty when absent."""
        items = self.items(name)
        result = tuple(item for item in items if isinstance(item, str) and "\0" not in item)
        if len(result) != len(items):
            raise self.fail(name, "is not a list of strings")
        return result

    def table(self, name: str) -> dict[str, str]:
        """An object of strings; empty when absent."""
        value = self.value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fail(name, "is not an object")
        result = {key: item for key, item in value.items() if isinstance(item, str)}
        if len(result) != len(value) or any("\0" in part for pair in result.items() for part in pair):
            raise self.fail(name, "is not an object of strings")
        return result

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys of an object whose values mean nothing (docker's sets); empty when absent."""
        value = self.value.get(name)
        if value is None:
            return ()
        if not isinstance(value, dict) or any("\0" in key for key in value):
            raise self.fail(name, "is not an object")
        return tuple(value)

    def digest(self, name: str) -> Digest:
        """A digest; raises Corrupt when absent or malformed."""
        return parse_digest(self.text(name) or "", f"{self.where}: {name}")


def parse_digest(text: str, where: str) -> Digest:
    """Return the digest a document names; Corrupt, because a document and not a user wrote it."""
    try:
        return Digest.parse(text)
    except InvalidConfig as error:
        raise Corrupt(f"{where} is {error.message}") from None
