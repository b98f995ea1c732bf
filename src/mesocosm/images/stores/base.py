"""The store contract.

A store knows one family of images and nothing of the others, of layers on disk, or of backends.  Three
scenarios show the whole contract.

*An image is pulled.*  ``discover`` answers what a reference stands for just now: a manifest, the image's
configuration, the bytes of every document that led there, and ``fetch``, which opens any layer's bytes from
an offset on.  Nothing is written.  What comes back has been parsed strictly and belongs together (`resolve`);
the bytes that ``fetch`` brings need no trust: whoever takes them checks size, digest and diff ID while they
stream.  Asked with the ``etag`` of an earlier answer, ``discover`` may answer None: nothing has changed.

*Its source says too little.*  Docker's schema 1 names layers by their blobs alone.  ``discover`` answers an
`Outline` then: nothing is fetched before policy was asked, and the puller measures what comes.

*A directory is shown.*  Some families have no layers: a directory, the host.  Their store answers ``root``:
which directory it is, for backends to show, or how the container's root is assembled; nothing is fetched.

Stores of others come as entry points of the group ``mesocosm.stores``, named as their references begin
(``FAMILY://NAME``): a class with this contract, made with one `StoreContext` (docs/stores.md).  Errors:
NotFound, Denied, Unavailable, Corrupt, Unsupported, Exhausted.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from mesocosm.errors import Unsupported
from mesocosm.images import transfer
from mesocosm.images.blobs import BlobStore
from mesocosm.images.config import ImageConfig
from mesocosm.images.documents import Descriptor, Manifest
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.transfer import SinkFactory
from mesocosm.paths import Paths
from mesocosm.plan import RootStep

if TYPE_CHECKING:
    from mesocosm.images.digest import Digest
    from mesocosm.images.registry.client import CredentialSource
    from mesocosm.images.registry.hosts import HostsConfig
    from mesocosm.images.registry.throttle import Throttle
    from mesocosm.images.synthesis import Measured
    from mesocosm.images.trust.bundles import Attached
    from mesocosm.images.trust.signatures import Signature
    from mesocosm.images.trust.signed_part import Part

Open = Callable[[Descriptor, int], AsyncIterator[bytes]]
"""Opens a blob's bytes from an offset on; retries by itself, ends when the blob does."""


class Fetch(Protocol):
    """Has a blob in ``blobs`` and its bytes run through one sink, with the promises of `transfer.fetch`."""

    async def __call__(
        self, blobs: BlobStore, descriptor: Descriptor, *, sink: SinkFactory, report: Report, keep: bool
    ) -> None: ...


def fetching(opened: Open, *, resume: bool = True) -> Fetch:
    """Make a `Fetch` of something that opens blobs; without ``resume`` a failure leaves nothing of a blob."""

    async def run(
        blobs: BlobStore, descriptor: Descriptor, *, sink: SinkFactory, report: Report, keep: bool
    ) -> None:
        source = functools.partial(opened, descriptor)
        await transfer.fetch(blobs, descriptor, source, sink=sink, report=report, keep=keep, resume=resume)

    return run


class Shelf(Protocol):
    """Where what is attached to images lies beside them: a repository, a layout."""

    async def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        """Return the manifests that name ``subject`` as theirs."""

    async def tagged(self, tag: str) -> Descriptor | None:
        """Return the manifest with a tag; None when there is none."""

    async def read(self, descriptor: Descriptor) -> bytes:
        """Return a manifest's bytes, which need no trust.  Raises NotFound."""

    @property
    def fetch(self) -> Fetch:
        """Brings a blob in."""


class Document(msgspec.Struct, frozen=True):
    """The exact bytes of a manifest, index or configuration, with its descriptor."""

    descriptor: Descriptor
    data: bytes


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference stands for now.

    ``documents`` are the ones on the way from the name to the image, in order: indexes, manifest,
    configuration.  ``source`` says where from, for people.  ``etag`` lets the source be asked again cheaply.
    ``names`` are references the source itself gives this image (archives).  ``origin``: manifest and
    configuration were made here, of the document with this digest (`Outline`).
    """

    manifest: Manifest
    config: ImageConfig
    documents: tuple[Document, ...]
    source: str
    fetch: Fetch
    etag: str | None = None
    names: tuple[Reference, ...] = ()
    origin: Digest | None = None

    @property
    def top(self) -> Descriptor:
        """The document that the name itself stands for."""
        return self.documents[0].descriptor


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose source tells neither the sizes nor the diff IDs of its layers.

    ``document`` describes it, ``index`` is what lists that where the name stands for one; ``layers`` are
    the digests of the layers' blobs, lowest first.
    ``size`` answers how many bytes a blob has, and has it in the store where the source does not tell;
    ``make`` what the image is, once every layer has been measured (`outlines.filled_in`).  ``etag`` as in
    `Found`.
    """

    document: Document
    layers: tuple[Digest, ...]
    size: Callable[[BlobStore, Digest, Report], Awaitable[int]]
    fetch: Fetch
    make: Callable[[Sequence[Measured]], Awaitable[Found]]
    etag: str | None = None
    index: Document | None = None

    @property
    def top(self) -> Descriptor:
        """As `Found.top`."""
        return self.documents[0].descriptor

    @property
    def documents(self) -> tuple[Document, ...]:
        """As `Found.documents`, as far as they are known."""
        return (self.document,) if self.index is None else (self.index, self.document)


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A root without layers that is assembled in one way only, and its canonical name."""

    step: RootStep
    reference: str


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the host, without links on the way, that backends show like an image's only layer, and
    its canonical name.
    """

    path: Path
    reference: str


def _never(_: Reference) -> bool:
    return False


class StoreContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a store may use: the paths of this installation, and the blob store, to look into or to keep what
    has to be read whole before it can be named.  ``hosts`` and ``credentials`` are for registries; None: what
    is configured on this host.  ``throttle`` bounds the bytes a second that servers give and take,
    ``takes_schema1`` answers, blocking, whether policy allows an image to be in docker's schema 1.
    """

    paths: Paths
    blobs: BlobStore
    hosts: HostsConfig | None = None
    credentials: CredentialSource | None = None
    throttle: Throttle | None = None
    takes_schema1: Callable[[Reference], bool] = _never


class Store:
    """Base of all stores: a file holds only its difference.

    ``transports`` are the reference transports it serves.  ``layered`` tells the two kinds of families apart.
    """

    name: ClassVar[str]
    transports: ClassVar[frozenset[str]]
    layered: ClassVar[bool] = True

    def __init__(self, context: StoreContext) -> None:
        self.context = context

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | Outline | None:
        """Say what the reference stands for now; None when ``etag`` still holds.

        ``report`` is told of what has to come whole before it can be named.
        """
        raise Unsupported(f"{reference}: the {self.name} store has no layers to give")

    async def platforms(self, reference: Reference) -> tuple[Platform, ...]:
        """Return the platforms for Linux that an index offers, or that an image says it is for; none where
        the family does not tell.
        """
        del reference
        return ()

    async def signatures(self, reference: Reference, digest: Digest) -> tuple[Signature, ...]:
        """Return the signatures that the source has for a document; none where the family knows none."""
        del reference, digest
        return ()

    async def bundles(
        self, reference: Reference, digest: Digest, predicates: Collection[str]
    ) -> tuple[Attached, ...]:
        """Return the sigstore bundles that refer to a document and may state one of ``predicates``; none
        where the family knows none.
        """
        del reference, digest, predicates
        return ()

    async def messages(self, reference: Reference, digest: Digest, lookaside: str) -> tuple[bytes, ...]:
        """Return the OpenPGP-signed messages about a document that lie at ``lookaside``, a URL; none where
        the family knows none.
        """
        del reference, digest, lookaside
        return ()

    async def parts(self, reference: Reference, digest: Digest) -> tuple[Part, ...]:
        """Return the files that an image discovered by this store is made of, where its family signs files;
        none for all others.  ``digest`` is the manifest's.
        """
        del reference, digest
        return ()

    async def shelf(self, reference: Reference) -> Shelf | None:
        """Return where what is attached to an image lies; None where the family knows nothing of the kind."""
        del reference
        return None

    def root(self, reference: Reference, *, scratch: Path, read_only: bool) -> Root | Tree:
        """Say what the root of a family without layers is: a directory, or a step of its own.

        ``scratch`` is the directory for changes; ``read_only``: the root takes none.
        """
        raise Unsupported(f"{reference}: the {self.name} store gives layers, not a root")

    async def close(self) -> None:
        """Give back connections and descriptors."""
