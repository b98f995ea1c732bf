"""The layer store: layers by diff ID, each whole and verified in a form that can be mounted, or not there.

    layers/<diff ID's hex>/layer.erofs   the layer as one EROFS file      } and layer.json beside it:
    trees/<diff ID's hex>/root/          the layer as a directory tree    } what it is (`LayerRecord`)
    merged/<chain ID's hex>/layer.erofs  many layers as one (layers/merging.py)  }
    ingest/layer-<hex>.<form>/           one on its way in; its .lock is flock-held by whoever makes it

A layer is published by renaming its directory after everything in it has reached the disk, so a crash at any
point leaves it unpublished or whole.  gzip and zstd of the same tar are one layer.  Whoever asks for a layer
that is being made waits for it, in any process; when its maker dies the next one begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import os
import secrets
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Final

import msgspec

from mesocosm import durable, trace
from mesocosm.errors import Corrupt
from mesocosm.images import checked
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import HEX_LENGTH, Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.layers.presence import Presence
from mesocosm.images.limits import DEFAULT_LIMITS, DEFAULT_POLICY, Limits, Policy
from mesocosm.images.progress import Phase, Progress, Report, silent
from mesocosm.images.staging import discard, sweep
from mesocosm.images.stores.base import Fetch
from mesocosm.images.transfer import POLL, in_thread, settle

VERSION: Final = 1


class Form(enum.StrEnum):
    """What a layer is kept as."""

    EROFS = "erofs"
    TREE = "tree"
    MERGED = "merged"


_FOLDER = {Form.EROFS: "layers", Form.TREE: "trees", Form.MERGED: "merged"}
CONTENT = {Form.EROFS: "layer.erofs", Form.TREE: "root", Form.MERGED: "layer.erofs"}
_ALGORITHM = {length: name for name, length in HEX_LENGTH.items()}


READY: Final = "erofs"
"""What the record of a layer that came as an EROFS file says of its blob's compression."""


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a stored layer is, in ``layer.json``.

    ``size`` bytes on disk, ``seal`` by which a flipped bit is found (empty: a tree of an earlier version),
    ``blob`` the digest it was made from, ``tar_size`` and ``entries`` of its archive, ``implied`` directories
    that it has without describing them and their paths but the root's, ``compression`` of the blob;
    ``opaque``: its root hides what is below it.  None where nobody noted it.
    """

    diff_id: str
    form: Form
    size: int
    seal: str
    blob: str
    tar_size: int
    entries: int
    implied: int
    compression: str
    implied_at: tuple[str, ...] | None = None
    opaque: bool | None = None
    version: int = VERSION

    @property
    def ready(self) -> bool:
        """Whether the layer came as an EROFS file (erofs/ready.py), so that its bytes are a stranger's."""
        return self.compression == READY


class LayerStore:
    """The layers of one store; any number of processes may use it at once."""

    def __init__(
        self,
        root: Path,
        blobs: BlobStore,
        *,
        limits: Limits = DEFAULT_LIMITS,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self._root = root
        self._prefix = {form: f"{root}/{folder}/" for form, folder in _FOLDER.items()}
        self._presence = {form: Presence(prefix) for form, prefix in self._prefix.items()}
        self._blobs = blobs
        self.limits = limits
        self.policy = policy

    def prepare(self) -> None:
        """Make the directories."""
        for folder in _FOLDER.values():
            (self._root / folder).mkdir(mode=0o700, exist_ok=True)

    def content(self, diff_id: Digest, form: Form) -> Path:
        """Return where the layer's file or tree is, or would be."""
        return self._directory(diff_id, form) / CONTENT[form]

    def has(self, diff_id: Digest, form: Form) -> bool:
        """Whether the layer is there; a directory under the final name is a whole layer."""
        return os.path.exists(f"{self._prefix[form]}{diff_id.hex}/{CONTENT[form]}")  # noqa: PTH110

    def has_all(self, diff_ids: Collection[Digest], form: Form) -> bool:
        """Whether all these layers are there; a single look where nothing has changed since they were."""
        return self._presence[form].all(diff_ids, functools.partial(self.has, form=form))

    def record(self, diff_id: Digest, form: Form) -> LayerRecord | None:
        """Return what is recorded of the layer; None when it is not there or its record is unreadable."""
        path = self._directory(diff_id, form) / "layer.json"
        try:
            return checked.decode(durable.read(path), LayerRecord, path)
        except (FileNotFoundError, Corrupt):
            return None

    def list(self) -> Iterator[tuple[Digest, Form]]:
        """Yield every layer that is there, in no order."""
        for form, folder in _FOLDER.items():
            for name in os.listdir(self._root / folder):  # noqa: PTH208
                with contextlib.suppress(KeyError):
                    yield Digest(_ALGORITHM[len(name)], name), form

    async def ingest(
        self,
        descriptor: Descriptor,
        diff_id: Digest,
        form: Form,
        source: Fetch,
        *,
        report: Report = silent,
        keep: bool = True,
    ) -> None:
        """Have the layer, made from the blob that ``descriptor`` names, fetched by ``source`` where it is
        missing.

        One transfer and one unpacking however many ask.  Raises Corrupt when blob or diff ID is another one,
        Exhausted beyond limits or on a full disk, and what ``source`` raises; nothing is published then.
        """
        from mesocosm.images.layers.writer import writer_of  # decompressors: only who pulls needs them

        async with self._making(diff_id, form) as staging:
            if self.has(diff_id, form):
                await in_thread(settle, self._blobs, descriptor)
                _report_present(descriptor, report)
                return
            subject = str(diff_id)
            report(Progress(Phase.UNPACK, subject, 0, descriptor.size))
            await source(
                self._blobs,
                descriptor,
                sink=writer_of(self, staging, descriptor, diff_id, form),
                report=report,
                keep=keep,
            )
        report(Progress(Phase.UNPACK, subject, descriptor.size, descriptor.size, finished=True))

    def publish(self, staging: Path, record: LayerRecord) -> None:
        """Move a finished layer under its name; blocking."""
        durable.write(staging / "layer.json", checked.encode(record))
        trace.point("layers.made")
        target = self._directory(Digest.parse(record.diff_id), record.form)
        staging.rename(target)
        trace.point("layers.renamed")
        durable.sync(target.parent)

    def condemn(self, diff_id: Digest, form: Form) -> bool:
        """Move a layer to the trash, where `empty_trash` finds it; whether it was there."""
        try:
            self._directory(diff_id, form).rename(self._root / "trash" / secrets.token_hex(16))
        except FileNotFoundError:
            return False
        return True

    def empty_trash(self) -> None:
        """Remove what was condemned, and unfinished layers that nobody is making; blocking."""
        ingest = self._root / "ingest"
        for name in os.listdir(ingest):  # noqa: PTH208
            if name.startswith("layer-") and not name.endswith(".lock"):
                lock = ingest / f"{name}.lock"
                with durable.locked(lock, wait=False) as mine:
                    if mine:
                        discard(ingest / name)
                        lock.unlink(missing_ok=True)
        sweep(ingest)
        _remove_directories(self._root / "trash")

    @contextlib.contextmanager
    def being_made(self, diff_id: Digest, form: Form) -> Iterator[Path]:
        """Hold the lock on the layer's making, and yield a path for it where nothing is; blocking."""
        staging, lock = self._staging(diff_id, form)
        with durable.locked(lock):
            try:
                discard(staging)
                yield staging
            finally:
                discard(staging)
                lock.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def _making(self, diff_id: Digest, form: Form) -> AsyncIterator[Path]:
        """The same without blocking."""
        staging, lock = self._staging(diff_id, form)
        while True:
            with durable.locked(lock, wait=False) as mine:
                if mine:
                    try:
                        await in_thread(discard, staging)
                        yield staging
                    finally:
                        lock.unlink(missing_ok=True)
                    return
            trace.point("layers.waiting")
            await asyncio.sleep(POLL)

    def _staging(self, diff_id: Digest, form: Form) -> tuple[Path, Path]:
        staging = self._root / "ingest" / f"layer-{diff_id.hex}.{form}"
        return staging, staging.with_name(f"{staging.name}.lock")

    def _directory(self, diff_id: Digest, form: Form) -> Path:
        return self._root / _FOLDER[form] / diff_id.hex


def _report_present(descriptor: Descriptor, report: Report) -> None:
    size = descriptor.size
    report(Progress(Phase.DOWNLOAD, str(descriptor.digest), size, size, size, already=True, finished=True))


def _remove_directories(trash: Path) -> None:
    for name in os.listdir(trash):  # noqa: PTH208
        discard(trash / name)
