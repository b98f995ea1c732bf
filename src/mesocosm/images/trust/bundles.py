"""Sigstore bundles in a registry: artifacts that refer to the image they speak of (cosign's BUNDLE_SPEC.md).

One artifact is a manifest with one layer, the bundle: a signed statement with its certificate and the log's
proof of it.  What a bundle proves is in keyless.py; here it is found and brought, at most `COUNT_LIMIT` of
`SIZE_LIMIT` bytes each.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted, NotFound, Unsupported
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Manifest, parse_document
from mesocosm.images.foreign import shown

if TYPE_CHECKING:
    from mesocosm.images.registry.client import RegistryClient

TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE: Final = "dev.sigstore.bundle.predicateType"
"""The annotation that says what a bundle's statement is about: a hint, proved by nothing."""

SIZE_LIMIT: Final = 256 << 10
"""The largest bundle, in bytes."""

COUNT_LIMIT: Final = 32
"""Bundles of one document that are looked at."""


class Attached(msgspec.Struct, frozen=True):
    """A bundle, or in its place why it is not looked at."""

    bundle: bytes = b""
    flaw: str = ""


async def attached(
    client: RegistryClient, repository: str, digest: Digest, predicates: Collection[str]
) -> tuple[Attached, ...]:
    """Return the bundles that refer to a document, but for those that say to be about something else than
    ``predicates``; raises Denied, Unavailable as `RegistryClient.referrers` does.
    """
    listed = await client.referrers(repository, digest, artifact_type=TYPE)
    wanted = [one for one in listed if one.annotations.get(PREDICATE) in (None, *predicates)]
    found = [await _read(client, repository, one) for one in wanted[:COUNT_LIMIT]]
    if len(wanted) > COUNT_LIMIT:
        found.insert(0, Attached(flaw=f"only {COUNT_LIMIT} of its {len(wanted)} bundles were looked at"))
    return tuple(found)


async def _read(client: RegistryClient, repository: str, artifact: Descriptor) -> Attached:
    what = f"bundle {artifact.digest}"
    try:
        reply = await client.manifest(repository, str(artifact.digest))
        manifest = parse_document(reply.data, content_type=reply.media_type, what=what) if reply else None
        if not isinstance(manifest, Manifest) or [one.media_type for one in manifest.layers] != [TYPE]:
            return Attached(flaw=f"{what} is not one layer of the type {TYPE}")
        (layer,) = manifest.layers
        if not 0 < layer.size <= SIZE_LIMIT:
            return Attached(flaw=f"{what} has {layer.size} bytes, not 1 to {SIZE_LIMIT}")
        return Attached(await client.read_blob(repository, layer, most=SIZE_LIMIT))
    except (NotFound, Corrupt, Exhausted, Unsupported) as error:
        return Attached(flaw=shown(error.message, 160))
