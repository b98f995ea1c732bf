"""Text that strangers wrote, made fit for one line of ours.

Error bodies, tags, labels and paths from images and registries may hold terminal escapes, line feeds,
bidirectional overrides or a megabyte of padding.  Everything that goes into a message passes through
:func:`shown`.
"""

from __future__ import annotations


def shown(text: object, limit: int = 200) -> str:
    """Return ``text`` on one line: printable characters only, others as ``?``, at most ``limit``
    characters.
    """
    plain = str(text)
    head = plain[:limit]
    clean = "".join(c if c.isprintable() else "?" for c in head)
    return clean + "..." if len(plain) > limit else clean


def parse_uint(text: str, most: int) -> int | None:
    """Return the number written in ``text`` as ASCII digits, or None when it is not one or exceeds ``most``.

    ``int()`` also takes signs, spaces, underscores and the digits of other scripts.
    """
    if not text or len(text) > 19 or not text.isascii() or not text.isdigit():
        return None
    value = int(text)
    return value if value <= most else None
