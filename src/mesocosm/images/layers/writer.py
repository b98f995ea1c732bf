"""Writes a layer while its blob comes in, and publishes it when everything about it was found right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mesocosm.errors import Corrupt, Exhausted, Unsupported
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.erofs.ready import ReadyWriter
from mesocosm.images.erofs.sink import ErofsSink
from mesocosm.images.layers.facts import LayerFacts
from mesocosm.images.layers.store import CONTENT, Form, LayerRecord
from mesocosm.images.layers.stream import LayerIngest
from mesocosm.images.staging import discard
from mesocosm.images.transfer import SinkFactory
from mesocosm.images.unpack.sink import DirectorySink

if TYPE_CHECKING:
    from mesocosm.images.layers.store import LayerStore


def writer_of(
    store: LayerStore, staging: Path, descriptor: Descriptor, diff_id: Digest, form: Form
) -> SinkFactory:
    """Return what makes sinks for a layer of the descriptor's media type: an archive, or an EROFS file."""
    kind = ReadyWriter if descriptor.media_type in mediatypes.EROFS else LayerWriter
    return lambda: kind(store, staging, descriptor, diff_id, form)


class LayerWriter:
    """Sink of one transfer: makes the layer below ``staging`` and has ``store`` publish it at the end."""

    def __init__(
        self, store: LayerStore, staging: Path, descriptor: Descriptor, diff_id: Digest, form: Form
    ) -> None:
        discard(staging)
        staging.mkdir(mode=0o700)
        self._store = store
        self._staging = staging
        self._form = form
        self._blob = descriptor.digest
        path, limits, policy = staging / CONTENT[form], store.limits, store.policy
        self._ingest = LayerIngest(
            ErofsSink(path, limits=limits, policy=policy)
            if form is Form.EROFS
            else DirectorySink(path, flavour="overlay", limits=limits, policy=policy),
            blob=descriptor.digest,
            blob_size=descriptor.size,
            diff_id=diff_id,
            limits=limits,
            verified=True,
        )

    def write(self, chunk: bytes | memoryview) -> None:
        """Take more of the blob."""
        with self._named():
            self._ingest.feed(chunk)

    def finish(self) -> None:
        """The blob is complete and right: publish the layer."""
        with self._named():
            facts = self._ingest.finish()
        self._store.publish(self._staging, _record(facts, self._form))

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Have errors about what is in the layer say which layer it is."""
        try:
            yield
        except (Corrupt, Exhausted, Unsupported) as error:
            if self._blob.hex in error.message:
                raise
            raise type(error)(
                f"layer {self._blob}: {error.message.removeprefix('layer: ')}", hint=error.hint
            ) from error

    def abort(self) -> None:
        """Give everything up and leave nothing."""
        with contextlib.suppress(Exception):
            self._ingest.abort()
            discard(self._staging)


def _record(facts: LayerFacts, form: Form) -> LayerRecord:
    return LayerRecord(
        diff_id=str(facts.diff_id),
        form=form,
        size=facts.made.size,
        seal=facts.made.seal,
        blob=str(facts.blob_digest),
        tar_size=facts.tar_size,
        entries=facts.entries,
        implied=facts.made.implied,
        implied_at=facts.made.implied_at,
        opaque=facts.made.opaque,
        compression=facts.compression,
    )
