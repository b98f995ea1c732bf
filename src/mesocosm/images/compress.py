"""Compressing layers: gzip as every registry client writes it, zstd, or nothing.

The same bytes give the same result: no time, no name in the header (RFC 1952, 2.3).
"""

from __future__ import annotations

import sys
import zlib
from typing import Final, Literal, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Written = Literal["gzip", "zstd", "none"]
"""What layers can be compressed by."""

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
        options = {
            int(zstd.CompressionParameter.compression_level): _LEVELS[kind],
            int(zstd.CompressionParameter.checksum_flag): 1,
        }
        return zstd.ZstdCompressor(options=options)
    return _Plain()
