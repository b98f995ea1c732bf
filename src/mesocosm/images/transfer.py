"""Bringing a blob in: one transfer per blob however many ask, resumed where the last one stopped, teed to a
sink.

    source (network) ──► [worker thread: hash, write, sink.write] ──► publish

The event loop only moves chunks; hashing, writing and what the sink does (decompress, hash again, write a
layer) run in a thread per transfer, one chunk behind the socket.  All of them release the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Final, Protocol, TypeVar

from mesocosm import trace
from mesocosm.errors import Corrupt, Denied, NotFound, Unavailable
from mesocosm.images.blobs import BlobStore, Ingest
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.progress import Phase, Progress, Report, silent

Result = TypeVar("Result")

POLL: Final = 0.05
"""Seconds between looks at a lock that another process holds: flock cannot be waited for and cancelled."""


class Sink(Protocol):
    """Takes a blob's bytes in order while they arrive.  All calls come from one worker thread at a time.

    What has been written is not verified until ``finish``.  A failing ``write`` or ``finish`` fails the
    transfer with its own error; then, or when the transfer fails or is cancelled, ``abort`` is called once.
    """

    def write(self, chunk: bytes | memoryview, /) -> None:
        """Take the next bytes; the view is valid only during the call."""

    def finish(self) -> None:
        """The blob's digest and size were right: check what only the sink can (diff ID) and keep the
        outcome.
        """

    def abort(self) -> None:
        """Throw everything away; must not raise."""


Source = Callable[[int], AsyncIterator[bytes]]
"""Opens the blob's bytes from an offset on.  It retries by itself; ends when the blob does."""

SinkFactory = Callable[[], Sink]
"""Makes a fresh sink: called again when a transfer has to begin anew."""


class Discard:
    """The sink that keeps nothing: the store is enough."""

    def write(self, chunk: bytes | memoryview, /) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""


async def fetch(
    store: BlobStore,
    descriptor: Descriptor,
    source: Source,
    *,
    sink: SinkFactory = Discard,
    report: Report = silent,
    keep: bool = True,
    resume: bool = True,
) -> None:
    """Have the blob in ``store`` and its bytes run through one sink, fetching only what is missing.

    Whoever comes second, in this process or another, waits for the first and then reads the stored bytes;
    when the first fails or dies, the next goes on from where it stopped.  Nothing is published, and
    ``Sink.finish`` not called, before digest and size are right.  Bytes that an earlier run left and that
    turn out wrong are fetched anew, once.  Raises Corrupt, Exhausted, and whatever ``source`` and the sink
    raise.  A cancel and a source that fails keep the partial file for the next try, but not without
    ``resume``, when what is left by a process that dies is gone with the next sweep, too.  Without ``keep``
    the blob is not stored: then whoever comes second fetches again, so the caller must already hold a lock of
    its own on the outcome.
    """
    if descriptor.data is not None:
        await in_thread(store.put, descriptor.data, descriptor.digest)
    await _have(store, descriptor.digest, descriptor.size, source, sink, report, keep, resume)


async def fetch_unsized(store: BlobStore, digest: Digest, source: Source, *, report: Report = silent) -> int:
    """As `fetch`, for a blob whose size nobody told; ``source`` has to bound it.  Returns its bytes."""
    await _have(store, digest, None, source, Discard, report, keep=True, resume=True)
    return store.size(digest) or 0


async def _have(
    store: BlobStore,
    digest: Digest,
    size: int | None,
    source: Source,
    sink: SinkFactory,
    report: Report,
    keep: bool,
    resume: bool,
) -> None:
    while True:
        if store.has(digest, size):
            try:
                return await _replay(store, digest, sink, report)
            except Corrupt as error:
                await _drop_if_bad(store, digest, error)
                continue
        ingest = await _begin(store, digest, size, keep, resume)
        if ingest is None:
            continue
        with ingest:
            try:
                if await _resumable(ingest, source, sink, report):
                    return None
            except BaseException:
                if not resume and not ingest.resumed:
                    ingest.discard()
                raise


def settle(store: BlobStore, descriptor: Descriptor) -> None:
    """Publish what an earlier attempt left of a blob when it is whole, else remove it; blocking.

    For whoever has the outcome already: a crash may come between the sink's end and the blob's.
    """
    if not store.begun(descriptor.digest):
        return
    ingest = store.begin(descriptor.digest, descriptor.size)
    if ingest is None:
        return  # somebody is at it
    with ingest:
        for _ in ingest.resume():
            pass
        if not ingest.complete or store.has(descriptor.digest, descriptor.size):
            ingest.discard()
            return
        with contextlib.suppress(Corrupt):
            ingest.publish()


async def in_thread(
    call: Callable[..., Result], *args: object, stop: Callable[[], None] | None = None
) -> Result:
    """Run ``call`` in a worker thread, and do not return before it has, even when cancelled.

    ``stop`` is called at a cancel, so that a long ``call`` can be told to end early.

    ``asyncio.to_thread`` leaves the thread running at a cancel: it would write to descriptors closed
    meanwhile.
    """
    work = asyncio.ensure_future(asyncio.to_thread(call, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.shield(work)
        if not work.cancelled():
            work.exception()
        raise


async def _begin(
    store: BlobStore, digest: Digest, size: int | None, keep: bool, resume: bool
) -> Ingest | None:
    """Take the ingest lock; None when the blob was published while waiting for it."""
    while not store.has(digest, size):
        ingest = store.begin(digest, size, keep=keep, resume=resume)
        if ingest is None:
            trace.point("transfer.waiting")
            await asyncio.sleep(POLL)
        elif store.has(digest, size):
            # Published between the look and the lock: what is held now is a new, empty file.
            ingest.close()
        else:
            return ingest
    return None


_KEEP_PARTIAL = (asyncio.CancelledError, KeyboardInterrupt, Unavailable, Denied, NotFound)
"""Failures that say nothing against the bytes held so far."""


async def _resumable(ingest: Ingest, source: Source, make: SinkFactory, report: Report) -> bool:
    """Complete and publish ``ingest``; False when what was resumed proved wrong and all must begin anew."""
    try:
        with _aborting(make()) as sink:
            await _download(ingest, source, sink, report)
    except _KEEP_PARTIAL:
        raise
    except BaseException as error:
        ingest.discard()
        if isinstance(error, Corrupt) and ingest.resumed:
            return False
        raise
    return True


async def _download(ingest: Ingest, source: Source, sink: Sink, report: Report) -> None:
    await _feed(ingest.resume(), sink)
    ingest.require_space()
    subject, total, resumed = str(ingest.digest), ingest.size, ingest.resumed
    report(Progress(Phase.DOWNLOAD, subject, ingest.offset, total, resumed))
    if not ingest.complete:
        async with contextlib.aclosing(_closing(source(ingest.offset))) as stream:
            async for chunk in stream:
                await in_thread(_take, ingest, sink, chunk)
                report(Progress(Phase.DOWNLOAD, subject, ingest.offset, total, resumed))
    ingest.check()
    await in_thread(sink.finish)
    await in_thread(ingest.publish)
    report(Progress(Phase.DOWNLOAD, subject, ingest.offset, total, resumed, finished=True))


async def _replay(store: BlobStore, digest: Digest, make: SinkFactory, report: Report) -> None:
    """Run a stored blob through a sink, verifying it on the way."""
    size = store.size(digest) or 0
    if make is not Discard:
        with _aborting(make()) as sink:
            await _feed(store.chunks(digest, size), sink)
            await in_thread(sink.finish)
    report(Progress(Phase.DOWNLOAD, str(digest), size, size, resumed=size, already=True, finished=True))


async def _drop_if_bad(store: BlobStore, digest: Digest, error: Corrupt) -> None:
    """Delete a stored blob whose own bytes are wrong; raise ``error`` when they are right (the sink's
    verdict).
    """
    try:
        await in_thread(store.verify, digest)
    except Corrupt:
        store.delete(digest)
        return
    raise error


@contextlib.contextmanager
def _aborting(sink: Sink) -> Iterator[Sink]:
    try:
        yield sink
    except BaseException:
        sink.abort()
        raise


async def _feed(chunks: Generator[memoryview, None, None], sink: Sink) -> None:
    """Run stored bytes through the sink in one thread call; a cancel ends it at the next chunk."""
    stopped = threading.Event()

    def run() -> None:
        with contextlib.closing(chunks):
            for chunk in chunks:
                if stopped.is_set():
                    return
                sink.write(chunk)

    await in_thread(run, stop=stopped.set)


def _take(ingest: Ingest, sink: Sink, chunk: bytes) -> None:
    ingest.write(chunk)
    sink.write(chunk)


async def _closing(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in stream:
            yield chunk
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
