"""``WWW-Authenticate``: what a registry asks for (RFC 9110 section 11.6.1), read strictly and without I/O.

challenge  = scheme [ 1*SP ( token68 / #auth-param ) ]
auth-param = token BWS "=" BWS ( token / quoted-string )
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from mesocosm.errors import Corrupt
from mesocosm.images.foreign import shown

HEADER_LIMIT = 8192
CHALLENGE_LIMIT = 16

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=[ \t]*(?:,|\Z)))", re.ASCII)
_PARAM = re.compile(
    rf'({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*)")', re.ASCII
)
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|\Z))", re.ASCII)
_COMMAS = re.compile(r"[ \t]*(?:,[ \t]*)*")
_COMMA = re.compile(r"[ \t]*,[ \t,]*")


class Challenge(msgspec.Struct, frozen=True):
    """One way the server accepts.  ``scheme`` and the names of ``params`` are lower case."""

    scheme: str
    params: dict[str, str] = {}


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Return the challenges of all ``WWW-Authenticate`` headers in order; Corrupt when one cannot be read."""
    found: list[Challenge] = []
    for header in headers:
        if len(header) > HEADER_LIMIT:
            raise Corrupt("the registry's WWW-Authenticate header is too long")
        found += _Scanner(header.strip(" \t")).challenges()
        if len(found) > CHALLENGE_LIMIT:
            raise Corrupt("the registry's WWW-Authenticate header lists too many challenges")
    return tuple(found)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def challenges(self) -> list[Challenge]:
        found: list[Challenge] = []
        self._take(_COMMAS)
        while self._at < len(self._text):
            found.append(self._challenge())
            if self._at < len(self._text) and self._take(_COMMA) is None:
                raise self._malformed()
        return found

    def _challenge(self) -> Challenge:
        scheme = self._take(_SCHEME)
        if scheme is None:
            raise self._malformed()
        return Challenge(scheme[1].lower(), self._params())

    def _params(self) -> dict[str, str]:
        params: dict[str, str] = {}
        while True:
            param = self._take(_PARAM)
            if param is None:
                if not params:
                    self._take(_TOKEN68)
                return params
            name = param[1].lower()
            if name in params:
                raise self._malformed()
            params[name] = param[2] or re.sub(r"\\(.)", r"\1", param[3] or "")
            before = self._at
            if self._take(_COMMA) is None:
                return params
            if _PARAM.match(self._text, self._at) is None:
                self._at = before
                return params

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def _malformed(self) -> Corrupt:
        return Corrupt(f"the registry's WWW-Authenticate header is malformed: {shown(self._text, 120)!r}")
