"""The scrub: everything in a store, read again while nobody else wants the disk, a little at a time.

It goes through blobs and layers in the order of their names, at idle priority and at most at a given
rate, past the page cache: what counts is what the disk has.  Where it is stands in ``scrub.json``, so one
that is ended by its time, a signal or a crash goes on there; after the last one it begins again.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from mesocosm import durable
from mesocosm.errors import Corrupt, NotFound
from mesocosm.images.digest import Digest
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form
from mesocosm.images.staging import replace
from mesocosm.images.verification import Verification
from mesocosm.linux.priority import be_idle

RATE: Final = 32 << 20
"""Bytes a second, unless told otherwise."""
_SAVED_EVERY: Final = 5.0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """``scrub.json``: how far a pass has come.

    ``after`` is the last key done, empty at the beginning; ``began`` and, of the last whole pass,
    ``finished`` are seconds since the epoch, 0 for never.
    """

    after: str = ""
    began: float = 0.0
    finished: float = 0.0
    version: int = 1


class Scrubbed(msgspec.Struct, frozen=True, kw_only=True):
    """What one run came to.

    ``checked`` blobs and layers, ``size`` their bytes; ``damaged`` names those with other bytes than they
    had, ``left`` those that an image needs and that could not be brought back; ``complete`` whether the pass
    came to its end.
    """

    checked: int
    size: int
    damaged: tuple[str, ...]
    complete: bool
    left: tuple[str, ...] = ()


class _Thing(NamedTuple):
    """One blob, or one layer or merge with its form."""

    digest: Digest
    form: Form | None = None

    @property
    def key(self) -> str:
        """Its place in the order."""
        return f"{self.form or 'blob'}/{self.digest}"


class _Ended(Exception):
    """The time is up, or somebody said so."""


class Scrub:
    """One run through a store; blocking, for a thread of its own."""

    def __init__(self, store: ImageStore, *, rate: int = RATE, seconds: float | None = None) -> None:
        """``rate``: bytes a second; ``seconds``: for how long at most."""
        self._store = store
        self._file = store.root / "scrub.json"
        self._rate = rate
        self._seconds = seconds
        self._stopped = threading.Event()
        self._size = 0
        self._began = 0.0

    def stop(self) -> None:
        """End at the next piece; from any thread."""
        self._stopped.set()

    def run(self) -> Scrubbed:
        """Go on where the last run ended, to the end of the pass or of the time."""
        be_idle()
        place = self.place()
        if not place.after:
            place = msgspec.structs.replace(place, began=time.time())
        self._began = saved = time.monotonic()
        checked, damaged, complete = 0, [], False
        with contextlib.suppress(_Ended):
            for thing in self._things(place.after):
                if not self._is_sound(thing):
                    damaged.append(str(thing.digest))
                checked += 1
                place = msgspec.structs.replace(place, after=thing.key)
                if time.monotonic() - saved > _SAVED_EVERY:
                    self._save(place)
                    saved = time.monotonic()
            complete = True
            place = Place(finished=time.time())
        self._save(place)
        return Scrubbed(checked=checked, size=self._size, damaged=tuple(damaged), complete=complete)

    def place(self) -> Place:
        """Return how far the pass has come; the beginning when that cannot be read."""
        try:
            return msgspec.json.decode(durable.read(self._file), type=Place)
        except (FileNotFoundError, Corrupt, msgspec.MsgspecError, UnicodeDecodeError):
            return Place()

    def _save(self, place: Place) -> None:
        replace(self._store.root / "ingest", self._file, msgspec.json.encode(place))

    def _things(self, after: str) -> list[_Thing]:
        """What is left to check, in order."""
        blobs = [_Thing(stored.digest) for stored in self._store.blobs.list()]
        layers = [_Thing(*layer) for layer in self._store.layers.list()]
        left = [thing for thing in (*blobs, *layers) if thing.key > after]
        return sorted(left, key=lambda thing: thing.key)

    def _blob(self, digest: Digest) -> bool:
        """Whether a blob is what it was; what has gone meanwhile is not damaged."""
        _drop_cache(self._store.blobs.path(digest))
        try:
            for piece in self._store.blobs.chunks(digest):
                self._passed(len(piece))
        except NotFound:
            return True
        except Corrupt:
            return False
        return True

    def _is_sound(self, thing: _Thing) -> bool:
        if thing.form is None:
            return self._blob(thing.digest)
        sound = Verification(self._store).layer_is_sound(thing.digest, thing.form, self._passed, fresh=True)
        return sound or not self._store.layers.has(thing.digest, thing.form)

    def _passed(self, count: int) -> None:
        """Take note of bytes read, and wait as long as the rate says."""
        self._size += count
        elapsed = time.monotonic() - self._began
        if self._stopped.wait(max(0.0, self._size / self._rate - elapsed)):
            raise _Ended
        if self._seconds is not None and time.monotonic() - self._began >= self._seconds:
            raise _Ended


def _drop_cache(path: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
