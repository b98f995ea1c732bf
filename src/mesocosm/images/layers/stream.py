"""From a compressed layer stream to a usable layer: verify, decompress, read, write, in one pass.

    chunks -> SHA-256 (blob) -> decompress -> SHA-256 (diff ID) -> tar -> sink (EROFS file or directory)
                                                               └ from here on in a thread of its own

Every big step releases the interpreter lock, so layers are ingested in parallel by giving each a thread, and
a single one still has two processors.
Nothing is published here: the sink writes under a name of the caller's choosing, and only after `finish`
returned have both digests matched and is the result durable (attack I-14).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Protocol

from mesocosm.errors import Corrupt
from mesocosm.images.certain import certain
from mesocosm.images.decompress import Compression, Decompressor
from mesocosm.images.digest import Digest, Verifier
from mesocosm.images.erofs.sink import ErofsSink
from mesocosm.images.layers.conveyor import Conveyor
from mesocosm.images.layers.facts import ErofsFacts, LayerFacts, StreamHash, TreeFacts
from mesocosm.images.limits import DEFAULT_LIMITS, Limits
from mesocosm.images.tar.reader import EntrySink, TarReader
from mesocosm.images.unpack.sink import DirectorySink

__all__ = ["DirectorySink", "ErofsFacts", "ErofsSink", "LayerFacts", "LayerIngest", "LayerSink", "TreeFacts"]


class LayerSink(EntrySink, Protocol):
    """What a layer is written with."""

    def raw(self, block: bytes, /) -> None: ...
    def finish(self, tar: StreamHash, /) -> ErofsFacts | TreeFacts: ...
    def abort(self) -> None: ...


class LayerIngest:
    """Takes one layer's compressed stream.

    ``blob`` and ``blob_size`` are what the descriptor promises, ``diff_id`` what the image's configuration
    does; None where nobody said (a local tarball).  ``compression`` None goes by the stream's first bytes.
    ``verified``: who feeds checks the blob's digest, and calls ``finish`` only when it was right.
    ``feed`` and ``finish`` raise Corrupt or Exhausted, and OSError for the host's failures; the sink's work
    is removed then.  Without a ``diff_id`` the archive must have its end mark, as nothing else shows that it
    is whole.
    """

    def __init__(
        self,
        sink: LayerSink,
        *,
        compression: Compression | None = None,
        blob: Digest | None = None,
        blob_size: int | None = None,
        diff_id: Digest | None = None,
        limits: Limits = DEFAULT_LIMITS,
        verified: bool = False,
    ) -> None:
        self._sink = sink
        self._blob = blob
        self._blob_size = blob_size
        self._diff_id = diff_id
        checked = None if verified else blob
        self._verifier = Verifier(checked, blob_size, what="layer") if checked is not None else None
        self._blob_hash = hashlib.sha256() if blob is None else None
        self._tar_hash = hashlib.new(diff_id.algorithm if diff_id is not None else "sha256")
        self._plain = Decompressor(compression, limits)
        self._reader = TarReader(sink, limits, whole=diff_id is None)
        self._conveyor = Conveyor(partial(_read, sink, self._reader))

    @property
    def taken(self) -> int:
        """Compressed bytes taken so far, for progress."""
        return self._plain.taken

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next compressed bytes; pieces of 256 KiB or more are cheapest."""
        try:
            if self._verifier is not None:
                self._verifier.update(chunk)
            elif self._blob_hash is not None:
                self._blob_hash.update(chunk)
            self._take(self._plain.feed(chunk))
        except BaseException:
            self.abort()
            raise

    def finish(self) -> LayerFacts:
        """The stream has ended: check everything, make the layer durable, and tell what it is."""
        try:
            self._take(self._plain.finish())
            if self._verifier is not None:
                self._verifier.finish()
            self._conveyor.finish()
            self._reader.finish()
            diff_id = self._checked_diff_id()
            made = self._sink.finish(self._tar_hash)
        except BaseException:
            self.abort()
            raise
        if self._blob_hash is not None:
            blob = Digest("sha256", self._blob_hash.hexdigest())
        else:
            blob = certain(self._blob, "the blob's digest")
        return LayerFacts(
            diff_id=diff_id,
            tar_size=self._plain.given,
            blob_digest=blob,
            blob_size=self._plain.taken,
            compression=self._plain.compression or "none",
            entries=self._reader.entries,
            made=made,
        )

    def abort(self) -> None:
        """Give up: remove what the sink made.  Callable at any time, also twice."""
        self._conveyor.abort()
        self._sink.abort()

    def _take(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self._conveyor.put(piece)
            self._tar_hash.update(piece)

    def _checked_diff_id(self) -> Digest:
        found = Digest(self._tar_hash.name, self._tar_hash.hexdigest())
        if self._diff_id is not None and found != self._diff_id:
            raise Corrupt(
                f"layer's content is {found}, but the image's configuration says {self._diff_id}",
                hint="the image was put together wrongly, or tampered with; nothing was kept",
            )
        return found


def _read(sink: LayerSink, reader: TarReader, piece: bytes) -> None:
    sink.raw(piece)
    reader.feed(piece)
