"""What belongs to images without being part of them: signatures, bills of materials, attestations.

    attached/<hex>.json     what is attached to the manifest or index with that digest, nested ones included

A record lasts as long as its image, or as a name stands for its index; manifests and blobs lie among the
others' blobs.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from mesocosm import durable
from mesocosm.errors import Corrupt
from mesocosm.images import checked
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor, descriptor_json, parse_descriptor
from mesocosm.images.staging import replace

VERSION: Final = 1
FOLDER: Final = "attached"


class Kind(enum.StrEnum):
    """How a manifest is attached: it names its subject (OCI image spec); the index beside the image lists it
    (buildkit's attestations); it has a tag made of the image's digest (cosign); another one that is attached
    lists it.
    """

    REFERRER = "referrer"
    ENTRY = "entry"
    TAG = "tag"
    CHILD = "child"


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest that is attached.  ``tag`` is what it is called where its kind is TAG."""

    kind: Kind
    descriptor: Descriptor
    blobs: tuple[Descriptor, ...] = ()
    tag: str = ""

    @property
    def digests(self) -> tuple[Digest, ...]:
        """All that is kept for it."""
        return self.descriptor.digest, *(one.digest for one in self.blobs)


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    kind: Kind
    descriptor: dict[str, Any]
    blobs: list[dict[str, Any]] = []
    tag: str = ""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """``asked``: a source was asked for all there is, and not only for attestations."""

    entries: list[_Entry] = []
    asked: bool = False
    version: int = VERSION


class Attachments:
    """The records of one store; any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self._ingest = root / "ingest"
        self._root = root / FOLDER

    def of(self, subject: Digest) -> tuple[Attached, ...]:
        """Return what is attached to a manifest or index, in the order in which it can be sent; blocking."""
        return tuple(_attached(one, str(subject)) for one in self._read(subject).entries)

    def asked(self, subject: Digest) -> bool:
        """Whether a source was asked what it has; blocking."""
        return self._read(subject).asked

    def put(
        self, subject: Digest, kinds: Collection[Kind], found: Iterable[Attached], *, asked: bool
    ) -> None:
        """Let ``found`` be what is attached in these ways; blocking, for who holds the store's lock."""
        record = self._read(subject)
        kept = [one for one in record.entries if one.kind not in kinds]
        made = _Record(entries=[*kept, *map(_entry, found)], asked=asked or record.asked)
        replace(self._ingest, self._path(subject), checked.encode(made))

    def digests(self, subjects: Collection[str]) -> set[str]:
        """Return the digests of all that is kept for these; blocking."""
        found: set[str] = set()
        for subject in subjects:
            found.update(str(digest) for one in self.of(Digest.parse(subject)) for digest in one.digests)
        return found

    def forget_all_but(self, subjects: Collection[str]) -> None:
        """Remove the records of all others; blocking."""
        names = {self._path(Digest.parse(one)).name for one in subjects}
        for name in os.listdir(self._root):  # noqa: PTH208
            if name.endswith(".json") and name not in names:
                (self._root / name).unlink(missing_ok=True)

    def _read(self, subject: Digest) -> _Record:
        """A record; one that cannot be read counts as none, and the next pull makes it anew."""
        path = self._path(subject)
        try:
            record = checked.decode(durable.read(path), _Record, path)
        except (FileNotFoundError, Corrupt):
            return _Record()
        if record.version > VERSION:
            raise Corrupt(f"{path} has version {record.version}", hint="it was written by a newer mesocosm")
        return record

    def _path(self, subject: Digest) -> Path:
        return self._root / f"{subject.hex}.json"


def _entry(one: Attached) -> _Entry:
    blobs = [descriptor_json(blob) for blob in one.blobs]
    return _Entry(kind=one.kind, descriptor=descriptor_json(one.descriptor), blobs=blobs, tag=one.tag)


def _attached(entry: _Entry, where: str) -> Attached:
    return Attached(
        kind=entry.kind,
        descriptor=parse_descriptor(entry.descriptor, where),
        blobs=tuple(parse_descriptor(blob, where) for blob in entry.blobs),
        tag=entry.tag,
    )
