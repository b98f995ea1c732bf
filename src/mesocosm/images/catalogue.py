"""What images there are, and what they are called: one small file for each, and no database.

    images/<manifest digest's hex>.json     an image (`ImageRecord`); its time of change is its last use
    refs/<hash of name and platform>.json   a name (`RefRecord`)

Every answer is read from these files, so there is nothing to rebuild, a damaged one costs exactly one image
or name, and the store may be copied or moved.  A file that cannot be read is set aside as ``*.damaged`` and
the image counts as absent: the next pull finds its layers and blobs still there.  A name, which nothing else
knows of, is restored from its copy, ``refs/<hash>.copy``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

from mesocosm import durable
from mesocosm.errors import Corrupt, InvalidConfig, MesocosmError, NotFound
from mesocosm.images import checked
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import shown
from mesocosm.images.image import VERSION, ImageRecord, RefRecord
from mesocosm.images.staging import replace
from mesocosm.images.store_faults import store_faults

_Record = TypeVar("_Record", ImageRecord, RefRecord)
_HEX = re.compile(r"[a-f0-9]{4,128}", re.ASCII)
COPY: Final = ".copy"
DAMAGED: Final = ".damaged"


class Catalogue:
    """Images and names of one store; stateless, any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self._ingest = root / "ingest"
        self._images = root / "images"
        self._refs = root / "refs"

    def prepare(self) -> None:
        """Make the directories."""
        self._ingest.mkdir(mode=0o700, exist_ok=True)
        self._images.mkdir(mode=0o700, exist_ok=True)
        self._refs.mkdir(mode=0o700, exist_ok=True)

    # --- images ---------------------------------------------------------------------------------------------

    def add(self, image: ImageRecord) -> None:
        """Record an image, durably."""
        replace(self._ingest, self._image(image.digest), checked.encode(image))

    def image(self, digest: str) -> ImageRecord | None:
        """Return the image with this manifest digest."""
        return _read(self._image(digest), ImageRecord)

    def published(self, digest: str) -> ImageRecord | None:
        """Return the image that its source knows by this digest: its own, or its origin's."""
        made = (image for image in self.images() if image.origin == digest)
        return self.image(digest) or next(made, None)

    def images(self) -> Iterator[ImageRecord]:
        """Yield every image, in no order."""
        yield from _read_all(self._images, ImageRecord)

    def used(self, digest: str, when: float) -> None:
        """Note that the image was used at ``when``, seconds since the epoch."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._image(digest), (when, when))

    def last_used(self, digest: str) -> float:
        """Return when the image was used last, in seconds since the epoch; 0 when it is gone."""
        try:
            return self._image(digest).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def forget(self, digest: str) -> bool:
        """Remove an image's record; whether there was one."""
        return _remove(self._image(digest))

    # --- names ----------------------------------------------------------------------------------------------

    def name(self, ref: RefRecord) -> None:
        """Let a name point at an image, durably; replaces where it pointed."""
        path, data = self._ref(ref.reference, ref.platform), checked.encode(ref)
        _discard(path.with_suffix(COPY))  # it never says what the name meant before
        replace(self._ingest, path, data)
        with contextlib.suppress(OSError, MesocosmError):
            replace(self._ingest, path.with_suffix(COPY), data, durable=False)
        _discard(path.with_suffix(DAMAGED))

    def ref(self, reference: str, platform: str = "") -> RefRecord | None:
        """Return where a canonical reference points."""
        return self._read_ref(self._ref(reference, platform))

    def refs(self) -> Iterator[RefRecord]:
        """Yield every name, in no order."""
        for name in sorted({Path(name).stem for name in os.listdir(self._refs)}):  # noqa: PTH208
            ref = self._read_ref(self._refs / f"{name}.json")
            if ref is not None:
                yield ref

    def unname(self, reference: str, platform: str = "") -> bool:
        """Remove a name; whether there was one."""
        path = self._ref(reference, platform)
        for suffix in (COPY, DAMAGED):
            _discard(path.with_suffix(suffix))
        return _remove(path)

    def _read_ref(self, path: Path) -> RefRecord | None:
        """A name; one whose file is damaged is restored from its copy, unless it was given anew meanwhile."""
        ref = _read(path, RefRecord)
        if ref is not None or not path.with_suffix(DAMAGED).exists():
            return ref
        copy = path.with_suffix(COPY)
        with contextlib.suppress(OSError, MesocosmError):
            data = durable.read(copy)
            ref = checked.decode(data, RefRecord, copy)
            if ref.version > VERSION or self._ref(ref.reference, ref.platform) != path:
                return None
            os.link(copy, path)
            replace(self._ingest, copy, data, durable=False)  # a copy is another file
            _discard(path.with_suffix(DAMAGED))
            return ref
        return _read(path, RefRecord)

    # --- by what people write -------------------------------------------------------------------------------

    def by_id(self, text: str) -> ImageRecord | None:
        """Return the image whose manifest digest, image ID or origin is ``text``, or begins so.

        ``text`` may have the algorithm before it.  Raises InvalidConfig when several do.
        """
        hexadecimal = text.rpartition(":")[2] if text.startswith(("sha256:", "sha512:")) else text
        if not _HEX.fullmatch(hexadecimal):
            return None
        hits = {
            image.digest: image
            for image in self.images()
            if any(one.hex.startswith(hexadecimal) for one in image.kept)
        }
        if len(hits) > 1:
            listed = ", ".join(sorted(_hex(digest)[:12] for digest in hits))
            raise InvalidConfig(
                f"{shown(text, 80)} means {len(hits)} images: {listed}", hint="give more digits"
            )
        return next(iter(hits.values()), None)

    def require(self, text: str) -> ImageRecord:
        """As `by_id`, but raises NotFound."""
        found = self.by_id(text)
        if found is None:
            raise NotFound(f"no image {shown(text, 120)}", hint="mesocosm images lists what there is")
        return found

    def _image(self, digest: str) -> Path:
        return self._images / f"{Digest.parse(digest).hex}.json"

    def _ref(self, reference: str, platform: str) -> Path:
        key = hashlib.sha256(f"{reference}\n{platform}".encode("utf-8", "surrogateescape")).hexdigest()
        return self._refs / f"{key}.json"


def _hex(digest: str) -> str:
    return digest.rpartition(":")[2]


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        record = checked.decode(durable.read(path), kind, path)
    except FileNotFoundError:
        return None
    except Corrupt:
        _set_aside(path)
        return None
    if record.version > VERSION:
        raise Corrupt(f"{path} has version {record.version}", hint="it was written by a newer mesocosm")
    return record


def _read_all(directory: Path, kind: type[_Record]) -> Iterator[_Record]:
    for name in sorted(os.listdir(directory)):  # noqa: PTH208
        if name.endswith(".json") and not name.startswith("."):
            record = _read(directory / name, kind)
            if record is not None:
                yield record


def _remove(path: Path) -> bool:
    try:
        with store_faults(path.parent.parent):
            path.unlink()
            durable.sync(path.parent)
    except FileNotFoundError:
        return False
    return True


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rename(path.with_suffix(DAMAGED))
