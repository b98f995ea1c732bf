"""Image records that could not be read, made anew from what they were made of.

A record's file is named by the manifest's digest, and manifest, configuration and layers are still there, so
all but where it came from and when can be told again.  Names cannot: they only stood in their own files.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from mesocosm.errors import MesocosmError
from mesocosm.images import mediatypes
from mesocosm.images.config import match_layers, parse_config
from mesocosm.images.digest import HEX_LENGTH, Digest
from mesocosm.images.documents import Index, Manifest, parse_document
from mesocosm.images.image import ImageRecord, record_of
from mesocosm.images.image_store import ImageStore
from mesocosm.images.layers.store import Form
from mesocosm.images.outlines import made_of
from mesocosm.images.strict import DOCUMENT_LIMIT

_ALGORITHM = {length: name for name, length in HEX_LENGTH.items()}


def rebuild(store: ImageStore) -> list[str]:
    """Make the damaged records of a store anew, and return their digests; blocking.

    One of an image that is not whole stays set aside: the next pull brings both.
    """
    made = []
    for path in (store.root / "images").glob("*.damaged"):
        with contextlib.suppress(MesocosmError, OSError, KeyError):
            image = _remade(store, path)
            if image is None:
                continue
            if store.catalogue.image(image.digest) is None:
                store.catalogue.add(image)
                made.append(image.digest)
            path.unlink(missing_ok=True)
    return made


def _remade(store: ImageStore, path: Path) -> ImageRecord | None:
    digest = Digest(_ALGORITHM[len(path.stem)], path.stem)
    data = store.blobs.read(digest, limit=DOCUMENT_LIMIT)
    manifest = parse_document(data, algorithm=digest.algorithm)
    if not isinstance(manifest, Manifest):
        return None
    data = store.blobs.read(manifest.config.digest, limit=DOCUMENT_LIMIT)
    config = parse_config(data, algorithm=manifest.config.digest.algorithm)
    match_layers(manifest, config, str(digest))
    image = record_of(manifest, config, "", path.lstat().st_mtime)
    image = msgspec.structs.replace(image, origin=_origin(store, image))
    for form in Form:
        if all(store.layers.has(diff_id, form) for diff_id in image.diff_ids):
            return store.settle_looks(image, form)
    return None


def _origin(store: ImageStore, image: ImageRecord) -> str | None:
    """The digest of the manifest of schema 1 that it was made of: the names it was pulled by know that."""
    tops = {ref.top for ref in store.catalogue.refs() if ref.digest == image.digest and ref.top}
    listed = [digest for top in sorted(tops - {image.digest}) for digest in _old_entries(store, top)]
    for digest in [*sorted(tops - {image.digest}), *listed]:
        with contextlib.suppress(MesocosmError):
            data = store.blobs.read(Digest.parse(digest), limit=DOCUMENT_LIMIT)
            if str(made_of(data, image)) == image.digest:
                return digest
    return None


def _old_entries(store: ImageStore, top: str) -> list[str]:
    """What an index lists that is in schema 1."""
    digest = Digest.parse(top)
    with contextlib.suppress(MesocosmError):
        found = parse_document(store.blobs.read(digest, limit=DOCUMENT_LIMIT), algorithm=digest.algorithm)
        if isinstance(found, Index):
            return [str(one.digest) for one in found.manifests if one.media_type in mediatypes.SCHEMA1]
    return []
