"""Compressing layers: gzip as every registry client writes it, zstd, or nothing.

The same bytes give the same result: no time, no name in the header (RFC 1952, 2.3).
"""

from __future__ import annotations

import sys
import zlib
from typing import Final, Literal, Protocol, get_args

Written = Literal["gzip", "zstd", "none"]
"""What layers can be compressed by."""

KINDS: Final[tuple[Written, ...]] = get_args(Written)
"""The same, to choose from."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_LEVELS: Final = {"gzip": 6, "zstd": 3}


class Compressor(Protocol):
    """Takes a stream piece by piece; ``flush`` ends it."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def compressor(kind: Written) -> Compressor:
    """Return a new compressor."""
    if kind == "gzip":
        return zlib.compressobj(_LEVELS[kind], zlib.DEFLATED, _GZIP)
    if kind == "zstd":
        return _zstd(_LEVELS[kind])
    return _Plain()


def _zstd(level: int) -> Compressor:
    if sys.version_info >= (3, 14):  # not before it is asked for: the list above is for everybody
        from compression import zstd
    else:
        from backports import zstd

    options = {
        int(zstd.CompressionParameter.compression_level): level,
        int(zstd.CompressionParameter.checksum_flag): 1,
    }
    return zstd.ZstdCompressor(options=options)
