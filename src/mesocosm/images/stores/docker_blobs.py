"""The blobs of a registry's repository, as stores give them."""

from __future__ import annotations

from mesocosm.images.blobs import BlobStore
from mesocosm.images.documents import Descriptor
from mesocosm.images.progress import Report
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.stores.base import Fetch
from mesocosm.images.transfer import SinkFactory


def fetching_from(client: RegistryClient, repository: str) -> Fetch:
    """Return what brings in a repository's blobs."""

    async def fetch(
        blobs: BlobStore, descriptor: Descriptor, *, sink: SinkFactory, report: Report, keep: bool
    ) -> None:
        await client.fetch_blob(blobs, repository, descriptor, sink=sink, report=report, keep=keep)

    return fetch
