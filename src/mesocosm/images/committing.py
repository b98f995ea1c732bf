"""A new image: another one, a layer of what a container changed on it, and what is said anew of its process.

    drafted ──► packed (the layer, into a spool) ──► found, which is kept like an image of an archive

Always the same bytes for the same changes, but for the date.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from mesocosm.errors import Corrupt, Exhausted, InvalidConfig
from mesocosm.images import mediatypes
from mesocosm.images.archive import Span, chunks
from mesocosm.images.changes import runtime_of
from mesocosm.images.compress import Written, compressor
from mesocosm.images.config import parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.documents import LAYER_LIMIT, Descriptor, Manifest
from mesocosm.images.image import Image, ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.known import found_here
from mesocosm.images.naming import new_name
from mesocosm.images.reference import Reference
from mesocosm.images.root_diff import RootDiff
from mesocosm.images.root_tar import RootTar
from mesocosm.images.spool import Spool
from mesocosm.images.stores.base import Document, Found, fetching
from mesocosm.images.strict import Json, load
from mesocosm.images.synthesis import layer_descriptor, manifest_document, moment

_WHAT = "the image to be made"
_END_OF_DATES = 253_402_300_800  # 10000-01-01, in seconds since the epoch: RFC 3339 has no more


class Committed(msgspec.Struct, frozen=True):
    """The image that was made, and in words what of the root could not be put into it."""

    image: Image
    left_out: tuple[str, ...] = ()


class CommitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the new image is to say: ``changes`` as in a Dockerfile, ``created`` seconds since the epoch."""

    name: str | None = None
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    compression: Written = "gzip"
    created: float

    def __post_init__(self) -> None:
        if not 0 <= self.created < _END_OF_DATES:
            raise InvalidConfig(f"{self.created} is no date", hint="give seconds since 1970")

    @property
    def names(self) -> tuple[Reference, ...]:
        """The name as references; InvalidConfig for what is none."""
        return (new_name(self.name),) if self.name else ()


class Draft(msgspec.Struct, frozen=True):
    """All of the new image that is known before its layer: the image below, the configuration to be."""

    below: Found
    config: dict[str, Json]


class Packed(msgspec.Struct, frozen=True):
    """The layer that was made: None where nothing had changed."""

    layer: Descriptor | None
    diff_id: Digest
    left_out: tuple[str, ...]


def drafted(store: ImageStore, image: ImageRecord, request: CommitRequest) -> Draft:
    """Check all that can be before anything is read; blocking.

    Raises InvalidConfig for a name or a change that cannot be meant, Exhausted when the image has as many
    layers as one may have.
    """
    _ = request.names
    if len(image.layers) >= LAYER_LIMIT:
        raise Exhausted(f"image {image.digest} has {LAYER_LIMIT} layers already, no image may have more")
    below = found_here(store, image)
    config = load(below.documents[-1].data, f"image {image.digest}")
    before = config.get("config")
    config["config"] = dict(runtime_of(request.changes, before if isinstance(before, dict) else {}))
    config["created"] = moment(request.created)
    config.pop("author", None)
    if request.author:
        config["author"] = request.author
    try:
        parse_config(msgspec.json.encode(config), what=_WHAT)
    except Corrupt as error:
        raise InvalidConfig(error.message, hint="see --change") from None
    return Draft(below, config)


def pack(diff: RootDiff, spool: Spool, kind: Written, stopped: threading.Event) -> Packed:
    """Write what was changed in a root into the spool, as a layer; blocking.

    Raises what `RootDiff.walk` and `RootTar.add` do.
    """
    packed = compressor(kind)
    tar, blob, size = hashlib.sha256(), hashlib.sha256(), 0

    def keep(data: bytes) -> None:
        nonlocal size
        size += len(data)
        blob.update(data)
        spool.write(data)

    def put(data: bytes) -> None:
        tar.update(data)
        keep(packed.compress(data))

    writer = RootTar(diff.root, put, whiteouts=True, stopped=stopped)
    for one in diff.walk():
        if one.kind != "removed":
            writer.add(one.entry)
        elif not one.hidden:
            writer.white_out(one.entry.path)
        if one.opaque:
            writer.make_opaque(one.entry.path)
    writer.finish()
    keep(packed.flush())
    layer = layer_descriptor(kind, Digest("sha256", blob.hexdigest()), size) if writer.members else None
    return Packed(layer, Digest("sha256", tar.hexdigest()), tuple(writer.left_out))


def found_of(store: ImageStore, draft: Draft, packed: Packed, spool: Path, request: CommitRequest) -> Found:
    """Return the new image as a source would have it; the spool has to be there while it is fetched."""
    below = draft.below
    layers = [_oci(layer) for layer in below.manifest.layers]
    diff_ids = [str(one) for one in below.config.diff_ids]
    if packed.layer is not None:
        layers.append(packed.layer)
        diff_ids.append(str(packed.diff_id))
    rootfs: dict[str, Json] = {"type": "layers", "diff_ids": list(diff_ids)}
    history = [*_history(draft), _step(request, empty=packed.layer is None)]
    config = msgspec.json.encode({**draft.config, "rootfs": rootfs, "history": history})
    top, documents = manifest_document(config, layers)
    described = Descriptor(mediatypes.OCI_CONFIG, Digest.of(config), len(config))

    async def opened(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
        ours = packed.layer is not None and descriptor.digest == packed.layer.digest
        path = spool if ours else store.blobs.path(descriptor.digest)
        async for chunk in chunks(path, Span(0, descriptor.size), offset):
            yield chunk

    return Found(
        manifest=Manifest(
            media_type=top.media_type,
            digest=top.digest,
            size=top.size,
            config=described,
            layers=tuple(layers),
        ),
        config=parse_config(config, what=_WHAT),
        documents=(Document(top, documents[top.digest]), Document(described, config)),
        source=f"committed on {below.manifest.digest}",
        fetch=fetching(opened, resume=False),
        names=request.names,
    )


def _oci(layer: Descriptor) -> Descriptor:
    """A layer as an OCI manifest names it."""
    if layer.media_type in mediatypes.EROFS:
        return layer
    return layer_descriptor(layer.compression or "", layer.digest, layer.size)


def _history(draft: Draft) -> list[Json]:
    """What is told of the image below, with an empty step for each layer that nothing is told of: the new
    step would be taken for the lowest of these.
    """
    told = draft.config.get("history")
    steps: list[Json] = list(told) if isinstance(told, list) else []
    made = sum(not step.empty_layer for step in draft.below.config.history)
    return [*steps, *({} for _ in range(len(draft.below.config.diff_ids) - made))]


def _step(request: CommitRequest, *, empty: bool) -> dict[str, Json]:
    step: dict[str, Json] = {"created": moment(request.created), "created_by": "mesocosm commit"}
    for name, value in (("author", request.author), ("comment", request.message)):
        if value:
            step[name] = value
    if request.changes:
        step["created_by"] = f"mesocosm commit {' '.join(f'--change {one!r}' for one in request.changes)}"
    if empty:
        step["empty_layer"] = True
    return step
