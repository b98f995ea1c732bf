"""The scrub: a flipped bit is found and brought back, a part at a time, by a thread that takes nothing."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from attacks.commandline import CommandLine
from mesocosm.images.image_store import ImageStore
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.scrub import Scrub
from mesocosm.linux import mounts, priority
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import file

IMAGE = image_of([[file(b"base", os.urandom(40_000))], [file(b"top", b"t" * 9_000)]])


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


async def pulled(provisioner: Provisioner, folder: Path) -> str:
    name = f"oci:{write_layout(IMAGE, folder / 'layout')}"
    await provisioner.pull(name)
    return name


def places(store: ImageStore) -> list[Path]:
    """Every blob and layer file of the image."""
    blobs = [store.blobs.path(stored.digest) for stored in store.blobs.list()]
    return blobs + [store.layers.content(diff_id, form) for diff_id, form in store.layers.list()]


async def test_what_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    """EIO, which reading a process's memory at 0 gives as a failing disk would; the rest is looked at all the
    same.
    """
    async with opened(tmp_path) as provisioner:
        name = await pulled(provisioner, tmp_path)
        blobs = [stored.digest for stored in provisioner.store.blobs.list()]
        path = provisioner.store.blobs.path(blobs[0])
        failing = mounts.clone_tree(f"/proc/{os.getpid()}/mem", recursive=False)
        mounts.attach_at(failing, str(path))
        os.close(failing)
        try:
            with pytest.raises(OSError, match="Input/output error"):
                path.read_bytes()
            verdict = await provisioner.verify(name)
            assert verdict.damaged == (str(blobs[0]),) and verdict.checked == len(places(provisioner.store))
            assert (await provisioner.scrub(repair=False)).damaged == verdict.damaged
        finally:
            mounts.detach(str(path))
        assert (await provisioner.verify(name)).sound


async def test_every_flipped_bit_is_found_and_brought_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        name = await pulled(provisioner, tmp_path)
        everything = places(provisioner.store)
        sound = await provisioner.scrub()
        assert (sound.checked, sound.damaged, sound.complete) == (len(everything), (), True)
        assert sound.size == sum(path.stat().st_size for path in everything)
        before = {path: path.read_bytes() for path in everything}
        for path in everything:
            flip(path)
        found = await provisioner.scrub(repair=False)
        assert len(found.damaged) == len(everything)
        repaired = await provisioner.scrub()
        assert (len(repaired.damaged), repaired.left) == (len(everything), ())
        assert {path: path.read_bytes() for path in everything} == before
        assert (await provisioner.verify(name)).sound
        provision = await provisioner.provision(new_id(), name, scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "top").read_bytes() == b"t" * 9_000


class Brief(Scrub):
    """Stopped at the third piece it reads, as a signal would."""

    pieces = 0

    def _passed(self, count: int) -> None:
        self.pieces += 1
        if self.pieces == 3:
            self.stop()
        super()._passed(count)


async def test_it_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    """Each thing is checked once in a pass, however many runs that takes."""
    async with opened(tmp_path) as provisioner:
        await pulled(provisioner, tmp_path)
        store, checked = provisioner.store, []
        while not Scrub(store).place().finished:
            checked.append(_in_own_thread(Brief(store)))
            assert len(checked) < 50
        assert sum(checked) == len(places(store))
        assert len(checked) > 1
        assert (await provisioner.scrub()).checked == len(places(store))  # and then all over again


def _in_own_thread(part: Scrub) -> int:
    """Run in a thread that may stay at idle priority; answers how many things were checked."""
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(part.run().checked))
    thread.start()
    thread.join()
    return answers[0]


async def test_what_belongs_to_nobody_just_goes(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        stray = provisioner.store.blobs.put(b"nobody's" * 100)
        flip(provisioner.store.blobs.path(stray))
        done = await provisioner.scrub()
        assert (done.damaged, done.left) == ((str(stray),), ())
        assert not provisioner.store.blobs.has(stray)


async def test_what_cannot_be_brought_back_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        await pulled(provisioner, tmp_path)
        manifest = provisioner.store.blobs.path(next(provisioner.store.catalogue.images()).documents[0])
        flip(manifest)
        for path in (tmp_path / "layout/blobs/sha256").iterdir():
            path.unlink()
        done = await provisioner.scrub()
        assert done.left == (IMAGE.digest,)
        assert not manifest.exists()  # a wrong byte is not readable


@pytest.mark.parametrize("content", [b"", b"{", b'{"version":1,"after":7}', bytes(100)])
async def test_a_place_that_cannot_be_read_is_the_beginning(content: bytes, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        await pulled(provisioner, tmp_path)
        (provisioner.store.root / "scrub.json").write_bytes(content)
        assert (await provisioner.scrub()).checked == len(places(provisioner.store))


def test_it_takes_what_nobody_wants() -> None:
    seen: list[tuple[int, int]] = []

    def look() -> None:
        priority.be_idle()
        thread = threading.get_native_id()
        got = priority._libc.syscall(priority.NUMBERS["ioprio_get"], 1, 0)
        seen.append((os.getpriority(os.PRIO_PROCESS, thread), got >> 13))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(19, 3)]
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) != 19


async def test_the_rate_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many seconds are waited as the bytes take at that rate; nobody waits here."""
    waits: list[float] = []
    async with opened(tmp_path) as provisioner:
        await pulled(provisioner, tmp_path)
        run = Scrub(provisioner.store, rate=10)

        def wait(seconds: float) -> bool:
            waits.append(seconds)
            return False

        monkeypatch.setattr(run._stopped, "wait", wait)
        thread = threading.Thread(target=run.run)
        thread.start()
        thread.join()
        total = sum(path.stat().st_size for path in places(provisioner.store))
    assert total / 10 - 60 < max(waits) <= total / 10


def test_by_the_command_line(tmp_path: Path) -> None:
    line = CommandLine(tmp_path)
    layout = write_layout(IMAGE, tmp_path / "layout")
    line("pull", "-q", f"oci:{layout}").accepted()
    blobs = sorted((line.root / "images/blobs/sha256").iterdir())
    flip(blobs[0])
    found = line("image", "scrub", "--check-only", "--rate", "1g")
    assert (found.status, found.out.count("still so")) == (1, 1), found.err
    done = line("image", "scrub", "--rate", "1g", "--for", "1h", "--format", "json").accepted()
    assert json.loads(done)["complete"] is True and json.loads(done)["left"] == []
    assert line("image", "scrub", "--quiet").accepted() == ""
