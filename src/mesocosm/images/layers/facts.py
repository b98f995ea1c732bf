"""What is known of a layer once it is ingested."""

from __future__ import annotations

from typing import Protocol

import msgspec

from mesocosm.images.decompress import Compression
from mesocosm.images.digest import Digest, Hash


class StreamHash(Protocol):
    """A running SHA-256 object of hashlib."""

    def copy(self) -> Hash: ...
    def hexdigest(self) -> str: ...


class ErofsFacts(msgspec.Struct, frozen=True):
    """What became of one layer as an EROFS file: its ``size`` in bytes, its ``seal`` (see
    `erofs.file.seal_of`), its inodes, how many directories were made without being described, and the paths
    of those below the root (None: too many, or no UTF-8).  ``opaque``: its root hides all lower layers.
    """

    size: int
    seal: str
    inodes: int
    implied: int
    implied_at: tuple[str, ...] | None
    opaque: bool


class TreeFacts(msgspec.Struct, frozen=True):
    """What became of one layer as a directory: bytes of file data written, its ``seal`` (see
    `tree_seal.seal_of_tree`; none where it was put upon other layers), and directories made without being
    described; their paths, and whether the root hides lower layers, nobody notes.
    """

    size: int
    seal: str
    implied: int
    implied_at: None = None
    opaque: None = None


class LayerFacts(msgspec.Struct, frozen=True):
    """What an ingested layer is.

    ``diff_id`` is the digest of its tar stream of ``tar_size`` bytes, ``blob_digest`` and ``blob_size``
    those of the stream as it came, compressed by ``compression``.  ``entries`` counts the archive's members.
    ``made`` tells what the sink made of them.
    """

    diff_id: Digest
    tar_size: int
    blob_digest: Digest
    blob_size: int
    compression: Compression
    entries: int
    made: ErofsFacts | TreeFacts
