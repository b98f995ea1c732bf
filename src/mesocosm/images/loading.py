"""Reading images in: every image of an archive of either family, under the names the archive gives them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from mesocosm.errors import InvalidConfig, Unsupported, about
from mesocosm.images import mediatypes
from mesocosm.images.archive import Archive
from mesocosm.images.attaching import attach, attach_entries
from mesocosm.images.digest import Digest
from mesocosm.images.documents import IMAGE_NAME, REF_NAME, Descriptor, Index, parse_document
from mesocosm.images.families import Families
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.naming import canonical
from mesocosm.images.platform import Platform, host_platform
from mesocosm.images.progress import Report
from mesocosm.images.reference import Reference, parse_docker_name
from mesocosm.images.spool import Source, arrived
from mesocosm.images.stores.base import Found
from mesocosm.images.strict import DOCUMENT_LIMIT
from mesocosm.images.supply import keep_blobs
from mesocosm.images.transfer import in_thread

_COSIGN = re.compile(r"sha[0-9]{3}-[a-f0-9]{64,128}\.(?:sig|att|sbom)", re.ASCII)


async def images_in(path: Path, families: Families, platform: Platform | None) -> AsyncIterator[Found]:
    """Yield every image of an archive, with its ``names``; ``platform`` None: of each platform.

    Raises what the archive's store raises.
    """
    archive: Archive = await in_thread(Archive.open, path)
    if "oci-layout" in archive:
        async for found in _of_layout(archive, families, platform):
            yield found
        return
    from mesocosm.images.stores.docker_archive import entries  # only for archives of docker's

    for number in range(len(await in_thread(entries, archive))):
        reference = canonical(f"docker-archive:{path}:@{number}")
        image = await families.store(reference).discover(reference, platform or host_platform())
        if isinstance(image, Found):
            yield image


async def load(
    store: ImageStore,
    families: Families,
    source: Source,
    platform: Platform | None,
    keep: Callable[[Found], Awaitable[ImageRecord]],
    report: Report,
) -> list[tuple[ImageRecord, list[str]]]:
    """Bring in every image of an archive by ``keep``, with what the archive has for it; see `images_in`.

    Answers each, and the names that it got.
    """
    origin = str(source) if isinstance(source, Path) else "a pipe"
    images, loaded = [], []
    async with arrived(store.blobs, source, plain=True) as path:
        async for found in images_in(path, families, platform):
            loaded.append(msgspec.structs.replace(found, source=origin))
            with about(found.names[0].familiar if found.names else str(found.manifest.digest)):
                images.append((await keep(loaded[-1]), [str(name) for name in found.names]))
                await keep_blobs(store, found, report)
        await _attach(store, families, path, loaded, report)
    return images


async def _attach(
    store: ImageStore, families: Families, path: Path, loaded: Sequence[Found], report: Report
) -> None:
    if "oci-layout" not in await in_thread(Archive.open, path):
        return
    reference = canonical(f"oci-archive:{path}")
    shelf = await families.store(reference).shelf(reference)
    if shelf is None:
        return
    for found in loaded:
        subject, top = found.manifest.digest, found.top.digest
        await attach(store, shelf, [subject, top], report)
        if top != subject:
            await attach_entries(store, shelf, top, [subject], report)


async def _of_layout(archive: Archive, families: Families, platform: Platform | None) -> AsyncIterator[Found]:
    data: bytes = await in_thread(archive.read, "index.json", DOCUMENT_LIMIT)
    what = f"{archive.path}, index.json"
    index = parse_document(data, content_type=mediatypes.OCI_INDEX, what=what)
    names: dict[Digest, list[Reference]] = {}
    entries = {entry.digest: entry for entry in index.manifests} if isinstance(index, Index) else {}
    for entry in index.manifests if isinstance(index, Index) else ():
        held = names.setdefault(entry.digest, [])
        name = _name(entry.annotations)
        if name is not None and name not in held:
            held.append(name)
    for digest, given in names.items():
        reference = canonical(f"oci-archive:{archive.path}@{digest}")
        store = families.store(reference)
        offered = [platform] if platform else await store.platforms(reference) or [host_platform()]
        for one in offered:
            try:
                found = await store.discover(reference, one)
            except Unsupported:
                if await in_thread(_is_attached, archive, entries[digest]):
                    continue
                raise
            if isinstance(found, Found):
                yield msgspec.structs.replace(found, names=tuple(given))


def _is_attached(archive: Archive, entry: Descriptor) -> bool:
    """Whether an entry, which is no image, is there for another one's sake; blocking."""
    if _COSIGN.fullmatch(entry.annotations.get(REF_NAME, "")):
        return True
    digest = entry.digest
    data = archive.read(f"blobs/{digest.algorithm}/{digest.hex}", DOCUMENT_LIMIT)
    return parse_document(data, content_type=entry.media_type).subject is not None


def _name(annotations: dict[str, str]) -> Reference | None:
    """The registry name that an archive gives an image, when it is one."""
    text = annotations.get(IMAGE_NAME) or annotations.get(REF_NAME) or ""
    try:
        name = parse_docker_name(text)
    except InvalidConfig:
        return None
    return name if name.tag and ("/" in text or IMAGE_NAME in annotations) else None
