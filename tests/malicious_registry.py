"""A registry that lies on command: an in-process server on loopback whose every answer can be replaced by a
fault.

    async with MaliciousRegistry() as registry:
        registry.add(small_image(), "a/b", "latest")
        registry.on("/blobs/", truncate(100))          # the next request whose path holds this
        registry.at(3, status(503))                    # the fourth request of all
        registry.always("/manifests/", status(429))    # every one

``registry.seen`` lists what arrived.  A fault takes the request and the honest answer and sends something
else.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from aiohttp import web

from mesocosm.images.registry.auth import Credential
from registry_fixtures import SmallImage, sha256


@dataclass(frozen=True)
class Answer:
    """What an honest registry would say."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


Fault = Callable[[web.Request, Answer], Awaitable[web.StreamResponse]]


async def send(request: web.Request, answer: Answer, *, cut: int | None = None) -> web.StreamResponse:
    """Send ``answer``; with ``cut`` close the connection after that many bytes of the body."""
    response = web.StreamResponse(status=answer.status)
    response.headers.update(answer.headers)
    if "Content-Length" not in answer.headers and "Transfer-Encoding" not in answer.headers:
        response.content_length = len(answer.body)
    await response.prepare(request)
    if request.method != "HEAD":
        await response.write(answer.body if cut is None else answer.body[:cut])
    if cut is not None and request.transport is not None:
        request.transport.close()
        return response
    await response.write_eof()
    return response


def drop(request: web.Request) -> None:
    """Close the connection without another word."""
    if request.transport is not None:
        request.transport.abort()


def status(code: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Fault:
    """Answer with a status, headers and body."""

    async def fault(request: web.Request, _: Answer) -> web.StreamResponse:
        return await send(request, Answer(code, headers or {}, body))

    return fault


def reset() -> Fault:
    """Close the connection before any answer."""

    async def fault(request: web.Request, _: Answer) -> web.StreamResponse:
        drop(request)
        return web.StreamResponse()

    return fault


def truncate(after: int) -> Fault:
    """Promise the whole body and close after ``after`` bytes."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        return await send(request, answer, cut=after)

    return fault


def end_early(after: int) -> Fault:
    """Send a complete, valid, chunked body that is only ``after`` bytes long."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(answer.body[:after])
        await response.write_eof()
        return response

    return fault


def stall(after: int) -> Fault:
    """Send ``after`` bytes and then nothing until the client gives up."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(answer.body[:after])
        await asyncio.Event().wait()
        return response

    return fault


def mute() -> Fault:
    """Take the request and never answer."""

    async def fault(request: web.Request, _: Answer) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.StreamResponse()

    return fault


def drip(pause: float) -> Fault:
    """Send one byte each ``pause`` seconds: never silent, never done."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status)
        response.content_length = len(answer.body)
        await response.prepare(request)
        for index in range(len(answer.body)):
            await response.write(answer.body[index : index + 1])
            await asyncio.sleep(pause)
        return response

    return fault


def endless() -> Fault:
    """Send zeros for ever."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=200, headers=answer.headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    return fault


def change(function: Callable[[Answer], Answer]) -> Fault:
    """Send the honest answer after ``function`` changed it."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        return await send(request, function(answer))

    return fault


def flip_bit(at: int) -> Fault:
    """Flip one bit of the body."""

    def flipped(answer: Answer) -> Answer:
        body = bytearray(answer.body)
        body[at % len(body)] ^= 1
        return replace(answer, body=bytes(body))

    return change(flipped)


def for_method(method: str, fault: Fault) -> Fault:
    """Have a fault for requests of one method alone."""

    async def chosen(request: web.Request, answer: Answer) -> web.StreamResponse:
        return await (fault(request, answer) if request.method == method else send(request, answer))

    return chosen


def tells_nothing() -> Fault:
    """Send the honest body in pieces, so that neither its length nor its version is told before it ends."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=200)
        response.enable_chunked_encoding()
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(answer.body)
            await response.write_eof()
        return response

    return fault


def redirect(location: str, code: int = 307) -> Fault:
    """Send the client elsewhere."""
    return status(code, {"Location": location})


def raw(data: bytes) -> Fault:
    """Send these bytes in place of an answer: what no library would write."""

    async def fault(request: web.Request, _: Answer) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.write(data)
            request.transport.close()
        return web.StreamResponse()

    return fault


def headers(**values: str) -> Fault:
    """Send the honest answer with other headers; ``_`` stands for ``-``, an empty value removes."""

    def changed(answer: Answer) -> Answer:
        named = {name.replace("_", "-"): value for name, value in values.items()}
        merged = {**answer.headers, **named}
        return replace(answer, headers={name: value for name, value in merged.items() if value})

    return change(changed)


class MaliciousRegistry:
    """An honest registry, but for what it is told.  An async context; ``host`` is ``127.0.0.1:port``."""

    def __init__(self, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.host = ""
        self.port = 0
        self.seen: list[Seen] = []
        self.connections = 0
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.tags: dict[str, list[str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.begun = 0
        self.ranges = True
        self.etags = True
        self.credentials: tuple[str, str] | None = None
        self.challenge = ""
        self.token = ""
        self.token_reply: bytes | None = None
        self._tls = tls
        self._at: dict[int, Fault] = {}
        self._next: list[tuple[str, Fault]] = []
        self._always: list[tuple[str, Fault]] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def add(self, image: SmallImage, repository: str, tag: str) -> None:
        """Serve an image under a tag and its digest."""
        self.blobs.update(image.blobs)
        self.serve_manifest(repository, tag, image.manifest, image.media_type)

    def serve_manifest(self, repository: str, tag: str, data: bytes, media_type: str) -> None:
        """Serve any bytes as a manifest."""
        self.manifests[repository, tag] = (data, media_type)
        self.manifests[repository, sha256(data)] = (data, media_type)
        self.tags.setdefault(repository, []).append(tag)

    def at(self, index: int, fault: Fault) -> None:
        """Answer the request with this index with a fault."""
        self._at[index] = fault

    def on(self, part: str, *faults: Fault) -> None:
        """Answer the next requests whose path holds ``part`` with these faults, one each."""
        self._next += [(part, fault) for fault in faults]

    def always(self, part: str, fault: Fault) -> None:
        """Answer every request whose path holds ``part`` with a fault."""
        self._always.append((part, fault))

    def honest(self) -> None:
        """Forget every fault."""
        self._at, self._next, self._always = {}, [], []

    def require_basic(self, user: str, password: str) -> None:
        """Ask for a user name and password."""
        self.credentials = (user, password)
        self.challenge = 'Basic realm="test"'

    def require_token(self, *, realm: str | None = None, user: tuple[str, str] | None = None) -> None:
        """Ask for a Bearer token from ``realm``, by default this server's own ``/token``."""
        self.token = "good-token"
        self.credentials = user
        self.challenge = f'Bearer realm="{realm or self.url + "/token"}",service="test"'

    def paths(self, part: str = "") -> list[str]:
        """Return the paths that arrived and hold ``part``."""
        return [one.path for one in self.seen if part in one.path]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", r"/{path:[\s\S]*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        listener = socket.create_server((self.address, 0), family=family, backlog=128)
        self.port = listener.getsockname()[1]
        self.host = f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
        await web.SockSite(self._runner, listener, ssl_context=self._tls).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        index = len(self.seen)
        named = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path_qs, named))
        answer = await self._honest(request)
        fault = self._fault_for(index, request.path_qs)
        return await (fault(request, answer) if fault else send(request, answer))

    def _fault_for(self, index: int, path: str) -> Fault | None:
        if index in self._at:
            return self._at.pop(index)
        for number, (part, fault) in enumerate(self._next):
            if part in path:
                del self._next[number]
                return fault
        return next((fault for part, fault in self._always if part in path), None)

    async def _honest(self, request: web.Request) -> Answer:
        sent = await request.read()
        if request.path == "/token":
            return self._grant(request)
        if self.challenge and not self._is_known(request):
            body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}).encode()
            return Answer(401, {"WWW-Authenticate": self.challenge}, body)
        path = request.path.removeprefix("/v2/")
        if "/blobs/uploads/" in path:
            return self._upload(request, path, sent)
        repository, kind, name = path, "", ""
        for marker in ("/manifests/", "/blobs/", "/tags/", "/referrers/"):
            if marker in path:
                repository, _, name = path.partition(marker)
                kind = marker.strip("/")
        if kind == "manifests" and request.method == "PUT":
            self.serve_manifest(repository, name, sent, request.headers.get("Content-Type", ""))
            return Answer(201)
        if kind == "manifests":
            return self._manifest(request, repository, name)
        if kind == "blobs":
            return self._blob(request, name)
        if kind == "tags":
            listing = {"name": repository, "tags": self.tags.get(repository, [])}
            return Answer(headers={"Content-Type": "application/json"}, body=json.dumps(listing).encode())
        return Answer(200 if not path else 404)

    def _upload(self, request: web.Request, path: str, sent: bytes) -> Answer:
        """The steps of an upload: begin, append, ask how far, close; or cancel."""
        name = path.rpartition("/")[2]
        if request.method == "POST":
            name = f"upload{self.begun}"
            self.begun += 1
            self.uploads[name] = bytearray()
        held = self.uploads.get(name)
        if held is None:
            return Answer(404)
        if request.method == "DELETE":
            del self.uploads[name]
            return Answer(204)
        if request.method == "PATCH":
            first = int(request.headers.get("Content-Range", "0").partition("-")[0])
            if first != len(held):
                return Answer(416)
        held += sent
        named = {"Location": f"/v2/a/b/blobs/uploads/{name}", "Range": f"0-{max(0, len(held) - 1)}"}
        if request.method != "PUT":
            return Answer(204 if request.method == "GET" else 202, named)
        if sha256(bytes(held)) != request.query.get("digest"):
            return Answer(400, body=b'{"errors": [{"code": "DIGEST_INVALID", "message": "other bytes"}]}')
        self.blobs[sha256(bytes(held))] = bytes(held)
        del self.uploads[name]
        return Answer(201, named)

    def _is_known(self, request: web.Request) -> bool:
        sent = request.headers.get("Authorization", "")
        if self.token:
            return sent == f"Bearer {self.token}"
        return self.credentials is not None and sent == basic(*self.credentials)

    def _grant(self, request: web.Request) -> Answer:
        sent = request.headers.get("Authorization", "")
        if self.credentials and request.method == "GET" and sent != basic(*self.credentials):
            return Answer(401)
        body = self.token_reply or json.dumps({"token": self.token, "expires_in": 300}).encode()
        return Answer(headers={"Content-Type": "application/json"}, body=body)

    def _manifest(self, request: web.Request, repository: str, name: str) -> Answer:
        found = self.manifests.get((repository, name))
        if found is None:
            body = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such manifest"}]})
            return Answer(404, body=body.encode())
        data, media_type = found
        etag = f'"{sha256(data)}"'
        named = {"Content-Type": media_type, "Docker-Content-Digest": sha256(data), "ETag": etag}
        if request.headers.get("If-None-Match") == etag:
            return Answer(304, {"ETag": etag})
        return Answer(200, named, data)

    def _blob(self, request: web.Request, name: str) -> Answer:
        data = self.blobs.get(name)
        if data is None:
            return Answer(404)
        named = {"Content-Type": "application/octet-stream"}
        if self.etags:
            named["ETag"] = f'"{name}"'
        asked = request.headers.get("Range", "")
        if asked and self.ranges:
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            named["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return Answer(206, named, data[first:])
        return Answer(200, named, data)


def basic(user: str, password: str) -> str:
    """Return the header value of Basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Joe:
    """A source of credentials that has the same for every registry."""

    async def find(self, registry: str, repository: str = "") -> Credential:
        """As `CredentialSource.find`."""
        del registry, repository
        return Credential("joe", "s3cr3t-w0rd")
