"""Descriptors, manifests and indexes: docker schema 2 and OCI, parsed from hostile bytes into frozen values.

One document has one type, and every reader agrees on it: a document with both lists, or whose ``mediaType``
is not what it was served or described as, is refused (attacks G-02; CVE-2021-41190, GHSA-5j5w-g665-5m35).
Sources: OCI image spec "descriptor.md", "manifest.md", "image-index.md"; distribution's "manifest-v2-2.md".
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted, Unsupported
from mesocosm.images import mediatypes, platform
from mesocosm.images.digest import Digest, verify
from mesocosm.images.foreign import shown
from mesocosm.images.mediatypes import base_type
from mesocosm.images.platform import Platform
from mesocosm.images.strict import Fields, Json, load

LAYER_LIMIT: Final = 500
"""Overlay takes 500 lower layers, not 501."""

INDEX_LIMIT: Final = 10_000
REF_NAME: Final = "org.opencontainers.image.ref.name"
IMAGE_NAME: Final = "io.containerd.image.name"
"""A whole name beside it, as containerd, buildkit and docker write it."""

_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}", re.ASCII
)
_DESCRIPTOR = ("mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType")
_PLATFORM = ("os", "architecture", "variant", "os.version", "os.features")
_DOCUMENT = (
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "fsLayers",
    "subject",
    "artifactType",
    "annotations",
)


class Descriptor(msgspec.Struct, frozen=True):
    """Where bytes are and what they must be.  ``size`` in bytes; ``data`` are the bytes themselves when
    embedded.
    """

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str | None = None
    data: bytes | None = None

    @property
    def compression(self) -> str | None:
        """``""``, ``gzip`` or ``zstd`` for a layer's media type, None for one that is not a layer's."""
        return mediatypes.COMPRESSION.get(self.media_type)


EMPTY = Descriptor(mediatypes.OCI_EMPTY, Digest.of(b"{}"), 2, data=b"{}")
"""The OCI empty descriptor: two bytes, ``{}``."""


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    """What manifests and indexes have in common.  ``digest`` is that of the exact bytes parsed."""

    media_type: str
    digest: Digest
    size: int
    annotations: dict[str, str] = {}
    subject: Descriptor | None = None
    artifact_type: str | None = None

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this document itself."""
        return Descriptor(self.media_type, self.digest, self.size, artifact_type=self.artifact_type)


class Manifest(_Document, frozen=True, kw_only=True):
    """One image's, or one artifact's, configuration and layers, lowest layer first.

    Its digest is the image's identity.
    """

    config: Descriptor
    layers: tuple[Descriptor, ...]

    def require_image(self, what: str) -> Manifest:
        """Return self when this is a container image that can be run; raises Unsupported saying why not.

        ``what`` names the image in messages.
        """
        if self.config.media_type not in mediatypes.CONFIGS:
            kind = self.artifact_type or self.config.media_type
            raise Unsupported(
                f"{what} is an artifact of type {shown(kind, 120)}, not a container image",
                hint="signatures, charts and plugins can be stored beside images, but not run",
            )
        for number, layer in enumerate(self.layers):
            _require_layer(layer, f"{what}, layer {number}")
        return self


class Index(_Document, frozen=True, kw_only=True):
    """A list of manifests, one for each platform (OCI index, docker manifest list)."""

    manifests: tuple[Descriptor, ...]

    def select(self, wanted: Platform, what: str) -> Descriptor:
        """Return the entry for ``wanted``: possibly another index.  Raises NotFound naming the platforms
        there are.
        """
        return platform.select(self.manifests, wanted, what)

    def named(self, ref: str) -> tuple[Descriptor, ...]:
        """Return the entries that an image layout calls ``ref``."""
        return tuple(one for one in self.manifests if one.annotations.get(REF_NAME) == ref)


def parse_document(
    data: bytes, *, content_type: str | None = None, algorithm: str = "sha256", what: str = "manifest"
) -> Manifest | Index:
    """Return the manifest or index that ``data`` holds, its digest reckoned by ``algorithm``.

    ``content_type`` is what it was served or described as; where it and the document's own ``mediaType``
    both speak they must agree.  Raises Corrupt for malformed or ambiguous documents, Exhausted beyond
    limits, and Unsupported for docker schema 1.
    """
    fields = Fields(load(data, what), what, _DOCUMENT)
    _require_version(fields, content_type)
    media_type = _media_type_of(fields, content_type)
    digest = Digest.of(data, algorithm)
    if media_type in mediatypes.INDEXES:
        return _index(fields, media_type, digest, len(data))
    return _manifest(fields, media_type, digest, len(data))


def refuse_schema1(content_type: str | None, what: str) -> None:
    """Raise Unsupported when ``what`` was served as docker's schema 1.

    Source: distribution's "manifest-v2-1.md"; the digest is that of the bytes without their signatures.
    """
    if base_type(content_type) in mediatypes.SCHEMA1:
        raise Unsupported(
            f"{what} is in docker's schema 1, which names neither the sizes nor the diff IDs of its layers",
            hint="let policy allow it (allow-schema1), or convert it: "
            "skopeo copy docker://IMAGE oci:DIRECTORY:TAG, then pull oci:DIRECTORY:TAG",
        )


def parse_descriptor(value: Json, where: str) -> Descriptor:
    """Return one descriptor; raises Corrupt."""
    fields = Fields(value, where, _DESCRIPTOR)
    media_type = fields.text("mediaType")
    if media_type is None or not _MEDIA_TYPE.fullmatch(media_type):
        raise fields.fail("mediaType", "is missing or malformed")
    size = fields.integer("size")
    if size is None:
        raise fields.fail("size", "is missing")
    digest = fields.digest("digest")
    return Descriptor(
        media_type=media_type,
        digest=digest,
        size=size,
        urls=fields.texts("urls"),
        annotations=fields.table("annotations"),
        platform=_platform(fields),
        artifact_type=fields.text("artifactType"),
        data=_data(fields, digest, size),
    )


def descriptor_json(descriptor: Descriptor) -> dict[str, Json]:
    """Return the descriptor as the OCI image spec writes it."""
    result: dict[str, Json] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.urls:
        result["urls"] = list(descriptor.urls)
    if descriptor.annotations:
        result["annotations"] = dict(descriptor.annotations)
    if descriptor.artifact_type is not None:
        result["artifactType"] = descriptor.artifact_type
    if descriptor.data is not None:
        result["data"] = base64.b64encode(descriptor.data).decode("ascii")
    if descriptor.platform is not None:
        result["platform"] = _platform_json(descriptor.platform)
    return result


def index_document(entries: list[Json]) -> bytes:
    """Return the bytes of an OCI index that lists these descriptors, see `descriptor_json`."""
    return msgspec.json.encode({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": entries})


def _platform_json(value: Platform) -> dict[str, Json]:
    result: dict[str, Json] = {"architecture": value.architecture, "os": value.os}
    if value.variant:
        result["variant"] = value.variant
    if value.os_version:
        result["os.version"] = value.os_version
    return result


def _platform(fields: Fields) -> Platform | None:
    if not fields.has("platform"):
        return None
    inner = Fields(fields.raw("platform"), f"{fields.where}, platform", _PLATFORM)
    return Platform(
        inner.text("os") or "",
        inner.text("architecture") or "",
        inner.text("variant") or "",
        inner.text("os.version") or "",
    )


def _data(fields: Fields, digest: Digest, size: int) -> bytes | None:
    text = fields.text("data")
    if text is None:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise fields.fail("data", "is not base64") from None
    return verify(data, digest, size, what=f"{fields.where}, data:")


def _require_version(fields: Fields, content_type: str | None) -> None:
    version = fields.integer("schemaVersion")
    old = fields.has("fsLayers") or version == 1
    refuse_schema1(mediatypes.DOCKER_SCHEMA1 if old else content_type, fields.where)
    if version != 2:
        raise fields.fail("schemaVersion", "is not 2")


def _media_type_of(fields: Fields, content_type: str | None) -> str:
    """Return the one media type on which document, header and shape agree; raises Corrupt."""
    served, own = base_type(content_type), fields.text("mediaType")
    if own is not None and served and own != served:
        raise fields.fail("mediaType", f"is {shown(own, 100)}, but it was served as {shown(served, 100)}")
    lists, layers = fields.has("manifests"), fields.has("layers") or fields.has("config")
    if lists and layers:
        raise Corrupt(f"{fields.where} is ambiguous: it has both manifests and layers")
    guess = mediatypes.OCI_INDEX if lists else mediatypes.OCI_MANIFEST
    media_type = own or served or guess
    if media_type not in mediatypes.INDEXES | mediatypes.MANIFESTS:
        raise Unsupported(f"{fields.where} has the unknown media type {shown(media_type, 100)}")
    if not lists and not layers:
        raise Corrupt(f"{fields.where} has neither manifests nor layers")
    if (media_type in mediatypes.INDEXES) != lists:
        raise Corrupt(f"{fields.where} is ambiguous: its content is not that of a {media_type}")
    return media_type


def _manifest(fields: Fields, media_type: str, digest: Digest, size: int) -> Manifest:
    layers = _descriptors(fields, "layers", "layer", LAYER_LIMIT)
    if not fields.has("config"):
        raise fields.fail("config", "is missing")
    config = parse_descriptor(fields.raw("config"), f"{fields.where}, config")
    artifact_type = fields.text("artifactType")
    if artifact_type is None and config.media_type == mediatypes.OCI_EMPTY:
        raise fields.fail("artifactType", "is missing, which an empty configuration requires")
    return Manifest(
        media_type=media_type,
        digest=digest,
        size=size,
        config=config,
        layers=layers,
        annotations=fields.table("annotations"),
        subject=_subject(fields),
        artifact_type=artifact_type,
    )


def _index(fields: Fields, media_type: str, digest: Digest, size: int) -> Index:
    return Index(
        media_type=media_type,
        digest=digest,
        size=size,
        manifests=_descriptors(fields, "manifests", "manifest", INDEX_LIMIT),
        annotations=fields.table("annotations"),
        subject=_subject(fields),
        artifact_type=fields.text("artifactType"),
    )


def _descriptors(fields: Fields, key: str, noun: str, most: int) -> tuple[Descriptor, ...]:
    items = fields.items(key)
    if len(items) > most:
        raise Exhausted(f"{fields.where} has {len(items)} {noun}s, more than the {most} allowed")
    return tuple(parse_descriptor(item, f"{fields.where}, {noun} {n}") for n, item in enumerate(items))


def _subject(fields: Fields) -> Descriptor | None:
    if not fields.has("subject"):
        return None
    return parse_descriptor(fields.raw("subject"), f"{fields.where}, subject")


def _require_layer(layer: Descriptor, where: str) -> None:
    if layer.media_type in mediatypes.FOREIGN:
        raise Unsupported(
            f"{where} is foreign: to be fetched from elsewhere, which is not done",
            hint="have the image pushed with all its layers",
        )
    if layer.media_type.endswith("+encrypted"):
        raise Unsupported(f"{where} is encrypted", hint="decrypt the image first")
    if layer.compression is None and layer.media_type not in mediatypes.EROFS:
        raise Unsupported(f"{where} has the unknown media type {shown(layer.media_type, 100)}")
