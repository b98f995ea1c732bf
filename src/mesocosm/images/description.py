"""Everything known of one image, in the shape that docker's ``inspect`` has taught people, and more."""

from __future__ import annotations

from typing import Any

import msgspec

from mesocosm.images.image import Image, Layer
from mesocosm.images.platform import recorded
from mesocosm.images.reference import parse_reference


class Description(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One image.  Members are written in docker's way (``RepoTags``); times in seconds since the epoch.

    ``config`` is the image configuration's ``config`` as published, ``manifest`` the manifest; both hostile.
    ``origin`` is the digest of the document that the manifest was made of here (docker's schema 1), None for
    all others; ``repo_digests`` are what registries know.
    """

    id: str
    digest: str
    origin: str | None
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    created: str
    architecture: str
    os: str
    variant: str
    platform: str
    size: int
    config: Any
    history: Any
    root_fs: Any = msgspec.field(name="RootFS")
    layers: tuple[Layer, ...]
    manifest: Any
    source: str
    pulled_at: float
    checked_at: float | None
    last_used: float
    containers: tuple[str, ...]
    pinned: bool
    complete: bool


def describe(image: Image, manifest: bytes, config: bytes) -> Description:
    """Return the description of an image and its two documents."""
    document = msgspec.json.decode(config)
    platform = recorded(image.platform)
    names = [parse_reference(name) for name in image.references]
    registry = [name for name in names if name.transport == "docker"]
    return Description(
        id=image.image_id,
        digest=image.digest,
        origin=image.origin,
        repo_tags=tuple(name.familiar for name in names if name.digest is None),
        repo_digests=tuple(sorted({f"{name.name}@{image.published}" for name in registry})),
        created=image.created,
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        platform=image.platform,
        size=image.size,
        config=document.get("config") or {},
        history=document.get("history") or [],
        root_fs={"Type": "layers", "Layers": [layer.diff_id for layer in image.layers]},
        layers=image.layers,
        manifest=msgspec.json.decode(manifest),
        source=image.source,
        pulled_at=image.pulled_at,
        checked_at=image.checked_at,
        last_used=image.last_used,
        containers=image.in_use,
        pinned=image.pinned,
        complete=image.complete,
    )
