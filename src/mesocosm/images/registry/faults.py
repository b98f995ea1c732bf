"""What a registry's refusals mean: HTTP statuses, docker's error bodies and failures of the wire, as our
errors.
"""

from __future__ import annotations

import os
import re
import socket
import ssl

import aiohttp

from mesocosm.errors import Denied, MesocosmError, NotFound, Unavailable, Unsupported
from mesocosm.images.foreign import shown
from mesocosm.images.registry.retry import STATUSES
from mesocosm.images.strict import load

MESSAGE_LIMIT = 300

_WANTS_TLS = re.compile(rb"HTTPS (?:server|port)|SSL-enabled server")
"""What Go's, nginx' and Apache's servers answer to plain HTTP on a port for TLS."""


class Transient(Unavailable):
    """A failure that may pass.  ``retry_after`` is the header's value as received."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


def message_of(body: bytes) -> str:
    """Return the messages of docker's error body ``{"errors": [{"code", "message"}]}`` on one line, else
    nothing.
    """
    try:
        errors = load(body, "error body").get("errors")
    except MesocosmError:
        return ""
    found = []
    for entry in errors if isinstance(errors, list) else []:
        if isinstance(entry, dict):
            text = entry.get("message") or entry.get("code")
            if isinstance(text, str) and text:
                found.append(shown(text, MESSAGE_LIMIT))
    return shown("; ".join(found[:5]), MESSAGE_LIMIT)


def status_fault(
    status: int, body: bytes, *, registry: str, what: str, retry_after: str | None = None
) -> MesocosmError:
    """Return the error for an answer with ``status``; ``what`` names the thing asked for."""
    message = message_of(body)
    said = f": {message}" if message else ""
    if status in (401, 403):
        hint = f"log in with mesocosm login {registry}"
        return Denied(f"registry {registry} refuses {what}{said}", hint=hint)
    if status == 404:
        hint = f"check its name and tag; a private one needs mesocosm login {registry}"
        return NotFound(f"registry {registry} has no {what}{said}", hint=hint)
    if status in (405, 501):
        return Unsupported(f"registry {registry} does not support this for {what}{said}")
    if status == 429:
        hint = f"wait, or log in with mesocosm login {registry} for a higher limit"
        text = f"registry {registry} limits the rate of requests{said}"
        return Transient(text, hint=hint, retry_after=retry_after)
    if status == 400 and _WANTS_TLS.search(body):
        return _speaks_tls(registry)
    text = f"registry {registry} answered {status} for {what}{said}"
    if status in STATUSES:
        return Transient(text, hint="its own logs say why", retry_after=retry_after)
    return Unavailable(text)


def wire_fault(error: Exception, *, registry: str, where: str, spoken: bool) -> MesocosmError:
    """Return the error for a failed exchange with ``where``.

    ``spoken``: this server has answered before, so that a refused connection may be a restart and not a
    typing error.
    """
    if isinstance(error, MesocosmError):
        return error
    if isinstance(error, TimeoutError):
        return Transient(
            f"registry {registry} ({where}) does not answer", hint="check the network and the name"
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _proxy_fault(error, registry)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        hint = "see proxy in its hosts.toml"
        return Unavailable(f"registry {registry}: its proxy cannot be reached", hint=hint)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        hint = f"put its CA into /etc/mesocosm/certs.d/{registry}/ca.crt; plain http is never tried instead"
        return Denied(f"registry {registry} ({where}) is not trusted: {_tls_reason(error)}", hint=hint)
    if _WANTS_TLS.search(str(error).encode(errors="replace")):
        return _speaks_tls(registry)
    # A certificate error is a ValueError too, so this comes after.
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return Denied(f"registry {registry} leads to {shown(where, 80)}, which is not a server's address")
    if isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(
        getattr(error, "os_error", None), socket.gaierror
    ):
        return Unavailable(
            f"registry {registry}: no address for {where}", hint="check the name and the resolver"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        reason = os.strerror(number).lower() if number else shown(error.os_error, 120)
        text = f"registry {registry} ({where}) cannot be reached: {reason}"
        hint = "check that it runs and that a firewall lets us through"
        return Transient(text, hint=hint) if spoken else Unavailable(text, hint=hint)
    if isinstance(error, aiohttp.ClientResponseError):  # what was read makes no answer
        reason = shown(error.message.partition("\n")[0].rstrip(":").lower() or "it is malformed", 60)
        text = f"registry {registry} ({where}) answers what cannot be read as HTTP: {reason}"
        return Transient(text, hint="check its name and port")
    return Transient(f"registry {registry} ({where}) broke off: {shown(error, 120) or type(error).__name__}")


def _speaks_tls(registry: str) -> MesocosmError:
    hint = f'put server = "https://{registry}" into /etc/mesocosm/certs.d/{registry}/hosts.toml'
    return Unavailable(f"registry {registry} is asked by plain http and speaks https", hint=hint)


def _proxy_fault(error: aiohttp.ClientHttpProxyError, registry: str) -> MesocosmError:
    """What a proxy's refusal to lead anywhere means; its address, which may hold a password, is not told."""
    text = f"registry {registry}: its proxy answered {error.status}"
    if error.status in (403, 407):
        return Denied(text, hint="see proxy in its hosts.toml: http://USER:PASSWORD@HOST:PORT")
    return Transient(text) if error.status in STATUSES else Unavailable(text)


def _tls_reason(error: Exception) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    text = getattr(inner, "verify_message", None) or getattr(inner, "reason", None) or inner
    return shown(text, 160)
