"""Content digests: ``algorithm:hex`` (OCI image spec, "Digests"), and the check of a stream against one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Protocol

import msgspec

from mesocosm.errors import Corrupt, InvalidConfig
from mesocosm.images.foreign import shown

HEX_LENGTH = {"sha256": 64, "sha512": 128}
"""Registered algorithms (OCI image spec) and the length of their hex form; others are refused."""

_GRAMMAR = re.compile(r"(sha256):([a-f0-9]{64})|(sha512):([a-f0-9]{128})", re.ASCII)
_LOWER_HEX = re.compile(r"[a-f0-9]+", re.ASCII)


class Digest(msgspec.Struct, frozen=True, order=True):
    """A digest whose grammar has been checked: safe as a file name and in a URL.

    ``algorithm`` is ``sha256`` or ``sha512``, ``hex`` lower case and of the algorithm's exact length.
    Raises InvalidConfig when built from anything else (attacks G-01, CVE-2024-3727).
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        if len(self.hex) != HEX_LENGTH.get(self.algorithm, -1) or not _LOWER_HEX.fullmatch(self.hex):
            raise InvalidConfig(f"not a digest: {shown(self, 160)!r}", hint="expected sha256:<64 hex digits>")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest written as ``algorithm:hex``; raises InvalidConfig."""
        match = _GRAMMAR.fullmatch(text)
        if match is None:
            raise InvalidConfig(f"not a digest: {shown(text, 160)!r}", hint="expected sha256:<64 hex digits>")
        return cls(match[1] or match[3], match[2] or match[4])

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of ``data``."""
        if algorithm not in HEX_LENGTH:
            raise InvalidConfig(
                f"unknown digest algorithm {shown(algorithm, 40)!r}", hint="use sha256 or sha512"
            )
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    @property
    def short(self) -> str:
        """The first twelve hex digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Hash(Protocol):
    """The part of a hashlib object that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def new_hash(algorithm: str) -> Hash:
    """Return a fresh hash object for one of :data:`HEX_LENGTH`'s algorithms."""
    return hashlib.new(algorithm, usedforsecurity=True)


class Verifier:
    """Checks a stream against the digest and the size its descriptor names, without holding it.

    ``update`` raises Corrupt as soon as there are more bytes than promised, so an endless body ends at its
    promise; ``finish`` raises Corrupt when there were fewer or their digest differs.  ``size`` None means
    "not known". ``what`` names the bytes in messages.
    """

    def __init__(self, digest: Digest, size: int | None, *, what: str = "blob") -> None:
        self.digest = digest
        self.size = size
        self.seen = 0
        self._what = what
        self._hash = new_hash(digest.algorithm)

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream."""
        self.seen += len(chunk)
        if self.size is not None and self.seen > self.size:
            raise Corrupt(
                f"{self._what} {self.digest} is longer than the {self.size} bytes its descriptor promises",
                hint="the source serves other bytes; nothing was kept",
            )
        self._hash.update(chunk)

    def finish(self) -> None:
        """Check the whole; raises Corrupt."""
        if self.size is not None and self.seen != self.size:
            raise Corrupt(
                f"{self._what} {self.digest} ends after {self.seen} of {self.size} bytes",
                hint="the source is truncated; nothing was kept",
            )
        found = self._hash.hexdigest()
        if found != self.digest.hex:
            raise Corrupt(
                f"{self._what} {self.digest} has other content: {self.digest.algorithm}:{found}",
                hint="the source serves other bytes; nothing was kept",
            )


def verify(data: bytes, digest: Digest, size: int | None = None, *, what: str = "blob") -> bytes:
    """Return ``data`` after checking it against ``digest`` and ``size``; raises Corrupt."""
    verifier = Verifier(digest, size, what=what)
    verifier.update(data)
    verifier.finish()
    return data


def digest_of(chunks: Iterable[bytes], algorithm: str = "sha256") -> Digest:
    """Return the digest of a stream of chunks."""
    running = new_hash(algorithm)
    for chunk in chunks:
        running.update(chunk)
    return Digest(algorithm, running.hexdigest())


def hex_of(digest: str) -> str:
    """Return the hex part of a digest's text."""
    return digest.rpartition(":")[2]
