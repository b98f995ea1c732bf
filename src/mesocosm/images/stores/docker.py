"""Registries: docker's and all others that speak the distribution spec, with docker or OCI images."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mesocosm.errors import Corrupt, NotFound
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, Manifest, parse_document
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.registry.client import ManifestReply, RegistryClient
from mesocosm.images.registry.credentials import Credentials, default_paths
from mesocosm.images.stores.base import Found, Outline, Shelf, Store, StoreContext
from mesocosm.images.stores.docker_blobs import fetching_from
from mesocosm.images.stores.docker_schema1 import listed, outline
from mesocosm.images.stores.resolve import Read, platforms_of, resolve, top_document
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust import bundles
from mesocosm.images.trust.signed_statement import LIMIT as STATEMENT_LIMIT
from mesocosm.images.web import Web

if TYPE_CHECKING:
    from mesocosm.images.trust.signatures import Signature


class RegistryStore(Store):
    """``docker://HOST/NAME``.  One client per registry and repository, kept until `close`."""

    name = "docker"
    transports = frozenset({"docker"})

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._clients: dict[tuple[str, str], asyncio.Task[RegistryClient]] = {}
        self._stack = contextlib.AsyncExitStack()
        self._web: Web | None = None

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | Outline | None:
        """As `Store.discover`: one conditional request where an ETag is known."""
        client = await self.client(reference)
        try:
            reply = await self._ask(client, reference, etag or "")
        finally:
            client.tell_warnings(report)
        if reply is None:
            return None
        if reply.media_type in mediatypes.SCHEMA1:
            return outline(client, reference, platform, reply)
        if await in_thread(self.context.takes_schema1, reference):
            old = await listed(client, reference, platform, reply)
            if old is not None:
                return old
        return await self._resolve(client, reference, platform, reply)

    async def _ask(
        self, client: RegistryClient, reference: Reference, etag: str = ""
    ) -> ManifestReply | None:
        old: bool = await in_thread(self.context.takes_schema1, reference)
        return await client.manifest(reference.repository, _name(reference), etag=etag, schema1=old)

    async def platforms(self, reference: Reference) -> tuple[Platform, ...]:
        """As `Store.platforms`."""
        client = await self.client(reference)
        reply = await self._ask(client, reference)
        if reply is None or reply.media_type in mediatypes.SCHEMA1:
            return ()
        top = top_document(reply.data, reply.media_type, reference)
        return await platforms_of(top, self._reader(client, reference.repository), reference.familiar)

    def _reader(self, client: RegistryClient, repository: str) -> Read:
        """What reads a repository's documents: those that are here are not asked for."""

        async def read(descriptor: Descriptor) -> bytes:
            blobs = self.context.blobs
            if blobs.has(descriptor.digest, descriptor.size):
                with contextlib.suppress(Corrupt, NotFound):
                    return blobs.read(descriptor.digest, limit=descriptor.size)
            if descriptor.media_type in mediatypes.INDEXES | mediatypes.MANIFESTS:
                answer = await client.manifest(repository, str(descriptor.digest))
                return answer.data if answer else b""
            return await client.read_blob(repository, descriptor)

        return read

    async def _resolve(
        self, client: RegistryClient, reference: Reference, platform: Platform, reply: ManifestReply
    ) -> Found:
        top = top_document(reply.data, reply.media_type, reference)
        read, etag = self._reader(client, reference.repository), reply.etag or None
        fetch, source = fetching_from(client, reference.repository), reference.registry
        return await resolve(top, read, reference, platform, fetch=fetch, source=source, etag=etag)

    async def shelf(self, reference: Reference) -> Shelf:
        """As `Store.shelf`: the repository."""
        return _Repository(await self.client(reference), reference.repository)

    async def signatures(self, reference: Reference, digest: Digest) -> tuple[Signature, ...]:
        """As `Store.signatures`: cosign's, under the tag made of the digest."""
        from mesocosm.images.trust import (
            signatures as cosign,  # cryptography: only where signatures are asked for
        )

        client = await self.client(reference)
        try:
            reply = await client.manifest(reference.repository, f"{digest.algorithm}-{digest.hex}.sig")
        except NotFound:
            return ()
        manifest = parse_document(reply.data, content_type=reply.media_type) if reply else None
        if not isinstance(manifest, Manifest):
            return ()
        found = []
        for layer in manifest.layers[: cosign.COUNT_LIMIT]:
            text = layer.annotations.get(cosign.ANNOTATION)
            if layer.media_type == cosign.MEDIA_TYPE and text and layer.size <= STATEMENT_LIMIT:
                statement = await client.read_blob(reference.repository, layer)
                found.append(cosign.decode(text, statement))
        return tuple(signature for signature in found if signature is not None)

    async def bundles(
        self, reference: Reference, digest: Digest, predicates: Collection[str]
    ) -> tuple[bundles.Attached, ...]:
        """As `Store.bundles`: cosign's and others', by the registry's list of referrers."""
        client = await self.client(reference)
        return await bundles.attached(client, reference.repository, digest, predicates)

    async def messages(self, reference: Reference, digest: Digest, lookaside: str) -> tuple[bytes, ...]:
        """As `Store.messages`: containers' "simple signing"."""
        from mesocosm.images.trust.lookaside import signatures_at

        if not lookaside:
            return ()
        self._web = self._web or Web(self.context.hosts)
        return await signatures_at(lookaside, reference, digest, self._web)

    async def client(self, reference: Reference) -> RegistryClient:
        """Return the client for a reference's registry and repository, opened on first use."""
        key = (reference.registry, reference.repository)
        if key not in self._clients:
            self._clients[key] = asyncio.ensure_future(self._open(*key))
        try:
            return await asyncio.shield(self._clients[key])
        except BaseException:
            task = self._clients[key]
            if task.done() and (task.cancelled() or task.exception()):
                self._clients.pop(key, None)
            raise

    def forget(self, registry: str) -> None:
        """Open new clients for a registry from now on: what it is to be told of who we are has changed."""
        for key in [key for key in self._clients if key[0] == registry]:
            del self._clients[key]

    async def _open(self, registry: str, repository: str) -> RegistryClient:
        credentials = self.context.credentials or own_credentials()
        client = await RegistryClient.open(
            registry,
            repository=repository,
            hosts=self.context.hosts,
            credentials=credentials,
            throttle=self.context.throttle,
        )
        return await self._stack.enter_async_context(client)

    async def close(self) -> None:
        """As `Store.close`."""
        if self._web is not None:
            await self._web.close()
        await self._stack.aclose()
        self._clients.clear()


class _Repository:
    """What is attached to a repository's images, see `stores.base.Shelf`."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client = client
        self._repository = repository
        self.fetch = fetching_from(client, repository)

    async def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        try:
            return await self._client.referrers(self._repository, subject)
        except NotFound:
            return ()

    async def tagged(self, tag: str) -> Descriptor | None:
        try:
            reply = await self._client.manifest(self._repository, tag)
        except NotFound:
            return None
        return Descriptor(reply.media_type, reply.digest, len(reply.data)) if reply else None

    async def read(self, descriptor: Descriptor) -> bytes:
        reply = await self._client.manifest(self._repository, str(descriptor.digest))
        return reply.data if reply else b""


def _name(reference: Reference) -> str:
    """What a manifest is asked for by."""
    name = str(reference.digest) if reference.digest else reference.tag
    if name is None:
        raise NotFound(f"{reference.familiar} names neither tag nor digest")
    return name


def own_credentials() -> Credentials:
    """Return the credentials of the user that we run as."""
    return Credentials(credential_files(os.environ), environ=os.environ)


def credential_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the files in which docker and its kin keep credentials, the one to write first."""
    home = Path(environ.get("HOME") or "/root")
    files = (*default_paths(environ), home / ".config/containers/auth.json")
    return tuple(file for file in files if file.is_absolute())
