"""The registry client: the distribution spec's calls, on one registry with its mirrors.

    async with RegistryClient.open("docker.io", hosts=HostsConfig(), credentials=credentials) as client:
        reply = await client.manifest("library/debian", "12")
        await client.fetch_blob(store, "library/debian", descriptor)

Names, tags and digests are checked against their grammar before they are put into a URL (attacks G-09).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from mesocosm.errors import Exhausted, InvalidConfig, MesocosmError, NotFound, Unavailable, Unsupported
from mesocosm.images import transfer
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest, verify
from mesocosm.images.documents import Descriptor
from mesocosm.images.progress import Phase, Progress, Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.registry import blob, manifests, pages, push, referring
from mesocosm.images.registry.auth import Credential
from mesocosm.images.registry.hosts import Endpoint, HostsConfig, endpoints_of
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.manifests import ManifestReply, Resolved, check_names, pull_scope
from mesocosm.images.registry.throttle import Throttle
from mesocosm.images.registry.transport import Renew, Reply, Transport
from mesocosm.images.strict import load
from mesocosm.images.transfer import Sink, SinkFactory

Result = TypeVar("Result")

__all__ = ["CredentialSource", "ManifestReply", "RegistryClient", "Resolved"]


class CredentialSource(Protocol):
    """Answers with the credential for a registry;
    :class:`~mesocosm.images.registry.credentials.Credentials` is one.
    """

    async def find(self, registry: str, repository: str = "") -> Credential | None: ...


@runtime_checkable
class CredentialKeeper(CredentialSource, Protocol):
    """A source that also keeps the identity tokens which token servers give in place of those it knows."""

    async def renew(self, registry: str, repository: str, old: str, new: str) -> bool: ...


class LoggedIn(msgspec.Struct, frozen=True):
    """What came of a login: whether the registry ``asked`` for credentials, and so looked at them, and the
    identity token to keep in place of a password, empty where none was given.
    """

    asked: bool
    identity_token: str


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
        throttle: Throttle | None = None,
        offline: bool = False,
    ) -> RegistryClient:
        """Return a client for ``registry`` (``host[:port]``), to be entered as a context.

        ``repository`` chooses among credentials kept for parts of a registry; ``offline``: see `log_in`.
        """
        Reference("docker", registry=registry, repository=repository or "any/any", tag="any")
        config = hosts or HostsConfig()
        transports = []
        for endpoint in endpoints_of(registry, config):
            name = _name_of(endpoint, registry)
            credential = await credentials.find(name, repository) if credentials else None
            bounds = limits or Limits()
            if endpoint.mirrored:
                # Another server stands behind it: its silence is not worth a minute.
                bounds = msgspec.structs.replace(bounds, attempts=min(2, bounds.attempts))
            transports.append(
                Transport(
                    name,
                    endpoint,
                    credential,
                    limits=bounds,
                    deny_private=config.deny_private,
                    throttle=throttle,
                    offline=offline,
                    renew=_renewal(credentials, name, repository),
                )
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

    def tell_warnings(self, report: Report) -> None:
        """Report what the servers wanted people to be told, each text once."""
        for transport in self._transports:
            for text in transport.new_warnings():
                subject = f"registry {transport.registry}: {text}"
                report(Progress(Phase.WARNING, subject, finished=True))

    async def log_in(self) -> LoggedIn:
        """Have the registry look at our credentials.  Only a client opened with ``offline`` asks for a token.

        Raises Denied when it refuses them, Unavailable also for a server that is no registry.
        """
        hint = "check its name and port"
        url = self._origin.url("")
        try:
            reply = await self._origin.call("GET", url, scope="", what="API version 2", most=64 << 10)
        except (NotFound, Exhausted) as error:
            raise Unavailable(f"{self.registry} is no registry: {error.message}", hint=hint) from error
        if not self._origin.asked and not _is_of_registry(reply):
            raise Unavailable(f"{self.registry} answers as a web server, not as a registry", hint=hint)
        return LoggedIn(self._origin.asked, self._origin.identity_token)

    async def resolve(self, repository: str, reference: str, *, etag: str = "") -> Resolved | None:
        """Return what ``reference`` (tag or digest) stands for, without fetching it; None when ``etag``
        still holds.

        A HEAD request; registries that answer it badly are asked with GET.
        """
        check_names(repository, reference)
        return await self._first(
            "resolve", lambda transport: manifests.resolve(transport, repository, reference, etag)
        )

    async def manifest(
        self, repository: str, reference: str, *, etag: str = "", schema1: bool = False
    ) -> ManifestReply | None:
        """Return the manifest or index for a tag or digest, its bytes verified; None when ``etag`` still
        holds.

        Fetched by digest the bytes must have it, whatever the server says of them (attacks G-01, G-13).
        ``schema1``: one of docker's schema 1 is taken, too.
        """
        check_names(repository, reference)
        capability = "pull" if ":" in reference else "resolve"
        return await self._first(
            capability,
            lambda transport: manifests.get(transport, repository, reference, etag, schema1=schema1),
        )

    async def read_blob(self, repository: str, descriptor: Descriptor, *, most: int | None = None) -> bytes:
        """Return a small blob (a configuration), verified; Exhausted above ``most`` bytes (default 4 MiB)."""
        if descriptor.data is not None:
            return descriptor.data
        check_names(repository)

        async def ask(transport: Transport) -> bytes:
            url = transport.url(f"{repository}/blobs/{descriptor.digest}")
            what = f"blob {descriptor.digest} of {repository}"
            most_bytes = most or transport.limits.document
            reply = await transport.call("GET", url, scope=pull_scope(repository), what=what, most=most_bytes)
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
        check_names(repository)
        make: Callable[[], Sink] = sink or transfer.Discard

        async def ask(transport: Transport) -> None:
            def source(offset: int) -> AsyncIterator[bytes]:
                return blob.stream(transport, repository, descriptor.digest, descriptor.size, offset)

            await transfer.fetch(store, descriptor, source, sink=make, report=report, keep=keep)

        await self._first("pull", ask)

    async def has_blob(self, repository: str, digest: Digest) -> bool:
        """Whether the registry itself, not a mirror of it, has a blob in ``repository``."""
        check_names(repository)
        return await blob.is_there(self._origin, repository, digest)

    async def measure_blob(
        self, store: BlobStore, repository: str, digest: Digest, *, most: int, report: Report = silent
    ) -> int:
        """Return the size in bytes of a blob that is to be fetched; Exhausted above ``most``.

        Where no server tells it, the blob is brought into ``store``, where it is found then.
        """
        check_names(repository)

        async def ask(transport: Transport) -> int:
            size = await blob.size(transport, repository, digest)
            if size is None:
                return await transfer.fetch_unsized(store, digest, source(transport), report=report)
            if size > most:
                raise Exhausted(f"blob {digest} has {size} bytes, more than the {most} allowed")
            return size

        def source(transport: Transport) -> transfer.Source:
            return lambda offset: blob.stream(transport, repository, digest, None, offset, most=most)

        return await self._first("pull", ask)

    async def tags(self, repository: str) -> list[str]:
        """Return all tags of a repository, in the registry's order; Exhausted beyond 100,000."""
        check_names(repository)
        return await self._first("resolve", lambda transport: pages.tags(transport, repository))

    async def referrers(
        self, repository: str, digest: Digest, *, artifact_type: str | None = None
    ) -> tuple[Descriptor, ...]:
        """Return the manifests whose subject is ``digest``: signatures, SBOMs; by the tag scheme where the
        API lacks.
        """
        check_names(repository)

        async def ask(transport: Transport) -> tuple[Descriptor, ...]:
            found = await pages.referrers(transport, repository, digest, artifact_type)
            if found is None:
                found = await referring.listed(transport, repository, digest, artifact_type)
            if not found and transport.endpoint.mirrored:  # mirrors need not have them
                raise NotFound(f"mirror {transport.registry} has no referrers of {repository}@{digest}")
            return found

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
        check_names(repository)
        if mount_from is not None:
            check_names(mount_from)
        if await self.has_blob(repository, descriptor.digest):
            return False
        upload = push.Upload(self._pusher, repository, descriptor, source, report)
        return await upload.run(mount_from, chunk)

    async def push_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> Digest:
        """Put a manifest under a tag or its own digest and return the digest.

        One with a subject is listed among what refers to that, also where the registry does not do so itself
        (distribution spec, "Pushing Manifests with Subject").
        """
        check_names(repository, reference)
        digest = Digest.of(data)
        if ":" in reference:
            verify(data, digest := Digest.parse(reference), what="manifest")
        reply = await referring.put(self._pusher, repository, reference, data, media_type)
        push.require_stored_as(digest, reply.headers, f"manifest {digest} of {repository}")
        if "OCI-Subject" not in reply.headers:
            await referring.list_among_referrers(self._pusher, repository, data, media_type, digest)
        return digest

    async def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag, not what it stands for; Unsupported where the registry removes no single tags."""
        check_names(repository, tag)
        reply = await self._delete(repository, f"manifests/{tag}", f"{repository}:{tag}", (400,))
        if reply.status == 400:  # docker's registry before its version 3
            raise Unsupported(
                f"registry {self.registry} removes no single tags",
                hint=f"remove the manifest with all its tags: {self.registry}/{repository}@DIGEST",
            )

    async def delete(self, repository: str, what: Digest, *, is_blob: bool = False) -> None:
        """Remove a manifest, or with ``is_blob`` a blob, by digest; Unsupported where the registry forbids
        it.

        A manifest with a subject is taken out of the list of what refers to that, too.
        """
        check_names(repository)
        kind = "blobs" if is_blob else "manifests"
        subject = None if is_blob else await referring.subject_of(self._pusher, repository, what)
        await self._delete(repository, f"{kind}/{what}", f"{repository}@{what}")
        if subject is not None:
            await referring.unlist(self._pusher, repository, subject, what)

    async def _delete(self, repository: str, path: str, what: str, more: tuple[int, ...] = ()) -> Reply:
        transport = self._pusher
        return await transport.call(
            "DELETE",
            transport.url(f"{repository}/{path}"),
            scope=f"repository:{repository}:pull,push,delete",
            what=what,
            accept=(200, 202, 204, *more),
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


def _renewal(credentials: CredentialSource | None, name: str, repository: str) -> Renew | None:
    if not isinstance(credentials, CredentialKeeper):
        return None
    return functools.partial(credentials.renew, name, repository)


def _is_of_registry(reply: Reply) -> bool:
    """Whether an answer to ``GET /v2/`` is one: by docker's header, else by what is in it, which is nothing
    or a JSON object (distribution spec, "Determining Support", says the status alone).
    """
    if "Docker-Distribution-Api-Version" in reply.headers or not reply.body.strip():
        return True
    with contextlib.suppress(MesocosmError):
        load(reply.body, "version")
        return True
    return False


def _name_of(endpoint: Endpoint, registry: str) -> str:
    """A mirror has its own credentials: those of its host, never those of the registry it mirrors."""
    if not endpoint.mirrored:
        return registry
    return endpoint.base.partition("://")[2].partition("/")[0]
