"""The content store and transfers into it: whole or absent, once, resumed, teed, also across processes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesocosm.errors import Corrupt, Denied, Exhausted, NotFound, Unavailable
from mesocosm.images import blobs, transfer
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import EMPTY, Descriptor
from mesocosm.images.progress import Progress
from mesocosm.images.store_faults import store_faults
from mesocosm.images.transfer import Source, fetch

DATA = os.urandom(100_000)
DIGEST = Digest.of(DATA)
DESCRIPTOR = Descriptor("application/octet-stream", DIGEST, len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "store")


def leftovers(store: BlobStore) -> list[str]:
    return [path.name for part in ("ingest", "trash") for path in (store.root / part).iterdir()]


def hold_partial(store: BlobStore, data: bytes) -> None:
    ingest = store.begin(DIGEST, len(DATA))
    assert ingest is not None
    with ingest:
        assert list(ingest.resume()) == []
        ingest.write(data)


class Recorder:
    """A sink that records; ``fail_after`` bytes it raises ``error``."""

    made: list[Recorder]

    def __init__(self, error: Exception | None = None, fail_after: int = 1 << 60) -> None:
        self.data = bytearray()
        self.events: list[str] = []
        self._error = error
        self._fail_after = fail_after

    def write(self, chunk: bytes | memoryview, /) -> None:
        self.data += chunk
        if len(self.data) > self._fail_after and self._error:
            raise self._error

    def finish(self) -> None:
        self.events.append("finish")
        if self._error and self._fail_after == 0:
            raise self._error

    def abort(self) -> None:
        self.events.append("abort")


class Server:
    """A source that counts, and can break off."""

    def __init__(self, data: bytes = DATA, *, chunk: int = 10_000, breaks: int | None = None) -> None:
        self.data = data
        self.offsets: list[int] = []
        self.breaks = breaks
        self._chunk = chunk

    def __call__(self, offset: int) -> AsyncIterator[bytes]:
        self.offsets.append(offset)
        return self._bytes(offset)

    async def _bytes(self, offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(self.data), self._chunk):
            if self.breaks is not None and at >= self.breaks:
                self.breaks = None
                raise Unavailable("broke off")
            yield self.data[at : at + self._chunk]


# --- the store ---


def test_put_read_list_delete(store: BlobStore) -> None:
    assert store.put(DATA) == DIGEST
    assert store.read(DIGEST, limit=len(DATA)) == DATA
    assert b"".join(bytes(chunk) for chunk in store.chunks(DIGEST, len(DATA))) == DATA
    assert [(one.digest, one.size) for one in store.list()] == [(DIGEST, len(DATA))]
    assert store.has(DIGEST, len(DATA))
    assert not store.has(DIGEST, 5)
    assert store.delete(DIGEST)
    assert not store.delete(DIGEST)
    assert not leftovers(store)
    with pytest.raises(NotFound):
        store.read(DIGEST, limit=10)


def test_both_algorithms_live_side_by_side(store: BlobStore) -> None:
    wide = Digest.of(DATA, "sha512")
    store.put(DATA, wide)
    store.put(DATA)
    assert {one.digest for one in store.list()} == {wide, DIGEST}


def test_put_under_another_digest_is_refused(store: BlobStore) -> None:
    with pytest.raises(Corrupt):
        store.put(b"x", DIGEST)
    assert not list(store.list())
    assert not leftovers(store)


def test_directories_are_for_their_owner_only(store: BlobStore) -> None:
    for path in [store.root, *(one for one in store.root.rglob("*") if one.is_dir())]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_a_flipped_bit_is_found(store: BlobStore) -> None:
    store.put(DATA)
    store.verify(DIGEST)
    store.path(DIGEST).chmod(0o600)
    with store.path(DIGEST).open("r+b") as file:
        file.seek(5000)
        file.write(bytes([DATA[5000] ^ 1]))
    with pytest.raises(Corrupt):
        store.verify(DIGEST)
    with pytest.raises(Corrupt):
        store.read(DIGEST, limit=1 << 20)


def test_a_link_in_the_place_of_a_blob_is_not_followed(store: BlobStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    store.path(DIGEST).symlink_to(secret)
    assert not store.has(DIGEST)
    with pytest.raises(OSError):
        store.open_blob(DIGEST)


def test_the_store_can_be_moved(store: BlobStore, tmp_path: Path) -> None:
    store.put(DATA)
    store.root.rename(tmp_path / "elsewhere")
    assert BlobStore.open(tmp_path / "elsewhere").read(DIGEST, limit=1 << 20) == DATA


def test_sweep_takes_what_nobody_holds_and_leaves_the_rest(store: BlobStore) -> None:
    store.put(b"published")
    hold_partial(store, DATA[:50_000])
    (store.root / "trash" / "x").write_bytes(b"12345")
    held = store.begin(Digest.of(b"other"), 5)
    assert held is not None
    with held:
        held.write(b"oth")
        (store.root / "ingest" / "put-1").write_bytes(b"123")
        assert store.sweep(older_than=0) == 8  # a young download may be resumed, nothing else is
        assert store.sweep() == 50_000
        held.write(b"er")
        held.publish()
    assert {one.digest for one in store.list()} == {Digest.of(b"other"), Digest.of(b"published")}


def test_a_published_file_is_not_written_by_who_waited_for_its_lock(store: BlobStore) -> None:
    ingest = store.begin(DIGEST, len(DATA))
    assert ingest is not None
    with ingest:
        assert store.begin(DIGEST, len(DATA)) is None
        ingest.write(DATA)
        ingest.publish()
    second = store.begin(DIGEST, len(DATA))
    assert second is not None
    with second:
        assert second.offset == 0
        second.write(b"garbage")
    assert store.read(DIGEST, limit=1 << 20) == DATA


@pytest.mark.parametrize(
    "number, error", [(errno.ENOSPC, Exhausted), (errno.EDQUOT, Exhausted), (errno.EIO, Unavailable)]
)
def test_a_full_disk_at_any_write_leaves_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    original = os.write
    for failing in range(3):
        calls = iter(range(100))

        def write(fd: int, data: bytes, at: int = failing, calls: object = calls) -> int:
            if next(calls) == at:  # type: ignore[call-overload]
                raise OSError(number, os.strerror(number))
            return original(fd, data[:40_000])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(error):
                store.put(DATA)
        assert not list(store.list())
        assert not leftovers(store)
    assert store.put(DATA) == DIGEST


def test_a_full_disk_is_seen_before_the_download(store: BlobStore) -> None:
    ingest = store.begin(DIGEST, 1 << 61)
    assert ingest is not None
    with ingest, pytest.raises(Exhausted, match="left"):
        ingest.require_space()
    assert not leftovers(store)


# --- transfers ---


async def test_a_transfer_publishes_and_tees(store: BlobStore) -> None:
    sink, reports = Recorder(), list[Progress]()
    await fetch(store, DESCRIPTOR, Server(), sink=lambda: sink, report=reports.append)
    assert store.read(DIGEST, limit=1 << 20) == DATA
    assert (bytes(sink.data), sink.events) == (DATA, ["finish"])
    assert [one.done for one in reports] == sorted(one.done for one in reports)
    assert (reports[-1].done, reports[-1].total, reports[-1].finished) == (len(DATA), len(DATA), True)
    assert not leftovers(store)


async def test_a_stored_blob_is_not_fetched_but_still_runs_through_the_sink(store: BlobStore) -> None:
    store.put(DATA)
    sink, server, reports = Recorder(), Server(), list[Progress]()
    await fetch(store, DESCRIPTOR, server, sink=lambda: sink, report=reports.append)
    assert (bytes(sink.data), sink.events, server.offsets) == (DATA, ["finish"], [])
    assert reports[-1].already


async def test_embedded_data_needs_no_source(store: BlobStore) -> None:
    server = Server()
    await fetch(store, EMPTY, server)
    assert store.has(EMPTY.digest, 2)
    assert not server.offsets


async def test_a_resume_shows_the_sink_the_beginning_again(store: BlobStore) -> None:
    server, sinks = Server(breaks=50_000), [Recorder(), Recorder()]
    with pytest.raises(Unavailable):
        await fetch(store, DESCRIPTOR, server, sink=lambda: sinks[0])
    await fetch(store, DESCRIPTOR, server, sink=lambda: sinks[1])
    assert server.offsets == [0, 50_000]
    assert (sinks[0].events, sinks[1].events) == (["abort"], ["finish"])
    assert bytes(sinks[1].data) == DATA


@pytest.mark.parametrize("held", [bytes(50_000), bytes(len(DATA)), bytes(len(DATA) + 1)])
async def test_a_wrong_beginning_is_thrown_away_and_fetched_anew(store: BlobStore, held: bytes) -> None:
    (store.root / "ingest" / f"sha256-{DIGEST.hex}").write_bytes(held)
    server, sinks = Server(), list[Recorder]()

    def make() -> Recorder:
        sinks.append(Recorder())
        return sinks[-1]

    await fetch(store, DESCRIPTOR, server, sink=make)
    assert store.read(DIGEST, limit=1 << 20) == DATA
    assert server.offsets[-1] == 0
    assert sinks[-1].events == ["finish"]
    assert bytes(sinks[-1].data) == DATA
    assert not leftovers(store)


async def test_a_sink_that_stumbles_over_a_wrong_beginning_gets_another_chance(store: BlobStore) -> None:
    (store.root / "ingest" / f"sha256-{DIGEST.hex}").write_bytes(bytes(50_000))
    sinks = iter([Recorder(Corrupt("not gzip"), 10), Recorder()])
    await fetch(store, DESCRIPTOR, Server(), sink=lambda: next(sinks))
    assert store.has(DIGEST)


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", DATA[:-1] + b"\0", bytes(len(DATA)), b""])
async def test_I14_wrong_bytes_are_refused_and_leave_nothing(store: BlobStore, data: bytes) -> None:
    if data == DATA:
        return
    sink = Recorder()
    with pytest.raises(Corrupt):
        await fetch(store, DESCRIPTOR, Server(data), sink=lambda: sink)
    assert sink.events == ["abort"]
    assert not list(store.list())
    assert not leftovers(store)


@pytest.mark.parametrize("after", [0, 50_000])
async def test_a_failing_sink_fails_the_transfer_and_publishes_nothing(store: BlobStore, after: int) -> None:
    sink = Recorder(Exhausted("too many files"), after)
    with pytest.raises(Exhausted, match="too many files"):
        await fetch(store, DESCRIPTOR, Server(), sink=lambda: sink)
    assert sink.events[-1] == "abort"
    assert not list(store.list())
    assert not leftovers(store)


async def test_a_stored_blob_with_a_flipped_bit_is_fetched_anew(store: BlobStore) -> None:
    store.put(DATA)
    store.path(DIGEST).unlink()
    store.path(DIGEST).write_bytes(bytes(len(DATA)))
    sinks, server = list[Recorder](), Server()

    def make() -> Recorder:
        sinks.append(Recorder())
        return sinks[-1]

    await fetch(store, DESCRIPTOR, server, sink=make)
    assert server.offsets == [0]
    assert [one.events for one in sinks] == [["abort"], ["finish"]]
    store.verify(DIGEST)


async def test_a_sink_refusing_a_good_stored_blob_keeps_it(store: BlobStore) -> None:
    store.put(DATA)
    with pytest.raises(Corrupt, match="diff ID"):
        await fetch(store, DESCRIPTOR, Server(), sink=lambda: Recorder(Corrupt("diff ID"), 0))
    store.verify(DIGEST)


async def test_Q17_one_transfer_however_many_ask(store: BlobStore) -> None:
    server, sinks = Server(), [Recorder() for _ in range(20)]
    supply = iter(sinks)
    await asyncio.gather(*[fetch(store, DESCRIPTOR, server, sink=lambda: next(supply)) for _ in sinks])
    assert server.offsets == [0]
    assert all(bytes(sink.data) == DATA for sink in sinks)


async def test_Q17_when_the_first_fails_the_next_goes_on_from_there(store: BlobStore) -> None:
    server = Server(breaks=50_000)
    results = await asyncio.gather(
        *[fetch(store, DESCRIPTOR, server) for _ in range(5)], return_exceptions=True
    )
    assert [type(one) for one in results if one is not None] == [Unavailable]
    assert server.offsets == [0, 50_000]


async def test_a_cancelled_transfer_keeps_what_it_has_and_frees_the_lock(store: BlobStore) -> None:
    reached, server = asyncio.Event(), Server()

    async def endless(offset: int) -> AsyncIterator[bytes]:
        yield DATA[:30_000]
        reached.set()
        await asyncio.Event().wait()

    sink = Recorder()
    task = asyncio.create_task(fetch(store, DESCRIPTOR, endless, sink=lambda: sink))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.events == ["abort"]
    await fetch(store, DESCRIPTOR, server)
    assert server.offsets == [30_000]


async def test_a_cancel_ends_a_long_replay_at_the_next_chunk(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "CHUNK", 1000)
    store.put(DATA)
    begun, go = threading.Event(), threading.Event()

    class Slow(Recorder):
        def write(self, chunk: bytes | memoryview, /) -> None:
            super().write(chunk)
            begun.set()
            go.wait(10)

    sink = Slow()
    task = asyncio.create_task(fetch(store, DESCRIPTOR, Server(), sink=lambda: sink))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_soon(go.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.events == ["abort"]
    assert len(sink.data) < len(DATA)


async def test_without_keep_the_bytes_only_run_through(store: BlobStore) -> None:
    sink = Recorder()
    await fetch(store, DESCRIPTOR, Server(), sink=lambda: sink, keep=False)
    assert (bytes(sink.data), sink.events) == (DATA, ["finish"])
    assert not list(store.list())
    assert not leftovers(store)
    with pytest.raises(Corrupt):
        await fetch(store, DESCRIPTOR, Server(DATA[::-1]), keep=False)


async def test_in_thread_outlives_a_cancel() -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(10)
        ended.set()

    task = asyncio.create_task(transfer.in_thread(work))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_later(0.01, go.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


# --- several processes ---

FETCHER = """
import asyncio, os, sys
from pathlib import Path
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.transfer import fetch

root, pattern, dies = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "dies"
data = pattern.read_bytes()
store = BlobStore.open(root)

async def source(offset):
    with open(root / "asked", "a") as log:
        log.write(f"{offset}\\n")
    for at in range(offset, len(data), 10_000):
        yield data[at : at + 10_000]
        if dies and at >= 50_000:
            print("half", flush=True)
            await asyncio.Event().wait()

asyncio.run(fetch(store, Descriptor("a/b", Digest.of(data), len(data)), source))
print("done", flush=True)
"""


def start(store: BlobStore, pattern: Path, mode: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCHER, str(store.root), str(pattern), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_Q17_one_transfer_across_processes_also_when_the_first_is_killed(
    store: BlobStore, tmp_path: Path
) -> None:
    pattern = tmp_path / "data"
    pattern.write_bytes(DATA)
    with start(store, pattern, "dies") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "half\n"
        with start(store, pattern) as second, start(store, pattern) as third:
            first.send_signal(signal.SIGKILL)
            assert first.wait() == -signal.SIGKILL
            assert (second.wait(60), third.wait(60)) == (0, 0)
    assert (store.root / "asked").read_text().split() == ["0", "60000"]
    assert store.read(DIGEST, limit=1 << 20) == DATA
    assert not leftovers(store)


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
async def test_a_crash_at_any_step_leaves_the_blob_whole_or_absent(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The step fails as if the process had died there: nothing after it runs, not even cleaning up."""

    class Death(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Death

    server: Source = Server()
    with monkeypatch.context() as patch:
        if call == "rename":
            patch.setattr(Path, "rename", die)
        else:
            patch.setattr(os, call, die)
        patch.setattr(blobs.Ingest, "discard", lambda self: None)
        with pytest.raises(Death):
            await fetch(store, DESCRIPTOR, server)
    assert not store.has(DIGEST)
    await fetch(store, DESCRIPTOR, server)
    store.verify(DIGEST)
    assert not leftovers(store)


def test_a_store_of_somebody_elses_is_told_in_words() -> None:
    with pytest.raises(Denied) as caught, store_faults(Path("/x")):
        raise PermissionError(errno.EACCES, "Permission denied", "/x/blobs")
    assert str(caught.value) == "images in /x are not accessible: Permission denied (run as root)"
