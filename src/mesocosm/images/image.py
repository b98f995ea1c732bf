"""Images as the host knows them: what callers are shown, and what is recorded of each.

An image is its manifest's digest; its layers are diff IDs.  Names point at digests and say when that was last
checked.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mesocosm.images import mediatypes
from mesocosm.images.config import ImageConfig
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Manifest
from mesocosm.model import ImageIdentity, ImageRuntime

VERSION = 1

DEEP: Final = 32
"""More layers than this are mounted as one, where layers are EROFS files.  Each look-up of a name that is not
there asks every layer of an overlay.
"""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer: ``diff_id`` of its tar, ``digest``, ``size`` (bytes) and ``media_type`` as published."""

    diff_id: str
    digest: str
    size: int
    media_type: str


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a host records of one image, in ``images/<manifest digest>.json``.

    ``runtime`` is what the image says of its process, ``layers`` bottom first, ``source`` where it came from,
    ``pulled_at`` seconds since the epoch, ``created`` the author's own date (RFC 3339, hostile), ``looks``
    whether its directories need a layer that says how they look (layers/looks.py), ``hidden`` how many of
    its lowest layers nobody sees, because the next one hides all that is below it.  ``origin``: the manifest
    was made here, of the document with this digest, by which the source knows the image (docker's schema 1).
    """

    digest: str
    media_type: str
    manifest_size: int
    image_id: str
    config_size: int
    platform: str
    created: str
    runtime: ImageRuntime
    layers: tuple[Layer, ...]
    source: str
    pulled_at: float
    looks: bool = False
    hidden: int = 0
    origin: str | None = None
    version: int = VERSION

    @property
    def chain_id(self) -> Digest:
        """The digest of the whole stack (OCI image spec, config.md "Layer ChainID")."""
        chain = ""
        for layer in self.layers:
            chain = str(Digest.of(f"{chain} {layer.diff_id}".encode())) if chain else layer.diff_id
        return Digest.parse(chain) if chain else Digest.of(b"")

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The layers' diff IDs, bottom first."""
        return tuple(Digest.parse(layer.diff_id) for layer in self.layers)

    @property
    def merge(self) -> Digest | None:
        """What the merge of its layers is called, on kernels that can mount one (layers/merging.py).

        None for an image that needs none, and for one with ready-made EROFS files, which we do not read.
        """
        if len(self.layers) <= DEEP or any(layer.media_type in mediatypes.EROFS for layer in self.layers):
            return None
        return self.chain_id

    @property
    def stored(self) -> tuple[Digest, ...]:
        """All that is the image's in the layer store: its layers, and their merge."""
        return self.diff_ids if self.merge is None else (*self.diff_ids, self.merge)

    @property
    def documents(self) -> tuple[Digest, ...]:
        """The manifest's and the configuration's digests: the blobs without which nothing is known."""
        return Digest.parse(self.digest), Digest.parse(self.image_id)

    @property
    def published(self) -> str:
        """The digest by which its source knows the image."""
        return self.origin or self.digest

    @property
    def kept(self) -> tuple[Digest, ...]:
        """All documents that stay with the image: its own, and the one they were made of."""
        return self.documents if self.origin is None else (*self.documents, Digest.parse(self.origin))

    def identity(self, reference: str, checked_at: float | None) -> ImageIdentity:
        """Which bytes run, for the container's record."""
        return ImageIdentity(
            reference=reference,
            digest=self.digest,
            image_id=self.image_id,
            platform=self.platform,
            checked_at=checked_at,
            layers=tuple(layer.diff_id for layer in self.layers),
        )


class RefRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Where a name points, in ``refs/``: set by an explicit pull, tag or load and by nothing else (G-12).

    ``platform`` is empty unless the name was pulled for another platform than the host's; ``etag`` what the
    source gave to ask again by; ``checked_at`` seconds since the epoch; ``top`` the digest of the document
    the name stood for at the source (an index, or the manifest itself); None when the name is local only.
    ``index`` is the digest of the index that a local name stands for on several platforms.
    """

    reference: str
    digest: str
    platform: str = ""
    etag: str | None = None
    checked_at: float | None = None
    top: str | None = None
    index: str | None = None
    version: int = VERSION


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is there.

    ``references`` all names of it, ``size`` bytes on disk of its layers (shared ones included), ``created``
    the author's date as text, ``last_used``, ``checked_at`` and ``pulled_at`` in seconds since the epoch,
    ``in_use`` the containers that hold it, ``pinned`` whether collection must leave it, ``complete`` whether
    every layer is there in the form that this host mounts, ``merge`` the name of the one layer that a deep
    stack is mounted as, ``origin`` the digest of the document that the manifest was made of here.
    """

    references: tuple[str, ...]
    digest: str
    image_id: str
    platform: str
    size: int
    created: str
    pulled_at: float
    last_used: float
    checked_at: float | None
    layers: tuple[Layer, ...]
    runtime: ImageRuntime
    source: str
    in_use: tuple[str, ...] = ()
    pinned: bool = False
    complete: bool = True
    merge: str | None = None
    origin: str | None = None

    @property
    def published(self) -> str:
        """The digest by which its source knows the image."""
        return self.origin or self.digest

    @property
    def stored(self) -> tuple[str, ...]:
        """All that is the image's in the layer store: its layers, and their merge."""
        return (*(layer.diff_id for layer in self.layers), *([self.merge] if self.merge else []))


def record_of(
    manifest: Manifest, config: ImageConfig, source: str, now: float, origin: Digest | None = None
) -> ImageRecord:
    """Return the record of an image whose documents have been verified and matched."""
    layers = tuple(
        Layer(diff_id=str(diff_id), digest=str(one.digest), size=one.size, media_type=one.media_type)
        for diff_id, one in zip(config.diff_ids, manifest.layers, strict=True)
    )
    return ImageRecord(
        digest=str(manifest.digest),
        media_type=manifest.media_type,
        manifest_size=manifest.size,
        image_id=str(config.digest),
        config_size=manifest.config.size,
        platform=str(config.meant_for),
        created=config.created,
        runtime=runtime_of(config),
        layers=layers,
        source=source,
        pulled_at=now,
        origin=None if origin is None else str(origin),
    )


def runtime_of(config: ImageConfig) -> ImageRuntime:
    """Return what the configuration says of the process to run (parity §4.5)."""
    return ImageRuntime(
        entrypoint=config.entrypoint or (),
        command=config.cmd or (),
        env=config.env,
        workdir=config.working_dir,
        user=config.user,
        groups=config.groups,
        stop_signal="" if config.stop_signal is None else str(config.stop_signal),
        volumes=config.volumes,
        fixed_volumes=config.fixed_volumes,
        exposed_ports=config.exposed_ports,
        labels=config.labels,
    )
