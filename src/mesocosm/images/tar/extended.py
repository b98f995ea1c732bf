"""What extended headers say of the member that follows them: PAX records, global ones, GNU's long names."""

from __future__ import annotations

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.limits import Limits
from mesocosm.images.tar.header import Records, TarEntry, apply_records, check_global, parse_records, text

GLOBAL, RECORDS, LONG_NAME, LONG_LINK = b"gxLK"
"""Types of the headers whose data is said of other members."""

_GLOBALS = 100
"""Records of global headers: all of them are looked at again for each member."""

_NOTHING: dict[bytes, bytes] = {}


class Extended:
    """Takes the bodies of extended headers, and applies them to the next member.

    ``pending``: something is said of a member that has not come yet.  ``any``: that, or there are global
    records, which are said of every member.
    """

    def __init__(self, limits: Limits) -> None:
        self.pending = False
        self.any = False
        self.records: Records = []
        """The last member's own records in their order."""
        self._limits = limits
        self._globals: dict[bytes, bytes] = {}
        self._own: Records | None = None
        self._name: bytes | None = None
        self._link: bytes | None = None

    def take(self, flag: int, body: bytes) -> None:
        """Keep what an extended header of type ``flag`` says; two of a kind for one member are ambiguous."""
        self.any = True
        if flag == GLOBAL:
            self._take_globals(body)
            return
        self.pending = True
        if flag == RECORDS and self._own is None:
            self._own = parse_records(body)
        elif flag == LONG_NAME and self._name is None:
            self._name = text(body, "long name")
        elif flag == LONG_LINK and self._link is None:
            self._link = text(body, "long link name")
        else:
            raise Corrupt("tar: two extended headers of one kind for one member")

    def _take_globals(self, body: bytes) -> None:
        records = parse_records(body)
        check_global(records)
        self._globals.update(records)
        size = sum(map(len, self._globals)) + sum(map(len, self._globals.values()))
        if len(self._globals) > _GLOBALS or size > self._limits.records:
            raise Exhausted(
                f"tar: the global headers hold {len(self._globals)} records of {size} bytes",
                hint=f"{_GLOBALS} of {self._limits.records} bytes are allowed",
            )

    def apply(self, entry: TarEntry) -> dict[bytes, bytes]:
        """Let what was said overrule the fields of ``entry``.

        Returns all records when some of them say what no field does, else nothing.
        """
        self.pending = False
        self.any = bool(self._globals)
        self.records, self._own = self._own or [], None
        merged = {**self._globals, **dict(self.records)} if self.any else dict(self.records)
        if self._name is not None or self._link is not None:
            self._apply_long_names(entry, merged)
        return merged if apply_records(entry, merged) else _NOTHING

    def _apply_long_names(self, entry: TarEntry, merged: dict[bytes, bytes]) -> None:
        if self._name is not None:
            if merged.get(b"path"):
                raise Corrupt("tar: a member has two long names, GNU's and PAX's")
            entry.path, self._name = self._name, None
        if self._link is not None:
            entry.link, self._link = self._link, None
