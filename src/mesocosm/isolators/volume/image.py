"""Volumes from images: other images mounted in the container, and the volumes that its own image declares.

An image is assembled like a root, from layers that are mounted once per host, and shown read-only unless
asked otherwise; changes lie in the container's own directory.  As on every volume, set-user-ID programs and
devices count for nothing (attack R-41).

A path that the image declares as ``VOLUME`` is a mount of its own with what the image has there.  It stays
writable where the root is read-only, unless the image says that it is not, and ends with the container, as
docker's anonymous volumes do with ``--rm``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, ImageVolume, Isolator
from mesocosm.isolators.volume.targets import BIND, checked, covers, flags, normal, unshared
from mesocosm.plan import Contribution
from mesocosm.plan.operations import HostRoot, KeepWritable, MountImage, ReadOnlyMount

MOST: Final = 64
"""Volumes that an image may declare: each costs the kernel a mount."""


class ImageVolumes(Isolator):
    """Images on the request's targets, and the image's own volumes where no mount of the request lies."""

    name = "volume/image"
    requires = ("filesystem/linux",)
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """One step each.  Raises InvalidConfig for targets and options that cannot be."""
        unshared(container.config.mounts)
        fixed = frozenset(map(normal, container.image.fixed_volumes))
        declared, warnings = _declared(container, fixed)
        return Contribution(
            steps=tuple(ReadOnlyMount(target=place) for place in declared if place in fixed),
            volumes=(*map(_step, container.volumes), *(KeepWritable(target=place) for place in declared)),
            notes=(
                *map(_note, container.volumes),
                *(f"the image's volume at {_said(place, fixed)}" for place in declared),
            ),
            warnings=warnings,
        )


def _step(volume: ImageVolume) -> MountImage:
    mount, root = volume.mount, volume.root
    if isinstance(root, HostRoot):
        raise InvalidConfig(f"{mount.source} is no image that can be mounted on {mount.target}")
    return MountImage(
        root=root,
        reference=mount.source,
        target=checked(mount.target),
        subpath="/".join(part for part in mount.subpath.split("/") if part not in ("", ".")),
        flags=flags(mount, BIND),
    )


def _note(volume: ImageVolume) -> str:
    mount, digest = volume.mount, volume.identity.digest
    part = f", {mount.subpath}" if mount.subpath else ""
    kind = "read-only" if mount.read_only else "changes go with the container"
    return f"image at {checked(mount.target)}: {mount.source}{f' ({digest})' if digest else ''}{part}, {kind}"


def _said(place: str, fixed: frozenset[str]) -> str:
    return f"{place}, read-only" if place in fixed else place


def _declared(container: Container, fixed: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The places of the image's own volumes, and what has to be said of others.  All of it is hostile."""
    declared, refused = dict[str, None](), list[str]()
    for path in container.image.volumes[:MOST]:
        try:
            declared[checked(path)] = None
        except InvalidConfig as error:
            refused.append(f"the image's volume {path[:64]!r} is left out: {error.message}")
    if len(container.image.volumes) > MOST:
        refused.append(f"the image declares {len(container.image.volumes)} volumes: {MOST} are looked at")
    asked = [checked(mount.target) for mount in container.config.mounts]
    free = tuple(_free(declared, asked))
    for place in sorted(declared.keys() - set(free)):
        above = next((one for one in free if covers([one], place)), None)
        if above is not None and (above in fixed) != (place in fixed) and not covers(asked, place):
            kind = "read-only" if above in fixed else "not read-only"
            refused.append(f"the image's volume {place} is {kind}, as {above} is, in which it lies")
    return free, tuple(refused)


def _free(declared: dict[str, None], asked: list[str]) -> Iterator[str]:
    """Those that neither the request's mounts nor others of them cover."""
    taken = list(asked)
    for place in sorted(declared):
        if not covers(taken, place):
            taken.append(place)
            yield place
