"""HTTP to one endpoint: redirects, authentication and retries, all under limits and all done here.

The HTTP library follows nothing, remembers nothing and reads nothing from the environment: redirects are
ours because credentials and addresses are checked at each (attacks G-03, G-04, G-05), cookies are dropped,
``.netrc`` and proxy variables are not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Literal, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mesocosm.errors import Denied, MesocosmError, Unavailable
from mesocosm.images.registry import body as bodies
from mesocosm.images.registry.auth import Authenticator, Credential, TokenRequest
from mesocosm.images.registry.challenge import Challenge, parse_challenges
from mesocosm.images.registry.faults import Transient, status_fault, wire_fault
from mesocosm.images.registry.hosts import Endpoint, Tls
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.origin import Guard, Origin, next_url
from mesocosm.images.registry.retry import Retry
from mesocosm.images.registry.throttle import Throttle
from mesocosm.images.registry.warnings import Warnings

Result = TypeVar("Result")
Body = bytes | Callable[[], AsyncIterable[bytes]] | None
"""What is sent: bytes, or what opens them, once for each time that they are sent."""

Renew = Callable[[str, str], Awaitable[object]]
"""Keeps the second identity token where the first is kept."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
AUTH_ROUNDS: Final = 3
READ_BUFFER: Final = 256 << 10
"""Bytes the socket may run ahead of the reader, twice.  Larger pieces make malloc map and unmap each one."""

USER_AGENT: Final = "mesocosm"
_PLAIN: Final = Tls()


def with_query(url: URL, name: str, value: str) -> URL:
    """Return a URL with one more member in its query, and the others as they were written."""
    if name in url.query:
        return url.update_query({name: value})
    text, member = str(url), urlencode({name: value}, safe=":/")
    return URL(f"{text}{'&' if url.raw_query_string else '?'}{member}", encoded=True)


class Reply(msgspec.Struct, frozen=True):
    """An answer read whole.  ``headers`` are looked up without regard to case; ``url`` is where it finally
    came from.
    """

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: str


class Transport:
    """One endpoint's connections.  An async context; ``registry`` is the name users know it by."""

    def __init__(
        self,
        registry: str,
        endpoint: Endpoint,
        credential: Credential | None,
        *,
        limits: Limits,
        deny_private: bool = False,
        throttle: Throttle | None = None,
        offline: bool = False,
        renew: Renew | None = None,
    ) -> None:
        """``offline`` asks token servers for a token that outlives this client, see `identity_token`;
        ``renew`` keeps one that the token server gives in place of the credential's.
        """
        self.registry = registry
        self.throttle = throttle
        self.endpoint = endpoint
        self.limits = limits
        if endpoint.connect is not None:
            self.limits = msgspec.structs.replace(limits, connect=endpoint.connect)
        self._origin = Origin.of(endpoint.api)
        self._guard = Guard(self._origin.host, deny_private=deny_private, trusted=endpoint.proxies.hosts)
        self._auth = Authenticator(registry, self._origin, credential, offline=offline)
        self._renew = renew
        self._auth_lock = asyncio.Lock()
        self._spoken = False
        self._warnings = Warnings()
        self._contexts: dict[Tls, ssl.SSLContext] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Transport:
        self._session = self._open_session()
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def identity_token(self) -> str:
        """The refresh token that the token server gave; empty when there is none."""
        return self._auth.identity_token

    @property
    def asked(self) -> bool:
        """Whether the server has wanted credentials, and so looked at ours."""
        return self._auth.asked

    def url(self, path: str) -> URL:
        """Return the URL of an API path such as ``library/debian/tags/list``."""
        return self.for_mirror(URL(f"{self.endpoint.api}/{path}", encoded=True))

    def for_mirror(self, url: URL) -> URL:
        """Return a URL of this endpoint that tells a mirror which registry is meant."""
        return with_query(url, "ns", self.endpoint.mirrored) if self.endpoint.mirrored else url

    def follow(self, current: str, location: str | None, what: str) -> URL:
        """Return a URL that an answer points to; Denied when it may not be followed."""
        return next_url(URL(current, encoded=True), location, what)

    def is_own(self, url: URL) -> bool:
        """Whether ``url`` lies on this endpoint's origin, where its credentials are sent."""
        return Origin.of(url) == self._origin

    def new_warnings(self) -> tuple[str, ...]:
        """Return what the server wanted people to be told since this was last asked, each text once."""
        return self._warnings.take()

    async def take(self, count: int) -> None:
        """Wait until that many bytes of a blob are within the rate that is allowed."""
        if self.throttle is not None:
            await self.throttle.take(count)

    async def call(
        self,
        method: str,
        url: URL,
        *,
        scope: str,
        what: str,
        accept: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most: int | None = None,
    ) -> Reply:
        """Return the answer, read whole, once its status is one of ``accept``.

        Other statuses are raised as what they mean; passing failures are retried.  ``what`` names the thing
        asked for.
        """

        async def attempt() -> Reply:
            async with self.exchange(
                method, url, scope=scope, what=what, headers=headers, body=body
            ) as response:
                await self.expect(response, accept, what)
                data = b""
                if method != "HEAD":
                    data = await bodies.read(response, self.limits, what, most or self.limits.reply)
                return Reply(response.status, response.headers, data, str(response.url))

        return await self.retrying(attempt, Retry(self.limits))

    async def retrying(self, attempt: Callable[[], Awaitable[Result]], retry: Retry) -> Result:
        """Run ``attempt`` until it returns, fails for good, or ``retry`` gives up."""
        while True:
            try:
                return await attempt()
            except Transient as error:
                await self.pause(retry, error)

    async def pause(self, retry: Retry, error: Transient) -> None:
        """Wait as ``retry`` says after ``error``, or raise it when there is no more trying."""
        delay = retry.delay(error.retry_after)
        if delay is None:
            raise Unavailable(error.message, hint=error.hint) from error
        await asyncio.sleep(delay)

    async def expect(self, response: aiohttp.ClientResponse, accept: tuple[int, ...], what: str) -> None:
        """Raise what the status means unless it is one of ``accept``."""
        if response.status in accept:
            return
        text = b""
        with contextlib.suppress(MesocosmError):
            text = await bodies.read(response, self.limits, "error body", 64 << 10)
        raise status_fault(
            response.status,
            text,
            registry=self.registry,
            what=what,
            retry_after=response.headers.get("Retry-After"),
        )

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: URL,
        *,
        scope: str,
        what: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        patience: float = 0.0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, with its redirects and the steps of authentication, as an open response of any status.

        ``patience`` is added to the header limit: the seconds that sending ``body`` may take.
        """
        response = await self._authenticated(method, url, scope, what, headers or {}, body, patience)
        try:
            yield response
        finally:
            response.release()

    async def _authenticated(
        self,
        method: str,
        url: URL,
        scope: str,
        what: str,
        headers: Mapping[str, str],
        body: Body,
        patience: float,
    ) -> aiohttp.ClientResponse:
        challenges: tuple[Challenge, ...] = ()
        for _ in range(AUTH_ROUNDS):
            sent, level = self._auth.header(scope), self._auth.level(scope)
            response = await self._followed(method, url, sent, what, headers, body, patience)
            # A stranger's 401 is not asked what it wants: the answer would be credentials (CVE-2020-15157).
            if response.status != 401 or not self.is_own(response.url):
                return response
            try:
                challenges = parse_challenges(response.headers.getall("WWW-Authenticate", ()))
            finally:
                response.release()
            async with self._auth_lock:
                if self._auth.header(scope) == sent:
                    request = self._auth.refused(challenges, scope, level)
                    if request is not None:
                        await self._fetch_token(request)
        raise self._auth.denied(challenges, what)

    async def _followed(
        self,
        method: str,
        url: URL,
        authorization: str | None,
        what: str,
        headers: Mapping[str, str],
        body: Body,
        patience: float,
    ) -> aiohttp.ClientResponse:
        for _ in range(self.limits.redirects + 1):
            full = CIMultiDict(headers)
            if self.is_own(url):
                full.extend(self.endpoint.headers)
                if authorization is not None:
                    full["Authorization"] = authorization
            response = await self._single(method, url, full, body, patience)
            if response.status not in REDIRECTS:
                return response
            response.release()
            if method not in ("GET", "HEAD"):
                raise Unavailable(f"registry {self.registry} answers {method} for {what} with a redirect")
            url = next_url(url, response.headers.get("Location"), what)
        raise Unavailable(
            f"registry {self.registry} redirects {what} more than {self.limits.redirects} times"
        )

    async def _single(
        self, method: str, url: URL, headers: CIMultiDict[str], body: Body, patience: float
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the transport is not open")
        self._guard.check_literal(url.host or "")
        try:
            async with asyncio.timeout(self.limits.connect + self.limits.header + patience):
                response = await self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=body() if callable(body) else body,
                    allow_redirects=False,
                    proxy=self.endpoint.proxies.of(url),
                    ssl=self._context_for(url) if url.scheme == "https" else True,
                )
        except (aiohttp.ClientError, OSError, ValueError, Denied) as error:
            where = str(Origin.of(url))
            fault = wire_fault(error, registry=self.registry, where=where, spoken=self._spoken)
            raise fault from None
        self._spoken = True
        if self.is_own(url):
            self._warnings.note(response.headers.getall("Warning", ()))
        return response

    def _context_for(self, url: URL) -> ssl.SSLContext | Literal[True]:
        """Return the TLS settings for a server: the endpoint's on its own host, elsewhere only its CA.

        True where nothing is asked for but the host's own authorities: aiohttp has read those when it was
        imported, and reading them takes as long as a small pull.
        """
        tls = self.endpoint.tls
        if (url.host or "").lower() != self._origin.host:
            tls = tls.elsewhere
        if tls == _PLAIN:
            return True
        if tls not in self._contexts:
            self._contexts[tls] = tls.context()
        return self._contexts[tls]

    async def _fetch_token(self, request: TokenRequest) -> None:
        """Carry out a token request; its credentials go to its own origin only, and never past a redirect."""
        what = f"the token server of {self.registry}"
        url = URL(request.url)

        async def attempt() -> bytes | None:
            headers = CIMultiDict({"Accept": "application/json"})
            method, body = "GET", None
            if request.authorization is not None:
                headers["Authorization"] = request.authorization
            if request.form is not None:
                method, body = "POST", request.form.encode("ascii")
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            response = await self._single(method, url, headers, body, 0.0)
            try:
                if response.status in (404, 405) and request.otherwise is not None:
                    return None
                if response.status in (400, 401, 403):
                    raise self._auth.denied()
                await self.expect(response, (200,), what)
                return await bodies.read(response, self.limits, what, 64 << 10)
            finally:
                response.release()

        reply = await self.retrying(attempt, Retry(self.limits))
        if reply is not None:
            before = self._auth.identity_token
            self._auth.granted(request.key, reply)
            await self._keep(before, self._auth.identity_token)
        elif request.otherwise is not None:
            await self._fetch_token(request.otherwise)

    async def _keep(self, old: str, new: str) -> None:
        """Keep an identity token that came in place of another; what is asked for goes on without."""
        if self._renew is None or not old or old == new:
            return
        try:
            await self._renew(old, new)
        except (MesocosmError, OSError) as error:
            self._warnings.say(f"its new identity token was not kept: {error}; log in again")

    def _open_session(self) -> aiohttp.ClientSession:
        if self._origin.scheme == "https":
            self._context_for(self.endpoint.api)  # files that cannot be used are told of at once
        connector = aiohttp.TCPConnector(resolver=self._guard, limit=16, use_dns_cache=False)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BUFFER,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        )
