"""What ingesting a layer costs beyond what cannot be saved: decompressing it and hashing it twice.

    python bench/ingest.py [--layer FILE] [--runs N] [--profile KIND]

Without ``--layer`` a layer of the size and mix of a language image is made up: 15,000 files, 400 MB.  All
ways are run in turn, and the median CPU seconds (user and system) of each are set against those of the
floor: isal or zstd, SHA-256 of the blob, SHA-256 of the tar stream.  Files are written to a fresh folder
beside the layer and removed; the blob is in the page cache.
"""

from __future__ import annotations

import argparse
import cProfile
import gzip
import hashlib
import io
import os
import pstats
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from layers import SinkKind, new_sink
from mesocosm.images.decompress import Decompressor
from mesocosm.images.digest import Digest
from mesocosm.images.layers.stream import LayerIngest
from mesocosm.linux.beneath import remove_tree

PIECE = 256 << 10
KINDS: tuple[SinkKind, ...] = ("erofs-a", "erofs-i", "apply", "overlay")


def synthetic_layer(files: int, size: int) -> bytes:
    """A gzip layer that inflates to some ``size`` bytes in ``files`` files, three times its compressed
    size.
    """
    chance = random.Random(1)
    words = [bytes(chance.choices(range(97, 123), k=chance.randint(2, 9))) for _ in range(3000)]
    text = b" ".join(chance.choices(words, k=400_000))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for index in range(files):
            if index % 12 == 0:
                folder = tarfile.TarInfo(f"usr/lib/part{index // 240}/module{index // 12}")
                folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                tar.addfile(folder)
            info = tarfile.TarInfo(f"usr/lib/part{index // 240}/module{index // 12}/source_file_{index}.py")
            length = min(int(chance.lognormvariate(8.5, 1.9)), 8 << 20)
            start = chance.randrange(len(text) // 2)
            info.size = min(length * size // (files * 26_000), len(text) - start)
            info.mtime = 1_700_000_000 + index
            tar.addfile(info, io.BytesIO(text[start : start + info.size]))
    return gzip.compress(out.getvalue(), 6)


def floor(blob: bytes) -> None:
    """Decompress and hash, nothing else."""
    outer, inner = hashlib.sha256(), hashlib.sha256()
    plain = Decompressor()
    for at in range(0, len(blob), PIECE):
        piece = memoryview(blob)[at : at + PIECE]
        outer.update(piece)
        for block in plain.feed(piece):
            inner.update(block)


def ingest(blob: bytes, digest: Digest, kind: SinkKind, path: Path) -> None:
    """The whole pipeline."""
    stream = LayerIngest(new_sink(kind, path), blob=digest, blob_size=len(blob))
    for at in range(0, len(blob), PIECE):
        stream.feed(memoryview(blob)[at : at + PIECE])
    stream.finish()


def cpu_seconds(work: Callable[[], None]) -> float:
    """User and system seconds of one run."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(blob: bytes, runs: int, folder: Path) -> dict[str, list[float]]:
    """CPU seconds of every way, run in turn."""
    digest = Digest.of(blob)
    found: dict[str, list[float]] = {"floor": [], **{kind: [] for kind in KINDS}}
    for _ in range(runs):
        found["floor"].append(cpu_seconds(lambda: floor(blob)))
        for kind in KINDS:
            found[kind].append(cpu_seconds(lambda kind=kind: ingest(blob, digest, kind, folder / "layer")))  # type: ignore[misc]
            remove(folder, "layer")
    return found


def remove(folder: Path, name: str) -> None:
    """Remove a layer of whatever kind."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_tree(fd, name)
    finally:
        os.close(fd)


def profile(blob: bytes, kind: SinkKind, folder: Path) -> None:
    """Print where the time of one run goes."""
    profiler = cProfile.Profile()
    digest = Digest.of(blob)
    profiler.runcall(ingest, blob, digest, kind, folder / "layer")
    remove(folder, "layer")
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Measure, and print one line for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layer", type=Path, help="a layer blob of your own")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", choices=KINDS, help="profile one way instead")
    options = parser.parse_args()
    blob = options.layer.read_bytes() if options.layer else synthetic_layer(15_000, 400 << 20)
    with tempfile.TemporaryDirectory(prefix="mesocosm-bench-") as folder:
        if options.profile:
            profile(blob, options.profile, Path(folder))
            return
        found = measure(blob, options.runs, Path(folder))
    base = statistics.median(found["floor"])
    for kind, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"{kind:10} {middle:6.2f} s cpu   {middle / base:5.2f} x floor   (min {min(seconds):.2f})")


if __name__ == "__main__":
    main()
