"""From what people write to the image they mean: a reference, or the beginning of an image's digest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.catalogue import Catalogue
from mesocosm.images.foreign import shown
from mesocosm.images.image import ImageRecord, RefRecord
from mesocosm.images.platform import Platform, host_platform, recorded
from mesocosm.images.reference import Reference, parse_reference

_ID = re.compile(r"(?:sha256:)?[a-f0-9]{4,64}", re.ASCII)
_WHOLE_ID = re.compile(r"sha256:[a-f0-9]{4,64}|[a-f0-9]{64}", re.ASCII)
_AS_THEY_ARE: Final = ("host", "dir")
"""Transports of roots without layers."""


class Named(msgspec.Struct, frozen=True):
    """What a text means: a ``reference`` (None when an image was named by its digest), and the image that is
    here under it, with the record of its name."""

    reference: Reference | None
    image: ImageRecord | None
    ref: RefRecord | None = None

    def require_image(self) -> ImageRecord:
        """Return the image; NotFound when it is not here."""
        if self.image is None:
            raise missing(self.reference, "")
        return self.image

    @property
    def platform_key(self) -> str:
        """The platform as part of further names of the image: that of this one, else what it is made for."""
        if self.ref is not None:
            return self.ref.platform
        return platform_key(recorded(self.require_image().platform))


def canonical(text: str) -> Reference:
    """Parse a reference, its path made absolute.  Raises InvalidConfig."""
    reference = parse_reference(text)
    if reference.is_file:
        return msgspec.structs.replace(reference, path=str(Path(reference.path).absolute()))
    return reference


def is_whole_id(text: str) -> bool:
    """Whether ``text`` can be nothing but an image's digest, or the beginning of one."""
    return _WHOLE_ID.fullmatch(text) is not None


def new_name(text: str) -> Reference:
    """Parse a name that an image is to be given; raises InvalidConfig for anything but ``HOST/NAME:TAG``."""
    reference = canonical(text)
    if reference.transport != "docker" or reference.tag is None or reference.digest is not None:
        raise InvalidConfig(f"{text} is not a name to give", hint="names are written HOST/NAME:TAG")
    return reference


def platform_key(platform: Platform) -> str:
    """The platform as part of a name's key: empty for the host's own."""
    return "" if platform == host_platform() else str(platform)


class Naming:
    """Looks texts up in a catalogue; blocking."""

    def __init__(self, catalogue: Catalogue, rebuild: Callable[[], list[str]]) -> None:
        """``rebuild`` makes images anew whose records were damaged, and returns their digests."""
        self._catalogue = catalogue
        self._rebuild = rebuild

    def find(self, text: str, platform: Platform) -> Named:
        """Return what ``text`` means.  A name wins over an image whose digest begins the same.

        Raises NotFound for a digest of no image, InvalidConfig when it can be nothing, or several images.
        """
        try:
            found = self._find(text, platform)
        except NotFound:
            if self._rebuild():
                return self._find(text, platform)
            raise
        return self._find(text, platform) if found.image is None and self._rebuild() else found

    def _find(self, text: str, platform: Platform) -> Named:
        if is_whole_id(text):
            return Named(None, self._catalogue.require(text))
        reference = canonical(text)
        ref = self._catalogue.ref(str(reference), platform_key(platform))
        image = self._catalogue.image(ref.digest) if ref else None
        if image is not None:
            return Named(reference, image, ref)
        if reference.digest is not None:
            pinned = self._catalogue.published(str(reference.digest))
            if pinned is not None:
                return Named(reference, pinned, ref)
        if _ID.fullmatch(text) and (image := self._catalogue.by_id(text)):
            return Named(None, image)
        return Named(reference, None)

    def require(self, text: str, platform: Platform) -> Named:
        """As `find`, but raises NotFound when no such image is here; it tells other platforms that are."""
        named = self.find(text, platform)
        if named.image is None:
            here = ", ".join(one.image.platform for one in self._everywhere(text) if one.image)
            if here:
                raise NotFound(
                    f"image {shown(text, 120)} is on this host for {here}, not for {platform}",
                    hint="choose with --platform, or pull it",
                )
            raise missing(named.reference, text)
        return named

    def each(self, text: str, platform: Platform) -> list[Named]:
        """Return what a name means on every platform that is here, each image once; NotFound for none."""
        return self._everywhere(text) or [self.require(text, platform)]

    def _everywhere(self, text: str) -> list[Named]:
        if is_whole_id(text):
            return []
        reference = canonical(text)
        refs = [ref for ref in self._catalogue.refs() if ref.reference == str(reference)]
        images = {ref.digest: (self._catalogue.image(ref.digest), ref) for ref in refs}
        found = [Named(reference, image, ref) for image, ref in images.values() if image is not None]
        return sorted(found, key=lambda one: one.require_image().platform)


def missing(reference: Reference | None, text: str) -> NotFound:
    """The error for an image that is not here."""
    name = reference.familiar if reference else shown(text, 120)
    if reference is not None and reference.transport in _AS_THEY_ARE:
        return NotFound(f"{name} is no image that is kept here", hint="such roots are run as they are")
    return NotFound(f"image {name} is not on this host", hint=f"mesocosm pull {name}")


def is_local(reference: Reference) -> bool:
    """Whether asking costs no more than reading a file here: then the answer is never taken from memory."""
    return reference.is_file
