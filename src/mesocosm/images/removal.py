"""Removing images by name: the last name takes the image along, unless a container holds it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mesocosm.errors import Busy, NotFound, WrongState
from mesocosm.images.collect import Collector
from mesocosm.images.digest import Digest
from mesocosm.images.image import ImageRecord, RefRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.leases import CONTAINER, PIN
from mesocosm.images.naming import Named, canonical
from mesocosm.images.reference import parse_reference


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed: names, images (digests), and the bytes freed."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed: int


def remove(store: ImageStore, named: Named, image: ImageRecord, *, force: bool) -> Removal:
    """Remove the name, and with the last one the image; blocking.

    Raises Busy for an image that a container holds, or that was named by its digest and has several names.
    ``force`` takes the names away all the same; what a container holds stays on disk until it is released.
    """
    refs = [ref for ref in store.catalogue.refs() if ref.digest == image.digest]
    _require_own(named, refs)
    doomed = [ref for ref in refs if named.ref is not None and ref == named.ref] or refs
    if named.ref is None and len(refs) > 1 and not force:
        names = ", ".join(sorted(parse_reference(ref.reference).familiar for ref in refs))
        raise Busy(
            f"image {image.digest} has several names: {names}", hint="name one of them, or use --force"
        )
    if len(doomed) == len(refs) and not force:
        _require_free(store, image)
    for ref in doomed:
        store.catalogue.unname(ref.reference, ref.platform)
    untagged = tuple(sorted(ref.reference for ref in doomed))
    if len(doomed) < len(refs):
        return Removal(untagged=untagged, deleted=(), freed=0)
    plan = Collector(store).remove([image.digest])
    return Removal(untagged=untagged, deleted=plan.images, freed=plan.size)


def remove_each(store: ImageStore, chosen: Sequence[Named], *, force: bool) -> Removal:
    """Remove a name on several platforms, see `remove`; blocking.  The first that is refused ends it."""
    done = [remove(store, named, named.require_image(), force=force) for named in chosen]
    return Removal(
        untagged=tuple(dict.fromkeys(name for one in done for name in one.untagged)),
        deleted=tuple(digest for one in done for digest in one.deleted),
        freed=sum(one.freed for one in done),
    )


def _require_own(named: Named, refs: Sequence[RefRecord]) -> None:
    """Raise NotFound for a digest in a repository that the image has no name of: it is found by its digest
    alone, and what would go are other names.
    """
    if named.reference is None or named.ref is not None or not refs:
        return
    if all(canonical(ref.reference).name != named.reference.name for ref in refs):
        names = ", ".join(sorted(canonical(ref.reference).familiar for ref in refs))
        raise NotFound(f"no image here is called {named.reference.familiar}", hint=f"it is here as {names}")


def _require_free(store: ImageStore, image: ImageRecord) -> None:
    owners = store.leases.needed().owners.get(image.digest, ())
    if any(owner.startswith(PIN) for owner in owners):
        raise WrongState(f"image {image.digest} is pinned", hint="unpin it first")
    holders = [owner.removeprefix(CONTAINER) for owner in owners if owner.startswith(CONTAINER)]
    if holders:
        raise Busy(
            f"image {image.digest} is used by container {', '.join(holders)}",
            hint="remove the container first, or use --force to take the name away",
        )


def pin_owner(image: ImageRecord) -> str:
    """The owner of the lease that pins an image."""
    return f"{PIN}{Digest.parse(image.digest).hex}"
