"""Pushing an image to a registry: what it has already is not sent again, and the manifest goes last."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from mesocosm.errors import Denied, InvalidConfig, NotFound, Unavailable, Unsupported
from mesocosm.images.archive import Span, chunks
from mesocosm.images.attachments import Attached
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.families import Families
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.known import found_here
from mesocosm.images.platforms import Listed
from mesocosm.images.progress import Report
from mesocosm.images.reference import Reference, parse_reference
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.push import UploadSource
from mesocosm.images.remote import registry_client
from mesocosm.images.side_by_side import side_by_side
from mesocosm.images.stores.base import Document
from mesocosm.images.transfer import in_thread

PARALLEL: Final = 3
"""Blobs sent at a time."""


async def push(
    store: ImageStore, families: Families, listed: Listed, target: Reference, report: Report
) -> Digest:
    """Have the images in the registry under ``target``, and return the digest that it stands for there.

    Several images go by their digests, their attestations too, and then the index that lists them under the
    name; last what refers to them.  A blob that another repository of this registry has by what is known here
    is mounted from there.  Raises InvalidConfig for a target that is no registry name, NotFound when blobs
    are not kept here.
    """
    client = await registry_client(families, target)
    if target.tag is None:
        name = target.familiar
        raise InvalidConfig(f"{name} is no name to push by", hint="names are written HOST/NAME:TAG")
    try:
        await _send_all(store, client, listed, target, target.tag, report)
    finally:
        client.tell_warnings(report)
    return listed.top.digest


async def _send_all(
    store: ImageStore, client: RegistryClient, listed: Listed, target: Reference, tag: str, report: Report
) -> None:
    homes = await in_thread(_homes, store, target)
    for image in listed.images:
        manifest = await _send_image(store, client, target, image, homes, report)
        name = str(manifest.descriptor.digest) if listed.index else tag
        await client.push_manifest(target.repository, name, manifest.data, manifest.descriptor.media_type)
    for one in listed.attestations:
        await _send_attached(store, client, target, one, homes, report)
    if listed.index is not None:
        kind = listed.index.descriptor.media_type
        await client.push_manifest(target.repository, tag, listed.index.data, kind)
    for one in listed.attached:
        await _send_attached(store, client, target, one, homes, report)


async def _send_attached(
    store: ImageStore,
    client: RegistryClient,
    target: Reference,
    attached: Attached,
    homes: dict[str, str],
    report: Report,
) -> None:
    """Have a manifest there that is attached to an image, by its digest, or by its tag where it has one."""
    blobs = list({one.digest: one for one in attached.blobs}.values())
    await _send(store, client, target, blobs, homes, report)
    one = attached.descriptor
    data: bytes = await in_thread(lambda: store.blobs.read(one.digest, limit=one.size))
    await client.push_manifest(target.repository, attached.tag or str(one.digest), data, one.media_type)


async def _send_image(
    store: ImageStore,
    client: RegistryClient,
    target: Reference,
    image: ImageRecord,
    homes: dict[str, str],
    report: Report,
) -> Document:
    """Have an image's blobs there, and return its manifest."""
    found = await in_thread(found_here, store, image)
    wanted = {one.digest: one for one in (*found.manifest.layers, found.manifest.config)}
    for descriptor in wanted.values():
        if not store.blobs.has(descriptor.digest, descriptor.size):
            raise NotFound(f"blob {descriptor.digest} is not kept on this host", hint="pull the image again")
    await _send(store, client, target, list(wanted.values()), homes, report)
    return next(one for one in found.documents if one.descriptor.digest == found.manifest.digest)


async def _send(
    store: ImageStore,
    client: RegistryClient,
    target: Reference,
    wanted: list[Descriptor],
    homes: dict[str, str],
    report: Report,
) -> None:
    """Have all blobs there, some at a time; the first failure ends the others and is raised."""

    async def send(descriptor: Descriptor, home: str | None) -> None:
        source = _source(store, descriptor)
        await client.push_blob(target.repository, descriptor, source, mount_from=home, report=report)

    async def have(descriptor: Descriptor) -> None:
        home = homes.get(str(descriptor.digest))
        if home is not None:
            # Whoever may push here need not be able to read there, and not all registries mount.
            with contextlib.suppress(Denied, NotFound, Unsupported):
                await send(descriptor, home)
                return
        await send(descriptor, None)

    await side_by_side(have, wanted, most=PARALLEL)


def _homes(store: ImageStore, target: Reference) -> dict[str, str]:
    """Blobs to another repository on the target's registry that has them by the names known here."""
    homes: dict[str, str] = {}
    images = {image.digest: image for image in store.catalogue.images()}
    for ref in sorted(store.catalogue.refs(), key=lambda ref: ref.top is None):
        reference = parse_reference(ref.reference)
        image = images.get(ref.digest)
        if image is None or reference.transport != "docker":
            continue
        if reference.registry == target.registry and reference.repository != target.repository:
            for digest in (image.image_id, *(layer.digest for layer in image.layers)):
                homes.setdefault(digest, reference.repository)
    return homes


def _source(store: ImageStore, descriptor: Descriptor) -> UploadSource:
    async def read(offset: int, count: int) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks(store.blobs.path(descriptor.digest), Span(offset, count)):
                yield chunk
        except OSError as error:
            raise Unavailable(
                f"blob {descriptor.digest} cannot be read: {error.strerror}",
                hint="check the disk; mesocosm image verify tells what it did to images",
            ) from error

    return read
