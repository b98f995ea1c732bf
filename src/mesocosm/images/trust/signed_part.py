"""Files that an image is made of and that are signed one by one: App Container images."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Part(msgspec.Struct, frozen=True):
    """One such file: its name for people, where it is, its detached signature if it has one, and where its
    site offers keys, which nobody here has checked.
    """

    name: str
    path: Path
    signature: bytes | None
    keys_at: tuple[str, ...] = ()
