"""Plain files from web servers: tarballs, App Container images, signatures.

The registry client's transport does the work, so the same rules hold: https unless this host's configuration
names the server insecure, no falling back (G-05), redirects and addresses checked one by one (G-04), silence,
slowness and length bounded (G-06).  No credentials are sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import aiohttp
import msgspec
from yarl import URL

from mesocosm.errors import Denied, InvalidConfig, MesocosmError, NotFound, Unavailable
from mesocosm.images.foreign import shown
from mesocosm.images.progress import Phase, Progress, Report, silent
from mesocosm.images.registry import body as bodies
from mesocosm.images.registry.download import Download
from mesocosm.images.registry.faults import Transient
from mesocosm.images.registry.hosts import Endpoint, HostsConfig, endpoints_of
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.origin import Origin
from mesocosm.images.registry.retry import STATUSES, Retry
from mesocosm.images.registry.throttle import Throttle
from mesocosm.images.registry.transport import Transport
from mesocosm.images.registry.validators import unless_same
from mesocosm.images.transfer import in_thread


class Target(Protocol):
    """Takes a file's bytes in order.  ``held`` are the bytes that it has from an earlier attempt, and the
    validator that they came with; `restart`: they come from the beginning, with another one.
    """

    @property
    def held(self) -> tuple[int, str | None]: ...
    def write(self, data: bytes, /) -> None: ...
    def restart(self, validator: str | None, /) -> None: ...


class Fetched(msgspec.Struct, frozen=True):
    """A file that came whole: its ``size`` in bytes; ``validator``, if any, asks whether it has changed."""

    size: int
    validator: str | None


class Web:
    """Connections to web servers, one transport for each; close with `close`.  Belongs to one event loop."""

    def __init__(
        self,
        hosts: HostsConfig | None,
        limits: Limits | None = None,
        *,
        throttle: Throttle | None = None,
    ) -> None:
        """``throttle`` bounds what `fetch` brings."""
        self._hosts = hosts or HostsConfig()
        self._throttle = throttle
        self._limits = limits or Limits()
        self._transports: dict[Origin, Transport] = {}
        self._stack = contextlib.AsyncExitStack()

    async def close(self) -> None:
        """Give back the connections."""
        await self._stack.aclose()
        self._transports.clear()

    async def read(self, url: str, *, most: int, what: str) -> bytes:
        """Return a small file.  Raises NotFound, Denied, Unavailable, Exhausted above ``most`` bytes."""
        target, transport = await self._at(url)

        async def attempt() -> bytes:
            async with transport.exchange("GET", target, scope="", what=what) as response:
                await _expect(response, (200,), what)
                return await bodies.read(response, self._limits, what, most)

        with _named(url):
            return await transport.retrying(attempt, Retry(self._limits))

    async def fetch(
        self,
        url: str,
        target: Target,
        *,
        most: int,
        what: str,
        validator: str | None = None,
        report: Report = silent,
    ) -> Fetched | None:
        """Have a file written to ``target``, across drops and from where an earlier attempt ended; None when
        ``validator`` still holds.  ``report`` is told how far it is.

        Raises as `read` does.
        """
        where, transport = await self._at(url)
        held, held_by = target.held
        download = Download(
            transport,
            where,
            what=what,
            expect=_expect,
            position=held,
            most=most,
            validator=held_by,
            known=validator,
            restart=target.restart,
        )
        with _named(url):
            async with contextlib.aclosing(download.chunks()) as chunks:
                async for chunk in chunks:
                    await in_thread(target.write, chunk)
                    report(_progress(where, download))
        report(_progress(where, download, finished=True))
        return None if download.unchanged else Fetched(download.position, download.validator)

    async def unchanged(self, url: str, validator: str, *, what: str) -> bool:
        """Whether a file is still the one that came with ``validator``; no bytes of another come.

        Raises as `read` does.
        """
        target, transport = await self._at(url)

        async def attempt() -> bool:
            headers = unless_same(validator)
            async with transport.exchange("GET", target, scope="", what=what, headers=headers) as response:
                await _expect(response, (200, 304), what)
                return response.status == 304

        with _named(url):
            return await transport.retrying(attempt, Retry(self._limits))

    async def _at(self, text: str) -> tuple[URL, Transport]:
        url = _parse(text)
        origin = Origin.of(url)
        if origin not in self._transports:
            endpoint = endpoint_of(url, self._hosts)
            made = Transport(
                _server(url),
                endpoint,
                None,
                limits=self._limits,
                deny_private=self._hosts.deny_private,
                throttle=self._throttle,
            )
            self._transports[origin] = await self._stack.enter_async_context(made)
        return url, self._transports[origin]


def _progress(url: URL, download: Download, *, finished: bool = False) -> Progress:
    return Progress(
        Phase.DOWNLOAD,
        shown(url, 200),
        download.position,
        download.position if finished else download.total,
        download.resumed,
        already=download.unchanged,
        finished=finished,
    )


def endpoint_of(url: URL, hosts: HostsConfig) -> Endpoint:
    """Return how the server of a URL is reached; Denied for plain http where nobody allowed it (G-05)."""
    name = _server(url)
    configured = endpoints_of(name, hosts)[-1]
    if url.scheme == "http" and not configured.base.startswith("http://"):
        raise Denied(
            f"{shown(url, 120)} is plain http, which is not spoken with {name}",
            hint=f"write https://, or allow it in /etc/mesocosm/certs.d/{name}/hosts.toml",
        )
    return msgspec.structs.replace(
        configured, base=f"{url.scheme}://{url.authority}", override_path=True, mirrored=""
    )


def _server(url: URL) -> str:
    """``host[:port]``, as people and directories of certs.d name it."""
    host = url.host_subcomponent or ""
    return host if url.is_default_port() else f"{host}:{url.port}"


def _parse(text: str) -> URL:
    try:
        url = URL(text, encoded=True)
        valid = url.scheme in ("http", "https") and bool(url.host) and bool(url.port)
    except ValueError:
        valid = False
    if not valid or not text.isprintable() or len(text) > 8192:
        raise InvalidConfig(f"{shown(text, 120)} is not a URL", hint="https://HOST[:PORT]/PATH")
    if url.user is not None or url.password is not None:
        raise InvalidConfig(f"URL of {shown(url.host, 80)}: names and passwords in URLs are not sent")
    return url.with_fragment(None)


async def _expect(response: aiohttp.ClientResponse, accept: tuple[int, ...], what: str) -> None:
    """Raise what the status means unless it is one of ``accept``."""
    status = response.status
    if status in accept:
        return
    if status in (404, 410):
        raise NotFound(f"{what} is not there: the server answered {status}", hint="check its address")
    if status in (401, 403):
        raise Denied(f"{what} is refused: the server answered {status}", hint="it may need a login")
    if status in STATUSES:
        raise Transient(
            f"{what}: the server answered {status}", retry_after=response.headers.get("Retry-After")
        )
    raise Unavailable(f"{what}: the server answered {status}")


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    """Speak of a server where the registry client speaks of a registry."""
    try:
        yield
    except MesocosmError as error:
        host = _server(URL(url, encoded=True))
        message = _of_server(error.message, host)
        if message == error.message:
            raise
        hint = None if error.hint is None or "mesocosm login" in error.hint else error.hint
        raise type(error)(message, hint=hint and _of_server(hint, host)) from error


def _of_server(text: str, host: str) -> str:
    for word in (f"registry {host}", "the registry "):
        text = text.replace(word, word.replace("registry", "web server"))
    return text
