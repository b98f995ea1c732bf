"""From compressed pieces to plain ones, under bounds: gzip, zstd, xz, bzip2 and nothing at all.

A stream may hold several members or frames (pigz and eStargz write thousands); what follows the last one
must be zeroes, the padding that gzip(1) ignores (attack I-16).  Output comes in pieces of at most `PIECE`
bytes whatever the input expands to, and its total is bounded in size and in ratio (attack I-09).

isal inflates at twice the speed of zlib; zstd is the standard library's from Python 3.14, its backport
before.
"""

from __future__ import annotations

import bz2
import lzma
import sys
from collections.abc import Iterator
from typing import Any, Literal, Protocol, cast

from isal import igzip_lib

from mesocosm.errors import Corrupt, Exhausted, Unsupported
from mesocosm.images.foreign import shown
from mesocosm.images.limits import DEFAULT_LIMITS, Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Compression = Literal["none", "gzip", "zstd", "xz", "bzip2"]

PIECE = 1 << 18
"""Largest piece of output, in bytes."""

INPUT = 128 << 10
"""Largest piece of input handed to a decompressor at once; gains nothing above, costs calls below."""

_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x5d\x00\x00\x80\x00", "lzma"),
    (b"\x1f\x9d", "compress (.Z)"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
)
"""What is not taken; none of these begins a tar archive's first name but by intent."""
MAGIC_LENGTH = 6
"""Bytes that `sniff` needs to be sure."""

_FAILURES: tuple[type[Exception], ...] = (
    cast("Any", igzip_lib.IsalError),
    zstd.ZstdError,
    lzma.LZMAError,
    OSError,
    EOFError,
)


def sniff(head: bytes) -> Compression:
    """Return the compression that a stream's first bytes tell; "none" when they tell nothing.

    zstd streams may also begin with a skippable frame (RFC 8878, 3.1.2).
    """
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return "zstd"
    return "none"


class _Member(Protocol):
    """One gzip member, zstd frame or the like."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes: ...


class _Gzip:
    """One gzip member.  Its header is read here: isal loses its place in one that has both an extra field
    and a name and comes in two pieces.
    """

    def __init__(self) -> None:
        self._inner = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR_VER)
        self._head: bytes | None = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return self._head is not None or self._inner.needs_input

    def decompress(self, data: bytes | memoryview, max_length: int = PIECE) -> bytes:
        if self._head is None:
            return self._inner.decompress(data, max_length)
        self._head += data
        length = gzip_header_length(self._head)
        if length is None:
            return b""
        body, self._head = self._head[length:], None
        return self._inner.decompress(body, max_length)


def gzip_header_length(head: bytes) -> int | None:
    """Return the length of a gzip member's header (RFC 1952, 2.3), None while ``head`` is too short to tell.

    Corrupt when it is none, or longer than 128 KiB: names and comments have no bound of their own.
    """
    if len(head) < 10:
        return None
    if head[:3] != b"\x1f\x8b\x08" or head[3] & 0xE0:
        raise Corrupt("gzip stream: malformed header, or data behind the last member")
    flags, at = head[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(head[at : at + 2], "little")
    for flag in (8, 16):
        if flags & flag:
            at = head.find(b"\0", at) + 1
            if not at:
                at = len(head) + 1
                break
    at += 2 if flags & 2 else 0
    if at > 128 << 10:
        raise Corrupt("gzip stream: endless header")
    return at if at <= len(head) else None


class Decompressor:
    """Turns a compressed stream into a plain one.

    ``compression`` None means: look at the first bytes.  One that is named must be the one found, since
    readers that go by the name and readers that go by the bytes would unpack different things: Corrupt.
    ``feed`` yields plain pieces, ``finish`` checks that the stream was complete.  Both raise Corrupt for
    damaged and Exhausted for oversized streams.
    """

    def __init__(self, compression: Compression | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self.taken = 0
        self.given = 0
        """Bytes of input and of output so far."""
        self.compression: Compression | None = None
        """What was found; None until the first bytes came."""
        self._declared = compression
        self._limits = limits
        self._head = b""
        self._member: _Member | None = None
        self._padded = False

    def feed(self, chunk: bytes | memoryview) -> Iterator[bytes]:
        """Take a piece of the stream of any size, and yield what it expands to."""
        self.taken += len(chunk)
        if self.compression is None:
            self._head += chunk
            if len(self._head) < MAGIC_LENGTH:
                return
            chunk = self._start()
        view = memoryview(chunk)
        for at in range(0, len(view), INPUT):
            yield from self._expand(view[at : at + INPUT])

    def finish(self) -> Iterator[bytes]:
        """Yield what is left of a very short stream; Corrupt when the stream is not complete."""
        if self.compression is None:
            yield from self._expand(memoryview(self._start()))
        if self._member is not None:
            raise Corrupt(f"{self.compression} stream ends early", hint="the source is truncated")

    def _start(self) -> bytes:
        head, self._head = self._head, b""
        found = sniff(head)
        if self._declared is not None and self._declared != found:
            raise Corrupt(
                f"layer is declared as {_named(self._declared)}, but its bytes are {_named(found)}",
                hint="the publisher has to correct the media type",
            )
        other = next((name for magic, name in _OTHERS if head.startswith(magic)), None)
        if other is not None:
            raise Unsupported(
                f"layer is compressed by {other}", hint="gzip, zstd, xz and bzip2 are known: recompress it"
            )
        self.compression = found
        if found != "none":
            self._member = self._new_member()
        return head

    def _expand(self, data: memoryview) -> Iterator[bytes]:
        if self.compression == "none":
            if data:
                self._account(len(data))
                yield bytes(data)
            return
        rest: bytes | memoryview = data
        while rest:
            if self._member is None:
                self._padded = self._padded or not rest[0]
                if self._padded:
                    self._check_padding(rest)
                    return
                self._member = self._new_member()
            yield from self._pieces(self._member, rest)
            rest = b""
            if self._member.eof:
                rest, self._member = self._member.unused_data, None

    def _pieces(self, member: _Member, data: bytes | memoryview) -> Iterator[bytes]:
        try:
            while True:
                piece = member.decompress(data, PIECE)
                if piece:
                    self._account(len(piece))
                    yield piece
                if member.eof or member.needs_input:
                    return
                data = b""
        except _FAILURES as error:
            raise Corrupt(f"{self.compression} stream is damaged: {shown(error, 80)}") from None

    def _check_padding(self, rest: bytes | memoryview) -> None:
        if bytes(rest).strip(b"\0"):
            raise Corrupt(f"{self.compression} stream: data behind the end", hint="it would not be unpacked")

    def _new_member(self) -> _Member:
        if self.compression == "gzip":
            return _Gzip()
        if self.compression == "zstd":
            options = {int(zstd.DecompressionParameter.window_log_max): self._limits.window.bit_length() - 1}
            return zstd.ZstdDecompressor(options=options)
        if self.compression == "xz":
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=self._limits.window)
        return bz2.BZ2Decompressor()

    def _account(self, length: int) -> None:
        self.given += length
        limits = self._limits
        if self.given > limits.stream:
            raise Exhausted(
                f"layer expands to more than {limits.stream} bytes", hint="raise the limit on size"
            )
        if self.given > limits.ratio_from and self.given > limits.ratio * self.taken:
            raise Exhausted(
                f"layer expands to more than {limits.ratio} times its size",
                hint="a decompression bomb; raise the limit on ratio if it is not",
            )


def _named(compression: Compression) -> str:
    return "not compressed" if compression == "none" else compression
