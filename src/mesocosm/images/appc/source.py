"""Where the images that an App Container image is made of come from; here: files beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import msgspec

from mesocosm.errors import Corrupt, Exhausted, NotFound, Unsupported
from mesocosm.images.appc.layer import image_id_of
from mesocosm.images.appc.manifest import Dependency, read_manifest
from mesocosm.images.archive import Span, digest_of, read_span
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import shown
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.signed_part import Part
from mesocosm.images.trust.signed_statement import LIMIT

NEIGHBOURS: Final = 1000
"""ACI files of a directory that are looked into for dependencies."""


class Aci(msgspec.Struct, frozen=True):
    """One image in a file: its ``name`` for people, where it is, where its signature would be."""

    name: str
    path: Path
    signature: str = ""

    @property
    def short(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]


class Source(Protocol):
    """Finds what images depend on, and their signatures."""

    async def find(self, dependency: Dependency, dependent: Aci) -> Aci:
        """Return the image that ``dependent`` depends on; raises NotFound."""

    async def signed(self, aci: Aci) -> Part:
        """Return the image with its detached signature."""


class Neighbours:
    """Files in one directory, found by what their manifests say; signatures beside them, ``NAME.aci.asc``."""

    async def find(self, dependency: Dependency, dependent: Aci) -> Aci:
        """As `Source.find`."""
        path: Path = await in_thread(find_beside, dependency, dependent.path)
        return Aci(str(path), path)

    async def signed(self, aci: Aci) -> Part:
        """As `Source.signed`."""
        return Part(aci.name, aci.path, await in_thread(_beside, aci.path))


def find_beside(dependency: Dependency, dependent: Path) -> Path:
    """Return the ACI beside ``dependent`` that is what it depends on; blocking.  Raises NotFound.

    A neighbour that cannot be understood is not the one: it may be anybody's, and stops nobody else's image.
    """
    neighbours = sorted(dependent.parent.glob("*.aci"))[:NEIGHBOURS]
    for path in neighbours:
        try:
            manifest = read_manifest(path)
        except (Corrupt, Exhausted, Unsupported):
            continue
        labels = all(manifest.labels.get(name) == value for name, value in dependency.labels)
        if manifest.name == dependency.name and labels and is_image(path, dependency.image_id):
            return path
    raise NotFound(
        f"{dependent} depends on {described(dependency)}",
        hint=f"put that image's .aci file into {dependent.parent}",
    )


def described(dependency: Dependency) -> str:
    """A dependency in words."""
    wanted = ", ".join(f"{name}={value}" for name, value in dependency.labels)
    return f"{shown(dependency.name, 100)} {shown(wanted, 100)}".rstrip()


def is_image(path: Path, image_id: str | None) -> bool:
    """Whether a file is the image with that ID, if any is asked for; blocking."""
    return image_id is None or image_id_of(path) == image_id


def check_pin(path: Path, pin: Digest) -> None:
    """Raise Corrupt when the file has another digest, and is no image with that ID; blocking."""
    if pin.algorithm == "sha512" and image_id_of(path) == f"sha512-{pin.hex}":
        return
    if digest_of(path, pin.algorithm) != pin:
        raise Corrupt(f"{path} is not the image that the reference is pinned to")


def _beside(path: Path) -> bytes | None:
    signature = path.with_name(f"{path.name}.asc")
    try:
        size = signature.stat().st_size
        return read_span(signature, Span(0, min(size, LIMIT)))
    except (NotFound, FileNotFoundError):
        return None
