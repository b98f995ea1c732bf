"""What a layer is that nobody has described: its size, how it is compressed, and the digest of its tar."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from mesocosm.errors import Corrupt, Exhausted, MesocosmError, Unsupported
from mesocosm.images.archive import open_regular
from mesocosm.images.decompress import Decompressor
from mesocosm.images.digest import Digest
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.synthesis import Measured, layer_descriptor

_PIECE: Final = 1 << 20


class Measurement:
    """Takes a layer's bytes, compressed or not: a `transfer.Sink`.  Raises Corrupt, and Exhausted beyond
    limits.
    """

    def __init__(self) -> None:
        self._plain = Decompressor(None, DEFAULT_LIMITS)
        self._tar = hashlib.sha256()

    def write(self, chunk: bytes | memoryview, /) -> None:
        """Take more of the layer."""
        for part in self._plain.feed(chunk):
            self._tar.update(part)

    def finish(self) -> None:
        """The layer has come whole."""
        for part in self._plain.finish():
            self._tar.update(part)

    def abort(self) -> None:
        """Nothing has to be undone."""

    def of(self, blob: Digest) -> Measured:
        """Return what was measured, once finished; ``blob`` is the digest of the bytes taken."""
        layer = layer_descriptor(self._plain.compression or "none", blob, self._plain.taken)
        return Measured(layer, Digest("sha256", self._tar.hexdigest()))


def _naming(error: MesocosmError, path: Path) -> MesocosmError:
    """The same, with the file in it."""
    if str(path) in error.message:
        return error
    return type(error)(f"{path}: {error.message}", hint=error.hint)


def measure(path: Path) -> Measured:
    """Measure the layer in a file; blocking.  Corrupt for one that is empty or cannot be decompressed,
    Unsupported for other compressions."""
    measurement, blob = Measurement(), hashlib.sha256()
    fd = open_regular(path)
    try:
        if not os.fstat(fd).st_size:
            raise Corrupt(f"{path} is empty", hint="not even an empty tar file is")
        while piece := os.read(fd, _PIECE):
            blob.update(piece)
            measurement.write(piece)
        measurement.finish()
    except (Corrupt, Exhausted, Unsupported) as error:
        raise _naming(error, path) from error
    finally:
        os.close(fd)
    return measurement.of(Digest("sha256", blob.hexdigest()))
