"""Which backend to use on this host: found by trying, once per boot, and remembered on the runtime side."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mesocosm import durable
from mesocosm.errors import Corrupt
from mesocosm.images.backends import OURS, PREFERENCE, backend_class, choose
from mesocosm.images.backends.base import Backend, BackendContext
from mesocosm.images.layers.mounts import LayerMounts
from mesocosm.images.staging import staged
from mesocosm.images.store_faults import store_faults
from mesocosm.paths import Paths


class _Remembered(msgspec.Struct, frozen=True):
    """The backend found to work for a store on the file system ``device``."""

    name: str
    device: int


class BackendChoice:
    """The backends of one provisioner; each is tried at most once."""

    def __init__(self, paths: Paths, mounts: LayerMounts) -> None:
        self._images = paths.images
        self._mounts = mounts
        self._top = paths.top
        self._file = paths.runtime / "backend.json"
        self._tried: dict[str, Backend] = {}
        self._default: Backend | None = None
        self._trying = threading.Lock()

    def get(self, name: str | None) -> Backend:
        """Return the backend called ``name``, or the best one that works here; blocking.

        Raises InvalidConfig for an unknown name, Unsupported where it cannot work.
        """
        with self._trying:
            if name is None:
                self._default = self._default or self._best()
                return self._default
            if name not in self._tried:
                self._tried[name] = self._try((name,))
            return self._tried[name]

    def likely(self, name: str | None) -> Backend:
        """Return the backend that `get` would, without trying anything: for ``explain``."""
        chosen = name or self.remembered() or PREFERENCE[0]
        return backend_class(chosen)(self._context(self._images))

    def _best(self) -> Backend:
        remembered = self.remembered()
        if remembered is not None:
            return backend_class(remembered)(self._context(self._images))
        found = self._try(PREFERENCE)
        note = _Remembered(found.name, self._device())
        with contextlib.suppress(OSError):  # the next command tries again
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(self._file, msgspec.json.encode(note))
        return found

    def remembered(self) -> str | None:
        """Return the backend that was found since boot, and is used without a name; None for none yet."""
        with contextlib.suppress(FileNotFoundError, Corrupt, msgspec.MsgspecError, UnicodeDecodeError):
            note = msgspec.json.decode(durable.read(self._file), type=_Remembered)
            if note.device == self._device() and note.name in OURS:
                return note.name
        return None

    def _device(self) -> int:
        return self._images.stat().st_dev

    def _try(self, names: tuple[str, ...]) -> Backend:
        with store_faults(self._images), self._trial() as trial:
            found = choose(self._context(trial), names)
        return type(found)(self._context(self._images))

    def _context(self, trial: Path) -> BackendContext:
        return BackendContext(mounts=self._mounts, trial=trial, top=self._top)

    @contextlib.contextmanager
    def _trial(self) -> Iterator[Path]:
        """A directory on the store's file system, removed afterwards."""
        with staged(self._images / "ingest", "trial-") as trial:
            yield trial
