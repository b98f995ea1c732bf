"""What docs/image-store.md promises of a store at any moment, checked by reading it as a stranger would.

Nothing of the store's own code takes part but the records' schemas and the seal of an EROFS file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from mesocosm.images.erofs.file import seal_of
from mesocosm.images.image import ImageRecord, RefRecord
from mesocosm.images.layers.store import LayerRecord
from mesocosm.images.leases import Lease

_PARTS = (
    "layers",
    "trees",
    "merged",
    "looks",
    "images",
    "refs",
    "leases",
    "signatures",
    "attached",
    "ingest",
    "trash",
)
_KNOWN = {*_PARTS, "version", "lock", "blobs", "scrub.json", "collecting"}


def broken(store: Path) -> list[str]:
    """Every promise that does not hold, in words; empty for a store that is as the page says."""
    if not store.exists():
        return []
    return [
        *_layout(store),
        *_blobs(store),
        *_layers(store),
        *_images(store),
        *_names(store),
        *_leases(store),
    ]


def left_over(store: Path, runtime: Path) -> list[str]:
    """What is there although every image was removed and everything collected."""
    blobs = ("blobs/sha256", "blobs/sha512")
    found = [str(path.relative_to(store)) for part in (*_PARTS, *blobs) for path in (store / part).iterdir()]
    found += [path.name for path in store.iterdir() if path.name not in _KNOWN]
    return found + [str(path) for path in (runtime / "layers").glob("*")]


def let_a_day_pass(store: Path) -> None:
    """What was begun and may be resumed is a day old now: the next collection takes it."""
    for path in (store / "ingest").iterdir():
        os.utime(path, (0, 0))


def _layout(store: Path) -> Iterator[str]:
    version = store / "version"
    if version.exists() and version.read_bytes() != b"1\n":
        yield f"version says {version.read_bytes()!r}"
    for part in store.iterdir():
        if part.is_dir() and stat.S_IMODE(part.stat().st_mode) != 0o700:
            yield f"{part.name} has mode {stat.S_IMODE(part.stat().st_mode):o}"
        if part.name not in _KNOWN:
            yield f"{part.name} is no part of a store"
    if stat.S_IMODE(store.stat().st_mode) != 0o700 and (store / "version").exists():
        yield f"the store has mode {stat.S_IMODE(store.stat().st_mode):o}"


def _blobs(store: Path) -> Iterator[str]:
    for path in (store / "blobs").glob("*/*"):
        if hashlib.new(path.parent.name, path.read_bytes()).hexdigest() != path.name:
            yield f"blob {path.name} has other bytes"
        if stat.S_IMODE(path.stat().st_mode) != 0o444:
            yield f"blob {path.name} has mode {stat.S_IMODE(path.stat().st_mode):o}"


def _layers(store: Path) -> Iterator[str]:
    for path in (path for part in ("layers", "trees", "merged") for path in (store / part).glob("*")):
        content = "root" if path.parent.name == "trees" else "layer.erofs"
        if sorted(os.listdir(path)) != sorted([content, "layer.json"]):
            yield f"layer {path.name} consists of {sorted(os.listdir(path))}"
            continue
        record = msgspec.json.decode((path / "layer.json").read_bytes(), type=LayerRecord)
        if record.diff_id.partition(":")[2] != path.name:
            yield f"layer {path.name} says it is {record.diff_id}"
        if content == "layer.erofs":
            fd = os.open(path / content, os.O_RDONLY)
            sealed = seal_of(fd, "sha256" if record.seal.partition(":")[0].endswith("sha256") else "crc32")
            os.close(fd)
            if sealed != record.seal:
                yield f"layer {path.name} has other bytes than when it was made"


def _images(store: Path) -> Iterator[str]:
    for path in (store / "images").glob("*.json"):
        data = path.read_bytes()
        image = msgspec.json.decode(data, type=ImageRecord)
        if image.digest.partition(":")[2] != path.stem:
            yield f"image {path.stem} says it is {image.digest}"
        for digest in image.kept:
            if not (store / "blobs" / digest.algorithm / digest.hex).exists():
                yield f"image {path.stem} is listed without its document {digest}"
        for diff_id in image.diff_ids:
            if not any((store / part / diff_id.hex).exists() for part in ("layers", "trees")):
                yield f"image {path.stem} is listed without its layer {diff_id}"
        if image.looks and not (store / "looks" / image.chain_id.hex).exists():
            yield f"image {path.stem} is listed without the looks of its directories"
        if str(store).encode() in data:
            yield f"image {path.stem} has the store's path in it"


def _names(store: Path) -> Iterator[str]:
    for path in (store / "refs").glob("*.json"):
        ref = msgspec.json.decode(path.read_bytes(), type=RefRecord)
        if hashlib.sha256(f"{ref.reference}\n{ref.platform}".encode()).hexdigest() != path.stem:
            yield f"name {ref.reference} lies under another key"
        if not (store / "images" / f"{ref.digest.partition(':')[2]}.json").exists():
            yield f"name {ref.reference} points at {ref.digest}, which is not here"
    yield from (f"{path.name} was set aside" for path in store.glob("*/*.damaged"))


def _leases(store: Path) -> Iterator[str]:
    for path in (store / "leases").glob("*"):
        data = path.read_bytes()
        if data and msgspec.json.decode(data, type=Lease).owner not in (path.name, ""):
            yield f"lease {path.name} has another owner in it"
