"""Manifests and configurations for images that come without: always the same bytes for the same content."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, descriptor_json
from mesocosm.images.platform import Platform
from mesocosm.images.strict import Json

_SUFFIX = {"gzip": "+gzip", "zstd": "+zstd"}


class Measured(NamedTuple):
    """A layer that was measured: its descriptor, always the same for the same bytes, and its diff ID."""

    descriptor: Descriptor
    diff_id: Digest


def layer_descriptor(compression: str, digest: Digest, size: int) -> Descriptor:
    """Return a layer's descriptor.  What OCI has no name for counts as plain: the unpacker looks."""
    return Descriptor(mediatypes.OCI_LAYER + _SUFFIX.get(compression, ""), digest, size)


def moment(seconds: float) -> str:
    """Return a time since the epoch as documents have it (RFC 3339), to the second."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def config_bytes(
    platform: Platform,
    diff_ids: Sequence[Digest],
    runtime: Mapping[str, Json],
    *,
    created: str = "",
    author: str = "",
    history: Sequence[Mapping[str, Json]] = (),
) -> bytes:
    """Return an OCI image configuration; ``runtime`` is its ``config`` member, ``created`` a date (RFC 3339)
    or empty.
    """
    document: dict[str, Json] = {}
    if created:
        document["created"] = created
    if author:
        document["author"] = author
    document |= {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    document["config"] = dict(runtime)
    document["rootfs"] = {"type": "layers", "diff_ids": [str(diff_id) for diff_id in diff_ids]}
    if history:
        document["history"] = [dict(step) for step in history]
    return msgspec.json.encode(document)


def manifest_bytes(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """Return an OCI manifest."""
    document: dict[str, Json] = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": descriptor_json(config),
        "layers": [descriptor_json(layer) for layer in layers],
    }
    return msgspec.json.encode(document)


def manifest_document(config: bytes, layers: Sequence[Descriptor]) -> tuple[Descriptor, dict[Digest, bytes]]:
    """Return the manifest's descriptor, and the bytes of manifest and configuration by digest."""
    config_descriptor = Descriptor(mediatypes.OCI_CONFIG, Digest.of(config), len(config))
    manifest = manifest_bytes(config_descriptor, layers)
    top = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(manifest), len(manifest))
    return top, {top.digest: manifest, config_descriptor.digest: config}
