"""Docker's image manifests of schema 1, as registries served them until 2016: parsed, and made into an image.

Such a manifest names its layers by the digests of their blobs, highest first, and beside each the document
that docker kept of it (docker_v1.py).  It is served with JSON web signatures in it; its digest is that of
the *payload*, the bytes without them.  Every signature says how many bytes of what was served come before
them, and what comes after (``formatLength``, ``formatTail``).  Who signed is not asked: the key stands
beside the signature, and anybody could have made it.  Only the payload is read.

Sources: distribution's "manifest-v2-1.md", RFC 7515, docker's libtrust.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.docker_v1 import V1Image, parse_v1, v1_config
from mesocosm.images.documents import LAYER_LIMIT, Descriptor
from mesocosm.images.foreign import shown
from mesocosm.images.platform import normalised
from mesocosm.images.strict import Fields, Json, load
from mesocosm.images.synthesis import Measured, manifest_document

STEP_LIMIT: Final = 1000
"""Steps of an image's making, those without a layer included; docker took 127."""

SIGNATURE_LIMIT: Final = 64

_ID = re.compile(r"[a-f0-9]{64}", re.ASCII)
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_TAIL = re.compile(rb"[ \t\r\n]*\}[ \t\r\n]*")
_KNOWN = (
    "schemaVersion",
    "mediaType",
    "name",
    "tag",
    "architecture",
    "fsLayers",
    "history",
    "signatures",
    "config",
    "layers",
    "manifests",
)


class Schema1(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest's content.  ``steps`` are the documents of all layers, ``layers`` the digests of those that
    are kept; both lowest first.
    """

    name: str
    tag: str
    steps: tuple[V1Image, ...]
    layers: tuple[Digest, ...]

    def require_asked_for(self, repository: str, tag: str | None, what: str) -> None:
        """Raise Corrupt unless this is a manifest of the repository, and of ``tag`` where one is given.

        It is all that binds a manifest to its name: another repository's would else do as well.
        """
        if self.name != repository or tag not in (None, self.tag):
            raise Corrupt(
                f"{what} was answered with the manifest of {shown(self.name, 120)}:{shown(self.tag, 120)}",
                hint="the registry serves another image under this name",
            )

    def config(self, diff_ids: Sequence[Digest]) -> bytes:
        """Return the configuration that this image gets, with these layers."""
        return v1_config(self.steps, diff_ids)

    def documents(self, layers: Sequence[Measured]) -> tuple[Descriptor, dict[Digest, bytes]]:
        """Return the OCI manifest that this image gets, and the bytes of it and its configuration by digest.

        ``layers`` are `self.layers`, measured.  The same manifest always gives the same bytes.
        """
        config = self.config([one.diff_id for one in layers])
        return manifest_document(config, [one.descriptor for one in layers])


def served_as(data: bytes, media_type: str, what: str) -> str:
    """Return the media type of a manifest, found by looking where it was served as nothing in particular.

    Registries before distribution 2.3 served all manifests as ``application/json``.  Raises Corrupt.
    """
    if media_type:
        return media_type
    document = load(data, what)
    if "fsLayers" not in document:
        return media_type
    return mediatypes.DOCKER_SCHEMA1_SIGNED if "signatures" in document else mediatypes.DOCKER_SCHEMA1


def payload_of(data: bytes, media_type: str, what: str) -> bytes:
    """Return the bytes whose digest names the manifest in ``data``, which was served as ``media_type``.

    Raises Corrupt where signatures disagree with each other or with what they stand in.
    """
    document = load(data, what)
    fields = Fields(document, what, ("signatures",))
    if media_type != mediatypes.DOCKER_SCHEMA1_SIGNED:
        if "signatures" in document:
            raise fields.fail("signatures", "are there, but it was served as unsigned")
        return data
    signatures = fields.items("signatures")
    if not signatures:
        raise fields.fail("signatures", "are missing, but it was served as signed")
    if len(signatures) > SIGNATURE_LIMIT:
        raise Exhausted(f"{what} has {len(signatures)} signatures, more than the {SIGNATURE_LIMIT} allowed")
    parts = {_signed_part(item, f"{what}, signature {n}") for n, item in enumerate(signatures)}
    if len(parts) > 1:
        raise fields.fail("signatures", "disagree about what they sign")
    length, tail = parts.pop()
    payload = data[:length] + tail
    if load(payload, what) != {key: value for key, value in document.items() if key != "signatures"}:
        raise fields.fail("signatures", "sign something else than what they stand in")
    return payload


def parse_schema1(payload: bytes, what: str) -> Schema1:
    """Return what a manifest without its signatures says; raises Corrupt, or Exhausted beyond limits."""
    fields = Fields(load(payload, what), what, _KNOWN)
    if fields.integer("schemaVersion") != 1:
        raise fields.fail("schemaVersion", "is not 1")
    if fields.text("mediaType") not in (None, *mediatypes.SCHEMA1):
        raise fields.fail("mediaType", f"is {shown(fields.raw('mediaType'), 100)}")
    for key in ("config", "layers", "manifests", "signatures"):
        if fields.has(key):
            raise Corrupt(f"{what} is ambiguous: it has both fsLayers and {key}")
    layers, history = fields.items("fsLayers"), fields.items("history")
    if len(layers) != len(history):
        raise Corrupt(f"{what} is ambiguous: it has {len(layers)} layers, and {len(history)} are described")
    if not layers:
        raise fields.fail("fsLayers", "are missing")
    if len(layers) > STEP_LIMIT:
        raise Exhausted(f"{what} has {len(layers)} layers, more than the {STEP_LIMIT} allowed")
    layers, history = _each_once(layers, history)
    steps = tuple(_step(item, f"{what}, history {n}") for n, item in enumerate(history))
    _require_chain(steps, what)
    blobs = [_blob(item, f"{what}, layer {n}") for n, item in enumerate(layers)]
    kept = [blob for blob, step in zip(blobs, steps, strict=True) if not step.throwaway]
    if len(kept) > LAYER_LIMIT:
        raise Exhausted(f"{what} has {len(kept)} layers, more than the {LAYER_LIMIT} allowed")
    head = _with_architecture(steps[0], fields)
    return Schema1(
        name=fields.text("name") or "",
        tag=fields.text("tag") or "",
        steps=(*steps[:0:-1], head),
        layers=tuple(reversed(kept)),
    )


def _signed_part(item: Json, where: str) -> tuple[int, bytes]:
    """How many of the served bytes belong to the payload, and what ends it."""
    fields = Fields(item, where, ("header", "signature", "protected"))
    Fields(fields.raw("header"), f"{where}, header", ())
    _base64url(fields, "signature")
    what = f"{where}, protected header"
    protected = Fields(load(_base64url(fields, "protected"), what), what, ("formatLength", "formatTail"))
    length, tail = protected.integer("formatLength"), _base64url(protected, "formatTail")
    if length is None:
        raise protected.fail("formatLength", "is missing")
    if not _TAIL.fullmatch(tail):
        raise protected.fail("formatTail", "does more than to end a document")
    return length, tail


def _base64url(fields: Fields, name: str) -> bytes:
    """A member's bytes in the one form that RFC 7515 section 2 allows: no padding, no stray bits."""
    text = fields.text(name) or ""
    try:
        if not _BASE64URL.fullmatch(text):
            raise ValueError(text)
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise fields.fail(name, "is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != text:
        raise fields.fail(name, "is not base64url in its one form")
    return data


def _each_once(layers: Sequence[Json], history: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    """Both lists without what only repeats what stands before it: old dockers now and then wrote that."""
    pairs = list(zip(layers, history, strict=True))
    kept = [pair for number, pair in enumerate(pairs) if number == 0 or pair != pairs[number - 1]]
    return [layer for layer, _ in kept], [step for _, step in kept]


def _step(item: Json, where: str) -> V1Image:
    text = Fields(item, where, ("v1Compatibility",)).text("v1Compatibility")
    if text is None:
        raise Corrupt(f"{where}: v1Compatibility is missing")
    return parse_v1(load(text.encode("utf-8"), where), where)


def _blob(item: Json, where: str) -> Digest:
    return Fields(item, where, ("blobSum",)).digest("blobSum")


def _require_chain(steps: Sequence[V1Image], what: str) -> None:
    """Check that each step, highest first, stands on the next."""
    parents = [*(step.id for step in steps[1:]), ""]
    if len({step.id for step in steps}) != len(steps):
        raise Corrupt(f"{what} is ambiguous: two of its layers have one ID")
    for number, (step, parent) in enumerate(zip(steps, parents, strict=True)):
        if not _ID.fullmatch(step.id):
            raise Corrupt(f"{what}, history {number}: id is not 64 hex digits: {shown(step.id, 80)!r}")
        if step.parent != parent:
            raise Corrupt(f"{what}, history {number} does not stand on the one that follows")


def _with_architecture(head: V1Image, fields: Fields) -> V1Image:
    """The topmost step with the one architecture on which it and the manifest agree."""
    own, said = head.platform, fields.text("architecture") or ""
    named = msgspec.structs.replace(own, architecture=said)
    if said and own.architecture and normalised(named).architecture != normalised(own).architecture:
        raise fields.fail(
            "architecture",
            f"is {shown(said, 60)!r}, but its topmost layer is for {shown(own.architecture, 60)!r}",
        )
    return head if own.architecture else msgspec.structs.replace(head, platform=named)
