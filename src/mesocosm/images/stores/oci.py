"""OCI image layouts, as a directory or as a tar file (OCI image spec, "image-layout.md")."""

from __future__ import annotations

import contextlib
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from mesocosm.errors import Corrupt, InvalidConfig, MesocosmError, NotFound
from mesocosm.images import mediatypes
from mesocosm.images.archive import Archive, Span, chunks, read_span
from mesocosm.images.digest import Digest
from mesocosm.images.documents import IMAGE_NAME, REF_NAME, Descriptor, Index, parse_document
from mesocosm.images.foreign import shown
from mesocosm.images.plain_files import PlainFile, PlainFiles
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference, parse_docker_name
from mesocosm.images.stores.base import Document, Found, Shelf, Store, StoreContext, fetching
from mesocosm.images.stores.resolve import platforms_of, resolve
from mesocosm.images.strict import DOCUMENT_LIMIT, Fields, load
from mesocosm.images.transfer import in_thread

LOOKED_INTO: Final = 1000
"""Entries of a layout's index that are looked into for what they refer to."""


class Layout:
    """Files of a layout: ``name`` to where its bytes are, in a directory or within an archive.

    ``path`` is what a person calls it.
    """

    def __init__(self, path: Path, file: PlainFile | None) -> None:
        """``file``: the archive's bytes, None for a directory."""
        self.path = path
        self._file = file  # whose bytes are there as long as this
        self._archive = None if file is None else Archive.open(file.path, name=path)

    def locate(self, name: str) -> tuple[Path, Span]:
        """Return the file that holds the bytes of ``name``, and where in it; blocking."""
        if self._archive is not None:
            return self._archive.path, self._archive.span(name)
        file = self.path / name
        try:
            status = file.lstat()
        except FileNotFoundError:
            raise NotFound(f"{self.path} has no {name}", hint="it is not a whole OCI image layout") from None
        if not stat.S_ISREG(status.st_mode):
            raise Corrupt(f"{file} is not a regular file")
        return file, Span(0, status.st_size)

    def read(self, name: str) -> bytes:
        """Return a document; blocking.  Raises NotFound or Corrupt."""
        file, span = self.locate(name)
        if span.size > DOCUMENT_LIMIT:
            raise Corrupt(f"{file}: {name} has {span.size} bytes, more than a document may have")
        return read_span(file, span)

    def __contains__(self, name: str) -> bool:
        """Whether an archive has a file of that name; of a directory it is not asked."""
        return self._archive is not None and name in self._archive

    def blob(self, digest: Digest) -> str:
        """Return the name of a blob's file."""
        return f"blobs/{digest.algorithm}/{digest.hex}"

    async def document(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a blob that is a document; as `read`, without blocking."""
        data: bytes = await in_thread(self.read, self.blob(descriptor.digest))
        return data

    async def chunks(self, descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
        """Yield a blob's bytes from ``offset`` on."""
        file, span = await in_thread(self.locate, self.blob(descriptor.digest))
        async for chunk in chunks(file, span, offset):
            yield chunk


class OciStore(Store):
    """``oci:PATH[:REF]`` and ``oci-archive:PATH[:REF]``."""

    name = "oci"
    transports = frozenset({"oci", "oci-archive"})

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._files = PlainFiles(context.blobs)

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | None:
        """As `Store.discover`; a layout has no ETag: reading its index is the check."""
        layout = await self._layout(reference)
        top = await _top(layout, reference)
        fetch, source = fetching(layout.chunks, resume=False), str(layout.path)
        return await resolve(top, layout.document, reference, platform, fetch=fetch, source=source)

    async def shelf(self, reference: Reference) -> Shelf:
        """As `Store.shelf`: the layout."""
        return await in_thread(_LayoutShelf, await self._layout(reference))

    async def platforms(self, reference: Reference) -> tuple[Platform, ...]:
        """As `Store.platforms`."""
        layout = await self._layout(reference)
        return await platforms_of(await _top(layout, reference), layout.document, reference.familiar)

    async def close(self) -> None:
        """As `Store.close`."""
        self._files.close()

    async def _layout(self, reference: Reference) -> Layout:
        stopped = threading.Event()
        return await in_thread(open_layout, reference, self._files, stopped, stop=stopped.set)


class _LayoutShelf:
    """What is attached to a layout's images, see `stores.base.Shelf`; blocking to make."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._tags: dict[str, Descriptor] = {}
        self._referring: dict[Digest, list[Descriptor]] = {}
        self.fetch = fetching(layout.chunks, resume=False)
        for entry in index_of(layout).manifests[:LOOKED_INTO]:
            self._tags[entry.annotations.get(REF_NAME, "")] = entry
            with contextlib.suppress(MesocosmError):
                data = layout.read(layout.blob(entry.digest))
                found = parse_document(data, content_type=entry.media_type)
                if found.subject is not None:
                    self._referring.setdefault(found.subject.digest, []).append(entry)

    async def referrers(self, subject: Digest) -> tuple[Descriptor, ...]:
        return tuple(self._referring.get(subject, ()))

    async def tagged(self, tag: str) -> Descriptor | None:
        return self._tags.get(tag)

    async def read(self, descriptor: Descriptor) -> bytes:
        return await self._layout.document(descriptor)


def index_of(layout: Layout) -> Index:
    """Return the layout's own index; blocking.  Raises Corrupt."""
    what = f"{layout.path}, index.json"
    index = parse_document(layout.read("index.json"), content_type=mediatypes.OCI_INDEX, what=what)
    if not isinstance(index, Index):
        raise Corrupt(f"{what} is not an index")
    return index


def open_layout(reference: Reference, files: PlainFiles, stopped: threading.Event) -> Layout:
    """Open and check the layout that a reference names; blocking, ended early by ``stopped``."""
    path = Path(reference.path).resolve()
    if not path.exists():
        raise NotFound(f"{reference}: no such file or directory")
    if reference.transport == "oci-archive" and path.is_dir():
        raise InvalidConfig(f"{reference}: that is a directory", hint=f"write oci:{reference.path}")
    layout = Layout(path, None if path.is_dir() else files.get(path, stopped))
    marker = Fields(load(_marker(layout), f"{path}, oci-layout"), "oci-layout", ())
    version = marker.text("imageLayoutVersion")
    if version is None or not version.startswith("1."):
        raise Corrupt(f"{path}, oci-layout: version {shown(version, 40)} is not 1.x")
    return layout


def _marker(layout: Layout) -> bytes:
    try:
        return layout.read("oci-layout")
    except Corrupt as error:
        saved = "manifest.json" in layout or "repositories" in layout
        error.hint = "docker-archive:PATH is what docker save writes" if saved else "it is no OCI layout"
        raise


async def _top(layout: Layout, reference: Reference) -> Document:
    """The document that a reference stands for."""
    chosen: Descriptor = await in_thread(_choose, layout, reference)
    return Document(chosen, await layout.document(chosen))


def _choose(layout: Layout, reference: Reference) -> Descriptor:
    """The index entry that a reference means: by name, by digest, or the only one there is."""
    index = index_of(layout)
    entries = _named(index, reference.ref) if reference.ref else index.manifests
    if reference.digest is not None:
        entries = tuple(one for one in entries if one.digest == reference.digest) or entries
    entries = tuple({one.digest: one for one in entries}.values())  # one image may stand there by many names
    if len(entries) == 1:
        return entries[0]
    names = sorted({shown(_name(one), 80) for one in index.manifests})
    listed = ", ".join(names[:10]) or "none"
    if not entries:
        raise NotFound(f"{reference}: no such image in the layout", hint=f"it has {listed}")
    raise InvalidConfig(f"{reference} means {len(entries)} images", hint=f"choose one of {listed}")


def _named(index: Index, ref: str) -> tuple[Descriptor, ...]:
    """The entries that a layout calls ``ref``: by its own word for them, else by the whole name beside it."""
    found = index.named(ref)
    if found:
        return found
    try:
        name = parse_docker_name(ref).full_name
    except InvalidConfig:
        return ()
    return tuple(one for one in index.manifests if one.annotations.get(IMAGE_NAME) == name)


def _name(entry: Descriptor) -> str:
    return entry.annotations.get(IMAGE_NAME) or entry.annotations.get(REF_NAME) or str(entry.digest)
