"""Authentication as levels, without I/O (distribution spec "Authentication"; docker's token and OAuth2
pages).

    level       sends              may escalate to
    anonymous   nothing            bearer, basic
    basic       user:password      bearer
    bearer      a token            bearer (once more: expired, or a wider scope)

A client asks :meth:`Authenticator.header` for what to send.  On 401 it hands the challenges to
:meth:`Authenticator.refused`, which returns a :class:`TokenRequest` to carry out, or None for "just try
again", or raises Denied when no level is left.  Tokens and passwords belong to one origin and go nowhere
else (attacks G-03).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlencode

import msgspec
from yarl import URL

from mesocosm.errors import Corrupt, Denied
from mesocosm.images.foreign import shown
from mesocosm.images.registry.challenge import Challenge
from mesocosm.images.registry.origin import Origin, next_url
from mesocosm.images.strict import Fields, load

ESCALATES: Final[dict[str, tuple[str, ...]]] = {
    "anonymous": ("bearer", "basic"),
    "basic": ("bearer",),
    "bearer": ("bearer",),
}

DEFAULT_LIFETIME: Final = 60
"""Seconds a token lives when the reply does not say (docker's token specification)."""

TOKEN_LIMIT: Final = 64 << 10
CLIENT_ID: Final = "mesocosm"


class Credential(msgspec.Struct, frozen=True):
    """A user and a password, an identity (refresh) token for the token server, or a bearer token that the
    registry itself takes.  Never shown: ``repr`` hides all secrets.
    """

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        kind = "identity token" if self.identity_token else "password"
        kind = "registry token" if self.registry_token else kind
        return f"Credential({self.username!r}, {kind} hidden)"

    __str__ = __repr__


class TokenRequest(msgspec.Struct, frozen=True):
    """A request for a token: GET, or POST when ``form`` is given.  ``key`` is handed back with the reply.

    ``otherwise`` is what a server that does not know this way (404, 405) is asked instead.
    """

    url: str
    key: str
    authorization: str | None = None
    form: str | None = None
    otherwise: TokenRequest | None = None

    def __repr__(self) -> str:
        return f"TokenRequest({URL(self.url).with_query(None)}, secrets hidden)"

    __str__ = __repr__


class _Token(msgspec.Struct, frozen=True):
    value: str
    expires: float

    def __repr__(self) -> str:
        return "_Token(hidden)"


class Authenticator:
    """The state of being known to one registry endpoint.

    ``registry`` is the name users know it by, for messages.  ``clock`` is monotonic seconds.  ``offline``
    asks token servers for a refresh token too.
    """

    def __init__(
        self,
        registry: str,
        origin: Origin,
        credential: Credential | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        offline: bool = False,
    ) -> None:
        self._registry = registry
        self._origin = origin
        self._credential = credential
        self._clock = clock
        self._basic = False
        self._given = False
        self._asked = False
        self._tokens: dict[str, _Token] = {}
        self._refresh = credential.identity_token if credential else ""
        self._offline = offline

    @property
    def identity_token(self) -> str:
        """The refresh token to be used from now on: the last that a token server gave, else the one known."""
        return self._refresh

    @property
    def asked(self) -> bool:
        """Whether the server has wanted to know who asks."""
        return self._asked

    def header(self, scope: str) -> str | None:
        """Return the ``Authorization`` value to send for ``scope``, None for none."""
        if self._given and self._credential is not None:
            return f"Bearer {self._credential.registry_token}"
        token = self._tokens.get(scope)
        if token is not None and token.expires > self._clock():
            return f"Bearer {token.value}"
        return self._basic_header() if self._basic else None

    def level(self, scope: str) -> str:
        """Return the level that :meth:`header` speaks at for ``scope``."""
        value = self.header(scope) or ""
        return value.partition(" ")[0].lower() or "anonymous"

    def refused(self, challenges: Sequence[Challenge], scope: str, level: str) -> TokenRequest | None:
        """Escalate after a 401 to a request sent at ``level``.

        Returns the token request to carry out, or None when the next :meth:`header` is already another one.
        Raises Denied when the server wants what cannot be given.
        """
        self._asked = True
        offered = {one.scheme: one for one in challenges}
        for step in ESCALATES[level]:
            if step == "bearer" and "bearer" in offered and self._given_token():
                if self._given:
                    break  # it is all there is: token servers do not know it
                self._given = True
                return None
            if step == "bearer" and "bearer" in offered:
                self._tokens.pop(scope, None)
                return self._token_request(offered["bearer"], scope)
            if step == "basic" and "basic" in offered and self._basic_header() is not None:
                self._basic = True
                return None
        raise self.denied()

    def granted(self, key: str, body: bytes) -> None:
        """Take a token server's reply to the request with this ``key``; Corrupt when it holds no usable
        token.
        """
        reply = Fields(load(body, "token reply", limit=TOKEN_LIMIT), "token reply", ())
        value = reply.text("token") or reply.text("access_token")
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise Corrupt(f"the token server of {self._registry} answered without a usable token")
        lifetime = reply.integer("expires_in") or DEFAULT_LIFETIME
        # Renewed at nine tenths of its life: the request carrying it takes time to arrive.
        self._tokens[key] = _Token(value, self._clock() + 0.9 * min(max(lifetime, DEFAULT_LIFETIME), 3600))
        refresh = reply.text("refresh_token")
        if refresh and refresh.isprintable() and (self._refresh or self._offline):
            self._refresh = refresh

    def denied(self, challenges: Sequence[Challenge] = (), what: str = "") -> Denied:
        """Return the error for a refusal that no level overcomes; ``challenges`` came with it.

        A token of too narrow a scope is told from a wrong password (RFC 6750 section 3.1).
        """
        log_in = f"log in with mesocosm login {self._registry}"
        if any(one.params.get("error") == "insufficient_scope" for one in challenges):
            known = self._credential is not None and self._credential.username
            who = shown(known, 60) if known else "this login" if self._credential else "those without a login"
            return Denied(
                f"registry {self._registry} does not let {who} do this: {what}",
                hint=f"ask for the right to it, or {log_in} as somebody who has it",
            )
        if self._credential is None:
            # Docker Hub answers so for names that do not exist, too.
            why, hint = "asks for credentials and there are none for it", f"check the name, or {log_in}"
        else:
            user = shown(self._credential.username or "this token", 60)
            why, hint = f"refuses the credentials of {user}", f"check the password, and {log_in}"
        return Denied(f"registry {self._registry} {why}", hint=hint)

    def _given_token(self) -> str:
        """A bearer token that is sent as it is, before all else that is known (docker's order)."""
        return self._credential.registry_token if self._credential is not None else ""

    def _basic_header(self) -> str | None:
        credential = self._credential
        if credential is None or not credential.username:
            return None
        pair = f"{credential.username}:{credential.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    def _token_request(self, challenge: Challenge, scope: str) -> TokenRequest:
        realm = check_realm(self._origin, challenge.params.get("realm", ""), self._registry)
        # Some registries name no service or no scope (MESOS-10092): what was asked for is known.
        service = challenge.params.get("service") or self._origin.host
        scopes = (challenge.params.get("scope") or scope).split()
        fields = [("service", service), *(("scope", one) for one in _united(scopes, scope.split()))]
        if self._refresh:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._refresh,
                "client_id": CLIENT_ID,
                "service": service,
                "scope": " ".join(value for _, value in fields[1:]),
            }
            return TokenRequest(str(realm), scope, form=urlencode(form))
        username = self._credential.username if self._credential else ""
        if not username:
            return TokenRequest(str(realm.extend_query(fields)), scope)
        fields.append(("account", username))
        if self._offline:
            fields += [("offline_token", "true"), ("client_id", CLIENT_ID)]
        url = str(realm.extend_query(fields))
        posted = TokenRequest(str(realm), scope, form=self._password_form(service, fields))
        return TokenRequest(url, scope, authorization=self._basic_header(), otherwise=posted)

    def _password_form(self, service: str, fields: Sequence[tuple[str, str]]) -> str:
        """The OAuth2 form of the same request, for token servers that take no GET."""
        form = {
            "grant_type": "password",
            "username": self._credential.username if self._credential else "",
            "password": self._credential.password if self._credential else "",
            "client_id": CLIENT_ID,
            "service": service,
            "scope": " ".join(value for name, value in fields if name == "scope"),
        }
        return urlencode(form | ({"access_type": "offline"} if self._offline else {}))


def check_realm(origin: Origin, realm: str, registry: str) -> URL:
    """Return the token server's URL when ``origin`` may name it: https, or plain http on the same
    plain-http host.

    Anything else would send the password in clear, or to whom it was not given.  Raises Denied.
    """
    here = URL(str(origin))
    target = next_url(here, realm, f"the token realm of {registry}")
    if target.scheme != "https" and Origin.of(target).host != origin.host:
        raise Denied(
            f"registry {registry} wants its credentials sent to {shown(Origin.of(target), 80)}, in clear",
            hint="the token server must use https",
        )
    return target


def _united(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))
