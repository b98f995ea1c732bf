"""An image made of a tarball: one layer, and what its maker says of the process (docker's ``import``)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from mesocosm.images import mediatypes
from mesocosm.images.archive import Span, chunks
from mesocosm.images.config import parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Manifest
from mesocosm.images.measuring import measure
from mesocosm.images.platform import Platform
from mesocosm.images.stores.base import Document, Found, fetching
from mesocosm.images.strict import Json
from mesocosm.images.synthesis import config_bytes, manifest_document, moment


def image_of(path: Path, platform: Platform, runtime: Mapping[str, Json], message: str, now: float) -> Found:
    """Return the image whose only layer is the tar file at ``path``, compressed or not; blocking.

    ``now``, seconds since the epoch, is the image's date.  Raises Corrupt, InvalidConfig.
    """
    layer, diff_id = measure(path)
    when = moment(now)
    step: dict[str, Json] = {"created": when, "comment": message or "imported from a tarball"}
    config = config_bytes(platform, [diff_id], runtime, created=when, history=[step])
    top, documents = manifest_document(config, [layer])
    descriptor = Descriptor(mediatypes.OCI_CONFIG, Digest.of(config), len(config))
    manifest = Manifest(
        media_type=top.media_type, digest=top.digest, size=top.size, config=descriptor, layers=(layer,)
    )

    async def opened(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
        async for chunk in chunks(path, Span(0, descriptor.size), offset):
            yield chunk

    return Found(
        manifest=manifest,
        config=parse_config(config, what="the image to be made"),
        documents=(Document(top, documents[top.digest]), Document(descriptor, config)),
        source="imported",
        fetch=fetching(opened, resume=False),
    )
