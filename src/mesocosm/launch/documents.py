"""JSON, with the interpreter's C scanner alone.

The ``json`` package brings ``re`` and ``enum``, which would lie in the memory of every supervisor.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Settings:
    """What the scanner reads of ``json.JSONDecoder``."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = None
    memo: dict[str, str] = {}


_scan = make_scanner(_Settings())  # type: ignore[arg-type]


def loads(data: bytes) -> Any:
    """The value of a JSON document.  ValueError when it is none."""
    text = data.decode()
    try:
        value, end = _scan(text, 0)
    except StopIteration as error:
        raise ValueError(f"no JSON value at {error.value}") from None
    if text[end:].strip(" \t\r\n"):
        raise ValueError(f"more than one JSON value, from {end}")
    return value


def dumps(value: Any) -> bytes:
    """The JSON document of nested dicts, lists, tuples, strings, integers, booleans and None."""
    return _text(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return f"{{{','.join([f'{_text(key)}:{_text(item)}' for key, item in value.items()])}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join([_text(item) for item in value])}]"
    raise TypeError(f"{type(value).__name__} has no JSON form")
