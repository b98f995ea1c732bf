"""Plain files from web servers: tarballs, App Container images, signatures.

The registry client's transport does the work, so the same rules hold: https unless this host's configuration
names the server insecure, no falling back (G-05), redirects and addresses checked one by one (G-04), silence,
slowness and length bounded (G-06).  No credentials are sent.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import aiohttp
import msgspec
from yarl import URL

from mesocosm.errors import Denied, Exhausted, InvalidConfig, MesocosmError, NotFound, Unavailable
from mesocosm.images.foreign import shown
from mesocosm.images.progress import Phase, Progress, Report, silent
from mesocosm.images.registry import body as bodies
from mesocosm.images.registry.faults import Transient
from mesocosm.images.registry.hosts import Endpoint, HostsConfig, endpoints_of
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.origin import Origin
from mesocosm.images.registry.retry import STATUSES, Retry
from mesocosm.images.registry.throttle import Throttle
from mesocosm.images.registry.transport import Transport
from mesocosm.images.transfer import in_thread

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/(?:[0-9]{1,19}|\*)", re.ASCII)
_DATED: Final = "date:"
"""What stands before a validator that is a Last-Modified date and no ETag."""


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
        report: Report = silent,
    ) -> None:
        """``throttle`` bounds, and ``report`` is told of, what `fetch` brings."""
        self._hosts = hosts or HostsConfig()
        self._throttle = throttle
        self._report = report
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
                _expect(response, (200,), what)
                return await bodies.read(response, self._limits, what, most)

        with _named(url):
            return await transport.retrying(attempt, Retry(self._limits))

    async def fetch(
        self, url: str, target: Target, *, most: int, what: str, validator: str | None = None
    ) -> Fetched | None:
        """Have a file written to ``target``, across drops and from where an earlier attempt ended; None when
        ``validator`` still holds.

        Raises as `read` does.
        """
        where, transport = await self._at(url)
        reading = _Reading(transport, where, target, most, what, validator, self._report)
        retry = Retry(self._limits)
        with _named(url):
            while True:
                try:
                    return await reading.attempt(retry.progressed)
                except Transient as error:
                    await transport.pause(retry, error)

    async def unchanged(self, url: str, validator: str, *, what: str) -> bool:
        """Whether a file is still the one that came with ``validator``; no bytes of another come.

        Raises as `read` does.
        """
        target, transport = await self._at(url)

        async def attempt() -> bool:
            headers = _condition(validator)
            async with transport.exchange("GET", target, scope="", what=what, headers=headers) as response:
                _expect(response, (200, 304), what)
                return response.status == 304

        with _named(url):
            return await transport.retrying(attempt, Retry(self._limits))

    async def _at(self, text: str) -> tuple[URL, Transport]:
        url = _parse(text)
        origin = Origin.of(url)
        if origin not in self._transports:
            endpoint = endpoint_of(url, self._hosts)
            made = Transport(
                url.authority,
                endpoint,
                None,
                limits=self._limits,
                deny_private=self._hosts.deny_private,
                throttle=self._throttle,
            )
            self._transports[origin] = await self._stack.enter_async_context(made)
        return url, self._transports[origin]


def endpoint_of(url: URL, hosts: HostsConfig) -> Endpoint:
    """Return how the server of a URL is reached; Denied for plain http where nobody allowed it (G-05)."""
    name = url.host_subcomponent or ""
    name = name if url.is_default_port() else f"{name}:{url.port}"
    configured = endpoints_of(name, hosts)[-1]
    if url.scheme == "http" and not configured.base.startswith("http://"):
        raise Denied(
            f"{shown(url, 120)} is plain http, which is not spoken with {name}",
            hint=f"write https://, or allow it in /etc/mesocosm/certs.d/{name}/hosts.toml",
        )
    return msgspec.structs.replace(
        configured, base=f"{url.scheme}://{url.authority}", override_path=True, mirrored=""
    )


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


def _expect(response: aiohttp.ClientResponse, accept: tuple[int, ...], what: str) -> None:
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
        host = URL(url, encoded=True).authority
        message = error.message
        for word in (f"registry {host} ", "the registry "):
            message = message.replace(word, word.replace("registry", "server"))
        if message == error.message:
            raise
        hint = None if error.hint is None or "mesocosm login" in error.hint else error.hint
        raise type(error)(message, hint=hint) from error


class _Reading:
    """One file on its way, over as many requests as it takes."""

    def __init__(
        self,
        transport: Transport,
        url: URL,
        target: Target,
        most: int,
        what: str,
        validator: str | None,
        report: Report,
    ) -> None:
        self._transport = transport
        self._url = url
        self._target = target
        self._most = most
        self._what = what
        self._known = validator
        self._report = report
        self._at, self._seen = target.held
        self._resumed = self._at

    async def attempt(self, progressed: Callable[[int], None]) -> Fetched | None:
        """One request; raises Transient when another may go on from there."""
        resuming = self._at > 0 and self._seen is not None and not self._seen.startswith("W/")
        headers = self._resuming() if resuming else _condition(self._known)
        async with self._transport.exchange(
            "GET", self._url, scope="", what=self._what, headers=headers
        ) as response:
            if response.status == 304 and self._known is not None and not resuming:
                self._tell(self._at, already=True, finished=True)
                return None
            if resuming and response.status == 416:
                self._seen = None
                raise Transient(f"{self._what}: the server has no such range")
            _expect(response, (200, 206) if resuming else (200,), self._what)
            self._place(response)
            total = None if response.content_length is None else self._at + response.content_length
            if (response.content_length or 0) > self._most - self._at:
                raise Exhausted(f"{self._what} is larger than the {self._most} bytes allowed")
            async for chunk in bodies.chunks(response, self._transport.limits, self._what):
                self._at += len(chunk)
                if self._at > self._most:
                    raise Exhausted(f"{self._what} is larger than the {self._most} bytes allowed")
                await self._transport.take(len(chunk))
                await in_thread(self._target.write, chunk)
                progressed(len(chunk))
                self._tell(total)
        self._tell(self._at, finished=True)
        return Fetched(self._at, self._seen)

    def _tell(self, total: int | None, *, already: bool = False, finished: bool = False) -> None:
        subject = shown(self._url, 200)
        self._report(
            Progress(
                Phase.DOWNLOAD, subject, self._at, total, self._resumed, already=already, finished=finished
            )
        )

    def _resuming(self) -> dict[str, str]:
        known = (self._seen or "").removeprefix(_DATED)
        return {"Range": f"bytes={self._at}-", "If-Range": known}

    def _place(self, response: aiohttp.ClientResponse) -> None:
        """Go on where the body begins: at the position asked for, or at the file's beginning."""
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != self._at or _validator(response) not in (None, self._seen):
                self._seen = None
                raise Transient(f"{self._what}: the server answered a range request with another range")
            return
        self._at = self._resumed = 0
        self._seen = _validator(response)
        self._target.restart(self._seen)


def _validator(response: aiohttp.ClientResponse) -> str | None:
    """What the file can be asked for again by (RFC 9110 section 8.8); a strong ETag before a date."""
    etag = response.headers.get("ETag", "")
    if etag and len(etag) <= 512 and etag.isprintable():
        return etag
    date = response.headers.get("Last-Modified", "")
    return f"{_DATED}{date}" if date and len(date) <= 64 and date.isprintable() else None


def _condition(validator: str | None) -> dict[str, str]:
    if validator is None:
        return {}
    if validator.startswith(_DATED):
        return {"If-Modified-Since": validator.removeprefix(_DATED)}
    return {"If-None-Match": validator}
