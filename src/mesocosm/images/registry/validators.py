"""What a server tells of a file's version, in one string: its ETag, or its date marked as one (RFC 9110
section 8.8).

A *strong* one says that the bytes are the same, so that they can be fetched in parts; a weak one, ``W/…``,
only that they do as well, so that they need not be fetched again.
"""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from typing import Final

_DATED: Final = "date:"
_WEAK: Final = "W/"
_SETTLED: Final = 60
"""Seconds after its date for which a file must have stayed as it was: dates are too coarse to tell more (RFC
9110 section 8.8.2.2; clocks differ)."""


def validator_of(headers: Mapping[str, str]) -> str | None:
    """Return the validator of an answer with these headers; None where it has none that can be used."""
    etag = headers.get("ETag", "")
    if etag and len(etag) <= 512 and etag.isprintable():
        return etag
    date = headers.get("Last-Modified", "")
    if not date or len(date) > 64 or not date.isprintable():
        return None
    return f"{_DATED}{date}" if _is_settled(date, headers.get("Date", "")) else f"{_WEAK}{_DATED}{date}"


def is_strong(validator: str | None) -> bool:
    """Whether bytes that came with it may be put together."""
    return validator is not None and not validator.startswith(_WEAK)


def is_etag(validator: str | None) -> bool:
    """Whether it is an ETag, and no date."""
    return validator is not None and not validator.removeprefix(_WEAK).startswith(_DATED)


def unless_same(validator: str | None) -> dict[str, str]:
    """Return the headers that ask for a file unless it is the one that came with ``validator``."""
    if validator is None:
        return {}
    date = validator.removeprefix(_WEAK)
    if date.startswith(_DATED):
        return {"If-Modified-Since": date.removeprefix(_DATED)}
    return {"If-None-Match": validator}


def if_same(validator: str | None) -> dict[str, str]:
    """Return the headers by which a range is given only of what came with ``validator``."""
    return {} if validator is None else {"If-Range": validator.removeprefix(_DATED)}


def _is_settled(date: str, now: str) -> bool:
    try:
        modified, answered = (email.utils.parsedate_to_datetime(text) for text in (date, now))
        return (answered - modified).total_seconds() >= _SETTLED
    except (ValueError, TypeError, OverflowError, IndexError):
        return False
