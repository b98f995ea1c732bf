"""Writing images out: one tar file that is an OCI image layout and what ``docker load`` reads, both at once.

The same images give the same bytes: names in order, no times, no owners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.attachments import Kind
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import IMAGE_NAME, REF_NAME, descriptor_json, index_document
from mesocosm.images.image import ImageRecord
from mesocosm.images.platform import host_platform
from mesocosm.images.platforms import Listed
from mesocosm.images.reference import Reference
from mesocosm.images.strict import Json
from mesocosm.images.tar.reader import BLOCK

_PIECE: Final = 1 << 20


class Export(msgspec.Struct, frozen=True):
    """An image to be written, or the same for several platforms, and the registry names it is to have."""

    listed: Listed
    names: tuple[Reference, ...]

    @property
    def image(self) -> ImageRecord:
        """The one image; InvalidConfig when there are several."""
        if len(self.listed.images) > 1:
            raise InvalidConfig(
                "a docker-archive knows no platforms", hint="use oci-archive, or one --platform"
            )
        return self.listed.images[0]


Put = Callable[[bytes | memoryview], None]
"""Takes the bytes of an archive."""


def save(blobs: BlobStore, exports: Sequence[Export], put: Put) -> None:
    """Write the images; blocking.  NotFound when a blob is not kept here."""
    for blob in _blobs(exports):
        if not blobs.has(blob):
            raise NotFound(f"blob {blob} is not kept on this host", hint="pull the image again")
    member(put, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    for blob in _blobs(exports):
        _copy(blobs, blob, put)
    indexes = {one.listed.index.descriptor.digest: one.listed.index for one in exports if one.listed.index}
    for digest, index in sorted(indexes.items()):
        member(put, _path(digest), index.data)
    member(put, "index.json", index_document(_entries(exports)))
    docker: list[Json] = [entry for export in exports for entry in _docker(export)]
    member(put, "manifest.json", msgspec.json.encode(docker))
    put(bytes(2 * BLOCK))


def _blobs(exports: Sequence[Export]) -> list[Digest]:
    images = [image for export in exports for image in export.listed.images]
    digests = {digest for image in images for digest in image.documents}
    digests |= {Digest.parse(layer.digest) for image in images for layer in image.layers}
    for one in (one.listed for one in exports):
        digests |= {digest for part in (*one.attestations, *one.attached) for digest in part.digests}
    return sorted(digests)


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _entries(exports: Sequence[Export]) -> list[Json]:
    entries: list[Json] = []
    for export in exports:
        entry = descriptor_json(export.listed.top)
        for name in export.names:
            annotations: dict[str, Json] = {REF_NAME: name.tag or "latest", IMAGE_NAME: name.full_name}
            entries.append({**entry, "annotations": annotations})
        if not export.names:
            entries.append(entry)
    return entries + _attached(exports)


def _attached(exports: Sequence[Export]) -> list[Json]:
    """What refers to the images, as the layout lists it: each once, cosign's under their tags."""
    entries: dict[Digest, Json] = {}
    for one in (one for export in exports for one in export.listed.attached):
        if one.kind is not Kind.CHILD:
            descriptor = one.descriptor
            if one.tag:
                named = {**descriptor.annotations, REF_NAME: one.tag}
                descriptor = msgspec.structs.replace(descriptor, annotations=named)
            entries.setdefault(descriptor.digest, descriptor_json(descriptor))
    return list(entries.values())


def _docker(export: Export) -> Iterator[dict[str, Json]]:
    """Docker's form knows no platforms: names are for the host's image, or the first where there is none."""
    host = str(host_platform())
    images = sorted(export.listed.images, key=lambda image: image.platform != host)
    for number, image in enumerate(images):
        layers: list[Json] = [_path(Digest.parse(layer.digest)) for layer in image.layers]
        names: list[Json] = [name.full_name for name in export.names] if number == 0 else []
        yield {"Config": _path(Digest.parse(image.image_id)), "RepoTags": names, "Layers": layers}


def _copy(blobs: BlobStore, digest: Digest, put: Put) -> None:
    """A blob as a member; verified while it is read."""
    size = blobs.size(digest) or 0
    put(header(_path(digest), size))
    for piece in blobs.chunks(digest, size):
        put(piece)
    put(bytes(-size % BLOCK))


def member(put: Put, name: str, data: bytes) -> None:
    """Write a regular file of the archive."""
    put(header(name, len(data)) + data + bytes(-len(data) % BLOCK))


def header(name: str, size: int) -> bytes:
    """Return a ustar header for a regular file, 0644, root's, at the epoch (POSIX.1-2017, pax(1))."""
    block = bytearray(BLOCK)
    block[0 : len(name)] = name.encode("ascii")
    block[100:108] = b"0000644\0"
    block[108:124] = b"0000000\0" * 2
    block[124:136] = _number(size)
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _number(size: int) -> bytes:
    """Octal, or GNU's base 256 from 8 GiB on."""
    return b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")


def names_for(references: Iterable[Reference]) -> tuple[Reference, ...]:
    """Return those references that are names in a registry."""
    return tuple(one for one in references if one.transport == "docker" and one.tag and one.digest is None)
