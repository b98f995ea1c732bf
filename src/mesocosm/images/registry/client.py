"""The registry client: the distribution spec's calls, on one registry with its mirrors.

    async with RegistryClient.open("docker.io", hosts=HostsConfig(), credentials=credentials) as client:
        reply = await client.manifest("library/debian", "12")
        await client.fetch_blob(store, "library/debian", descriptor)

Names, tags and digests are checked against their grammar before they are put into a URL (attacks G-09).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Protocol, TypeVar

import msgspec

from mesocosm.errors import Corrupt, InvalidConfig, MesocosmError, NotFound, Unsupported
from mesocosm.images import mediatypes, transfer
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest, verify
from mesocosm.images.documents import Descriptor
from mesocosm.images.foreign import parse_uint, shown
from mesocosm.images.mediatypes import base_type
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.registry import blob, pages, push
from mesocosm.images.registry.auth import Credential
from mesocosm.images.registry.hosts import Endpoint, HostsConfig, endpoints_of
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.transport import Reply, Transport
from mesocosm.images.transfer import Sink, SinkFactory

Result = TypeVar("Result")


class CredentialSource(Protocol):
    """Answers with the credential for a registry;
    :class:`~mesocosm.images.registry.credentials.Credentials` is one.
    """

    async def find(self, registry: str, repository: str = "") -> Credential | None: ...


class Resolved(msgspec.Struct, frozen=True):
    """What a tag or digest stands for now.  ``etag`` is for the next, conditional, question; empty when
    unknown.
    """

    digest: Digest
    media_type: str
    size: int
    etag: str = ""


class ManifestReply(msgspec.Struct, frozen=True):
    """A manifest's exact bytes and what they were served as.  ``digest`` was reckoned from the bytes."""

    data: bytes
    media_type: str
    digest: Digest
    etag: str = ""


class RegistryClient:
    """All calls on one registry.  Async context; use :meth:`open`.

    Reading calls ask the mirrors first, in order, and then the registry; the last answer's error is the one
    raised. Every call raises NotFound, Denied, Unavailable (after retries), Corrupt, Exhausted or
    Unsupported, and nothing else.
    """

    def __init__(self, registry: str, transports: tuple[Transport, ...]) -> None:
        self.registry = registry
        self._transports = transports
        self._stack = contextlib.AsyncExitStack()

    @classmethod
    async def open(
        cls,
        registry: str,
        *,
        repository: str = "",
        hosts: HostsConfig | None = None,
        credentials: CredentialSource | None = None,
        limits: Limits | None = None,
    ) -> RegistryClient:
        """Return a client for ``registry`` (``host[:port]``), to be entered as a context.

        ``repository`` chooses among credentials kept for parts of a registry.
        """
        Reference("docker", registry=registry, repository=repository or "any/any", tag="any")
        config = hosts or HostsConfig()
        transports = []
        for endpoint in endpoints_of(registry, config):
            name = _name_of(endpoint, registry)
            credential = await credentials.find(name, repository) if credentials else None
            bounds = limits or Limits()
            if endpoint.mirror:
                # Another server stands behind it: its silence is not worth a minute.
                bounds = msgspec.structs.replace(bounds, attempts=min(2, bounds.attempts))
            transports.append(
                Transport(name, endpoint, credential, limits=bounds, deny_private=config.deny_private)
            )
        return cls(registry, tuple(transports))

    async def __aenter__(self) -> RegistryClient:
        async with contextlib.AsyncExitStack() as stack:
            for transport in self._transports:
                await stack.enter_async_context(transport)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, value, trace)

    async def ping(self) -> None:
        """Check that the registry speaks the protocol and takes our credentials."""
        transport = self._origin
        await transport.call("GET", transport.url(""), scope="", what="API version 2", most=64 << 10)

    async def resolve(self, repository: str, reference: str, *, etag: str = "") -> Resolved | None:
        """Return what ``reference`` (tag or digest) stands for, without fetching it; None when ``etag``
        still holds.

        A HEAD request; registries that answer it badly are asked with GET.
        """
        path = _manifest_path(repository, reference)

        async def ask(transport: Transport) -> Resolved | None:
            try:
                reply = await _ask_manifest(transport, "HEAD", repository, path, etag)
            except Unsupported:
                reply = None
            if reply is not None and reply.status == 304:
                return None
            resolved = _resolved(reply) if reply is not None else None
            if resolved is None:
                found = await self._get_manifest(transport, repository, reference, etag)
                if found is None:
                    return None
                return Resolved(found.digest, found.media_type, len(found.data), found.etag)
            _check_pin(reference, resolved.digest, f"{self.registry}/{path}")
            return resolved

        return await self._first("resolve", ask)

    async def manifest(self, repository: str, reference: str, *, etag: str = "") -> ManifestReply | None:
        """Return the manifest or index for a tag or digest, its bytes verified; None when ``etag`` still
        holds.

        Fetched by digest the bytes must have it, whatever the server says of them (attacks G-01, G-13).
        """
        _manifest_path(repository, reference)
        capability = "pull" if ":" in reference else "resolve"
        return await self._first(
            capability, lambda transport: self._get_manifest(transport, repository, reference, etag)
        )

    async def read_blob(self, repository: str, descriptor: Descriptor, *, most: int | None = None) -> bytes:
        """Return a small blob (a configuration), verified; Exhausted above ``most`` bytes (default 4 MiB)."""
        if descriptor.data is not None:
            return descriptor.data
        _check_repository(repository)

        async def ask(transport: Transport) -> bytes:
            url = transport.url(f"{repository}/blobs/{descriptor.digest}")
            what = f"blob {descriptor.digest} of {repository}"
            most_bytes = most or transport.limits.document
            reply = await transport.call("GET", url, scope=_pull(repository), what=what, most=most_bytes)
            return verify(reply.body, descriptor.digest, descriptor.size)

        return await self._first("pull", ask)

    async def fetch_blob(
        self,
        store: BlobStore,
        repository: str,
        descriptor: Descriptor,
        *,
        sink: SinkFactory | None = None,
        report: Report = silent,
        keep: bool = True,
    ) -> None:
        """Have a blob in ``store`` and run through a sink (see :func:`mesocosm.images.transfer.fetch`)."""
        _check_repository(repository)
        make: Callable[[], Sink] = sink or transfer.Discard

        async def ask(transport: Transport) -> None:
            def source(offset: int) -> AsyncIterator[bytes]:
                return blob.stream(transport, repository, descriptor, offset)

            await transfer.fetch(store, descriptor, source, sink=make, report=report, keep=keep)

        await self._first("pull", ask)

    async def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob the registry itself has in ``repository``, None when it has not."""
        _check_repository(repository)
        transport = self._origin
        try:
            reply = await transport.call(
                "HEAD",
                transport.url(f"{repository}/blobs/{digest}"),
                scope=_pull(repository),
                what=f"blob {digest} of {repository}",
            )
        except NotFound:
            return None
        return parse_uint(reply.headers.get("Content-Length", ""), 1 << 62)

    async def tags(self, repository: str) -> list[str]:
        """Return all tags of a repository, in the registry's order; Exhausted beyond 100,000."""
        _check_repository(repository)
        return await self._first("resolve", lambda transport: pages.tags(transport, repository))

    async def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> tuple[Descriptor, ...]:
        """Return the manifests whose subject is ``digest``: signatures, SBOMs; by the tag scheme where the
        API lacks.
        """
        _check_repository(repository)

        async def ask(transport: Transport) -> tuple[Descriptor, ...]:
            found = await pages.referrers(transport, repository, digest, artifact_type)
            if found is not None:
                return found
            tag = f"{digest.algorithm}-{digest.hex}"[:128]
            try:
                reply = await self._get_manifest(transport, repository, tag, "")
            except NotFound:
                return ()
            return pages.from_index(reply.data, artifact_type) if reply else ()

        return await self._first("pull", ask)

    async def push_blob(
        self,
        repository: str,
        descriptor: Descriptor,
        source: push.UploadSource,
        *,
        mount_from: str | None = None,
        chunk: int | None = None,
        report: Report = silent,
    ) -> bool:
        """Have a blob in ``repository``; False when the registry had it, or could mount it, already.

        ``source(offset, count)`` yields those bytes of it; with ``chunk`` it is sent in pieces of that many
        bytes, which a broken connection resumes, else in one.  ``mount_from`` names a repository on the
        same registry that has it.
        """
        _check_repository(repository)
        if mount_from is not None:
            _check_repository(mount_from)
        if await self.blob_size(repository, descriptor.digest) is not None:
            return False
        upload = push.Upload(self._pusher, repository, descriptor, source, report)
        return await upload.run(mount_from, chunk)

    async def push_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> Digest:
        """Put a manifest under a tag or its own digest and return the digest."""
        path = _manifest_path(repository, reference)
        digest = Digest.of(data)
        if ":" in reference:
            verify(data, digest := Digest.parse(reference), what="manifest")
        transport = self._pusher
        await transport.call(
            "PUT",
            transport.url(path),
            scope=push.scope(repository),
            what=f"manifest {repository}:{reference}",
            accept=(200, 201, 202),
            headers={"Content-Type": media_type},
            body=data,
        )
        return digest

    async def delete(self, repository: str, what: Digest, *, is_blob: bool = False) -> None:
        """Remove a manifest, or with ``is_blob`` a blob, by digest; Unsupported where the registry forbids
        it.
        """
        _check_repository(repository)
        kind = "blobs" if is_blob else "manifests"
        transport = self._pusher
        await transport.call(
            "DELETE",
            transport.url(f"{repository}/{kind}/{what}"),
            scope=f"repository:{repository}:pull,push,delete",
            what=f"{repository}@{what}",
            accept=(200, 202, 204),
        )

    @property
    def _origin(self) -> Transport:
        return self._transports[-1]

    @property
    def _pusher(self) -> Transport:
        for transport in reversed(self._transports):
            if "push" in transport.endpoint.capabilities:
                return transport
        raise Unsupported(f"registry {self.registry} is configured without push", hint="see its hosts.toml")

    async def _first(self, capability: str, ask: Callable[[Transport], Awaitable[Result]]) -> Result:
        """Ask each server that has ``capability``, in order, until one answers; raises the last one's
        error.
        """
        able = [one for one in self._transports if capability in one.endpoint.capabilities]
        failure: MesocosmError = Unsupported(f"registry {self.registry} is configured without {capability}")
        for transport in able:
            try:
                return await ask(transport)
            except InvalidConfig:
                raise
            except MesocosmError as error:
                failure = error
        raise failure

    async def _get_manifest(
        self, transport: Transport, repository: str, reference: str, etag: str
    ) -> ManifestReply | None:
        path = _manifest_path(repository, reference)
        reply = await _ask_manifest(transport, "GET", repository, path, etag)
        if reply.status == 304:
            return None
        where = f"manifest {self.registry}/{path}"
        pinned = Digest.parse(reference) if ":" in reference else None
        claimed = _claimed(reply.headers, where)
        for one in (claimed, pinned):
            if one is not None:
                verify(reply.body, one, what=f"{where}:")
        digest = pinned or claimed or Digest.of(reply.body)
        media_type = base_type(reply.headers.get("Content-Type"))
        return ManifestReply(reply.body, media_type, digest, reply.headers.get("ETag", "")[:512])


def _name_of(endpoint: Endpoint, registry: str) -> str:
    """A mirror has its own credentials: those of its host, never those of the registry it mirrors."""
    if not endpoint.mirror:
        return registry
    return endpoint.base.partition("://")[2].partition("/")[0]


async def _ask_manifest(transport: Transport, method: str, repository: str, path: str, etag: str) -> Reply:
    headers = {"Accept": ", ".join(mediatypes.ACCEPTED)}
    if etag:
        headers["If-None-Match"] = etag
    return await transport.call(
        method,
        transport.url(path),
        scope=_pull(repository),
        what=path.replace("/manifests/", "@" if ":" in path else ":"),
        accept=(200, 304) if etag else (200,),
        headers=headers,
        most=transport.limits.document,
    )


def _resolved(reply: Reply) -> Resolved | None:
    """Read a HEAD's answer; None when the registry left something out, which only GET can tell."""
    claimed = _claimed(reply.headers, "the registry's answer")
    size = parse_uint(reply.headers.get("Content-Length", ""), 1 << 62)
    media_type = base_type(reply.headers.get("Content-Type"))
    if claimed is None or not size or not media_type:
        return None
    return Resolved(claimed, media_type, size, reply.headers.get("ETag", "")[:512])


def _claimed(headers: Mapping[str, str], where: str) -> Digest | None:
    text = headers.get("Docker-Content-Digest")
    if text is None:
        return None
    try:
        return Digest.parse(text)
    except InvalidConfig:
        raise Corrupt(f"{where}: Docker-Content-Digest is malformed: {shown(text, 100)!r}") from None


def _check_pin(reference: str, found: Digest, where: str) -> None:
    if ":" in reference and str(found) != reference:
        raise Corrupt(f"{where} was answered with {found}", hint="the registry serves another manifest")


def _manifest_path(repository: str, reference: str) -> str:
    """Return the API path of a manifest after checking both names; InvalidConfig."""
    pinned = Digest.parse(reference) if ":" in reference else None
    _check_repository(repository, None if pinned else reference, pinned)
    return f"{repository}/manifests/{reference}"


def _check_repository(repository: str, tag: str | None = "any", digest: Digest | None = None) -> None:
    Reference("docker", registry="registry.invalid", repository=repository, tag=tag, digest=digest)


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"
