"""A scrub for those who await it: a thread of its own, and the repair of what it found."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from mesocosm.errors import Busy, MesocosmError
from mesocosm.images.layers.store import Form
from mesocosm.images.rebuild import rebuild
from mesocosm.images.scrub import RATE, Scrub, Scrubbed
from mesocosm.images.transfer import in_thread
from mesocosm.images.verification import Verdict, Verification

if TYPE_CHECKING:
    from mesocosm.images.library import Library


async def scrub(library: Library, rate: int | None, seconds: float | None, *, repair: bool) -> Scrubbed:
    """Scrub a library's store; a cancel ends it at the next piece, with its place kept."""
    await in_thread(_read_records, library)
    run = Scrub(library.store, rate=rate or RATE, seconds=seconds)
    with ThreadPoolExecutor(1, "scrub") as thread:  # not a shared one: its priority stays idle
        work = asyncio.get_running_loop().run_in_executor(thread, run.run)
        try:
            done = await asyncio.shield(work)
        except asyncio.CancelledError:
            run.stop()
            await work
            raise
    if not repair:
        return done
    for damaged in done.damaged:
        await _repair(library, damaged)
    left: list[str] = await in_thread(_still_damaged, library, done.damaged)
    made: list[str] = await in_thread(rebuild, library.store)
    return msgspec.structs.replace(done, damaged=(*done.damaged, *made), left=tuple(left))


def _read_records(library: Library) -> None:
    """Those that are damaged are set aside by who reads them."""
    for _ in (*library.store.catalogue.refs(), *library.store.catalogue.images()):
        pass


async def _repair(library: Library, damaged: str) -> None:
    """Bring a blob or layer back, from whichever image it belongs to can; what belongs to none just goes."""
    verdict = Verdict(checked=1, damaged=(damaged,), absent=())
    for image in await library.images():
        parts = {image.digest, image.image_id, image.published}
        parts |= {text for layer in image.layers for text in (layer.digest, layer.diff_id)}
        if damaged in parts:
            with contextlib.suppress(MesocosmError):
                await library.repair(image.digest, verdict)
                return
    await in_thread(Verification(library.store).discard, verdict)


def _still_damaged(library: Library, damaged: tuple[str, ...]) -> list[str]:
    """Those that are not back, though an image needs them."""
    store, images = library.store, list(library.store.catalogue.images())
    layers = {str(diff_id) for diff_id, form in store.layers.list() if form is not Form.MERGED}
    needed = {str(diff_id) for image in images for diff_id in image.diff_ids} - layers
    needed |= {str(one) for image in images for one in image.kept if not store.blobs.has(one)}
    return [text for text in damaged if text in needed or _is_held(library, text)]


def _is_held(library: Library, text: str) -> bool:
    try:
        Verification(library.store).require_free(Verdict(checked=1, damaged=(text,), absent=()))
    except Busy:
        return True
    return False
