"""Reading images in: every image of an archive of either family, under the names the archive gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import InvalidConfig
from mesocosm.images import mediatypes
from mesocosm.images.archive import Archive
from mesocosm.images.digest import Digest
from mesocosm.images.documents import REF_NAME, Index, parse_document
from mesocosm.images.families import Families
from mesocosm.images.naming import canonical
from mesocosm.images.platform import Platform, host_platform
from mesocosm.images.reference import Reference, parse_docker_name
from mesocosm.images.stores.base import Found
from mesocosm.images.strict import DOCUMENT_LIMIT
from mesocosm.images.transfer import in_thread

_NAME: Final = "io.containerd.image.name"


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


async def _of_layout(archive: Archive, families: Families, platform: Platform | None) -> AsyncIterator[Found]:
    data: bytes = await in_thread(archive.read, "index.json", DOCUMENT_LIMIT)
    what = f"{archive.path}, index.json"
    index = parse_document(data, content_type=mediatypes.OCI_INDEX, what=what)
    names: dict[Digest, list[Reference]] = {}
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
            found = await store.discover(reference, one)
            if isinstance(found, Found):
                yield msgspec.structs.replace(found, names=tuple(given))


def _name(annotations: dict[str, str]) -> Reference | None:
    """The registry name that an archive gives an image, when it is one."""
    text = annotations.get(_NAME) or annotations.get(REF_NAME) or ""
    try:
        name = parse_docker_name(text)
    except InvalidConfig:
        return None
    return name if name.tag and ("/" in text or _NAME in annotations) else None
