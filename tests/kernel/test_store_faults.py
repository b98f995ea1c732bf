"""A store that somebody damaged, moved, copied or shares, and clocks that jump (Q-14, Q-17, Q-20)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from crash import invariants
from mesocosm.errors import MesocosmError
from mesocosm.images import checked
from mesocosm.images.collect import Collector, Limits
from mesocosm.images.image import ImageRecord
from mesocosm.images.provisioner import Provisioner
from mesocosm.linux import mounts
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import file

IMAGE = image_of([[file(b"base", b"b" * 5_000)], [file(b"top", b"t")]])
RUNNING = image_of([[file(b"base")]], runtime={"Cmd": ["/hello"], "User": "7"})
OTHER = image_of([[file(b"base", b"b" * 5_000)], [file(b"other", b"o")]])
DAY = 86_400.0


def layouts(folder: Path) -> tuple[str, str]:
    """Both images, as names to pull."""
    one = write_layout(IMAGE, folder / "layout-one")
    two = write_layout(OTHER, folder / "layout-two")
    return f"oci:{one}", f"oci:{two}"


async def usable(provisioner: Provisioner, name: str, folder: Path) -> None:
    """A root of the image has the right bytes."""
    container = new_id()
    provision = await provisioner.provision(container, name, scratch=folder / f"scratch-{container}")
    with shown(provision.root, folder / "root") as root:
        assert (root / "base").read_bytes() == b"b" * 5_000
    await provisioner.release(container)


# --- damaged records ---

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "short by one": lambda data: data[:-1],
    "garbage": lambda data: os.urandom(len(data)),
    "zeroes": lambda data: bytes(len(data)),
    "another form": lambda data: b"[]",
    "a wrong type": lambda data: data.replace(b'"version":1', b'"version":"one"'),
    "not text": lambda data: data.replace(b"sha256", b"\xff\xfe2566"),
    "huge": lambda data: data + b" " * (9 << 20),
    "a flipped bit": lambda data: data.replace(b'"version":1', b'"version":0'),
}
RECORDS = {
    "image": "images/*.json",
    "name": "refs/*.json",
    "layer": "layers/*/layer.json",
    "place": "scrub.json",
}


@pytest.mark.parametrize("record", list(RECORDS))
async def test_q20_a_damaged_record_costs_what_it_describes(record: str, tmp_path: Path) -> None:
    """It is set aside, the rest is as before, and the same pull makes it whole without a byte fetched."""
    for number, (kind, damage) in enumerate(DAMAGE.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        one, two = layouts(folder)
        store = folder / "state/images"
        async with opened(folder) as provisioner:
            await provisioner.pull(one)
            await provisioner.pull(two)
            await provisioner.scrub()
            victim = min(store.glob(RECORDS[record]))
            victim.write_bytes(damage(victim.read_bytes()))
            await provisioner.images()
            assert len(await provisioner.images()) >= 1, kind
            for name in (one, two):
                await usable(provisioner, name, folder)
                verdict = await provisioner.verify(name, repair=True)
                assert (await provisioner.verify(name)).sound, (kind, verdict)
            await provisioner.recover(set())
            await provisioner.prune()
            assert [name for name in os.listdir(store / "ingest")] == [], kind
            for path in store.glob("*/*.damaged"):
                path.unlink()
            assert invariants.broken(store) == [], kind


@pytest.mark.parametrize("way", ["recover", "prune"])
async def test_q20_a_damaged_image_is_made_anew_from_what_it_was_made_of(way: str, tmp_path: Path) -> None:
    """And its layers are not taken for nobody's meanwhile; its source is gone, and nobody is asked."""
    one, two = layouts(tmp_path)
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(one)
        await provisioner.pull(two)
        before = {image.digest: image for image in await provisioner.images()}
        for name in ("layout-one", "layout-two"):
            shutil.rmtree(tmp_path / name)
        path = provisioner.store.root / "images" / f"{IMAGE.digest.partition(':')[2]}.json"
        path.write_bytes(b"garbage")
        assert [image.digest for image in await provisioner.images()] == [OTHER.digest]
        await (provisioner.recover(set()) if way == "recover" else provisioner.prune(Limits(age=DAY)))
        after = {image.digest: image for image in await provisioner.images()}
        assert after[IMAGE.digest].layers == before[IMAGE.digest].layers
        assert after[IMAGE.digest].runtime == before[IMAGE.digest].runtime
        await usable(provisioner, IMAGE.digest, tmp_path)
        assert invariants.broken(provisioner.store.root) == []


FLIPS = {
    "command": (b'"/hello"', b'"/hellp"'),
    "user": (b'"user":"7"', b'"user":"5"'),
    "layer": (b'"diff_id":"sha256:', b'"diff_id":"sha255:'),
    "size": (b'"config_size":', b'"config_size":1'),
    "itself": (b'{"digest":"sha256:', b'{"digest":"sha257:'),
}


@pytest.mark.parametrize("flip", list(FLIPS))
@pytest.mark.parametrize("way", ["verify", "scrub", "start"])
async def test_q20_what_a_damaged_record_says_is_not_believed(way: str, flip: str, tmp_path: Path) -> None:
    """It is found though it can be read, and what the image's documents say is told again."""
    layout = f"oci:{write_layout(RUNNING, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        before = await provisioner.pull(layout)
        path = next((provisioner.store.root / "images").iterdir())
        (old, new), data = FLIPS[flip], path.read_bytes()
        assert old in data and old != new
        path.write_bytes(data.replace(old, new))
        if way == "verify":
            assert (await provisioner.verify(layout)).sound
        elif way == "scrub":
            assert (await provisioner.scrub()).damaged == (RUNNING.digest,)
        else:
            scratch = tmp_path / "scratch"
            provision = await provisioner.provision(new_id(), before.digest, pull="never", scratch=scratch)
            assert provision.runtime == before.runtime
        after = await provisioner.inspect(before.digest)
        for member in ("runtime", "layers", "image_id", "platform"):
            assert getattr(after, member) == getattr(before, member)
        assert invariants.broken(provisioner.store.root) == []
        assert (await provisioner.scrub()).damaged == ()


@pytest.mark.parametrize("kind", ["folder", "link", "fifo", "stranger's", "unreadable"])
async def test_q20_odd_files_in_place_of_records(kind: str, tmp_path: Path) -> None:
    one, two = layouts(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"version": 1, "digest": IMAGE.digest}))
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(one)
        await provisioner.pull(two)
        for path in [
            *(tmp_path / "state/images/images").iterdir(),
            *(tmp_path / "state/images/refs").iterdir(),
        ]:
            data = path.read_bytes()
            path.unlink()
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(secret)
            elif kind == "fifo":
                os.mkfifo(path)
            else:
                path.write_bytes(data)
                os.chown(path, 4711, 4711)
                path.chmod(0o600 if kind == "stranger's" else 0)
        listed = await provisioner.images()
        assert len(listed) == (2 if kind in ("stranger's", "unreadable") else 0)
        for name in (one, two):
            await usable(provisioner, name, tmp_path)
        assert secret.read_text() == json.dumps({"version": 1, "digest": IMAGE.digest})


async def test_q20_a_record_of_a_newer_version_is_named_and_left(tmp_path: Path) -> None:
    one, _ = layouts(tmp_path)
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(one)
        path = next((tmp_path / "state/images/images").iterdir())
        record = checked.decode(path.read_bytes(), ImageRecord, path)
        path.write_bytes(checked.encode(msgspec.structs.replace(record, version=2)))
        with pytest.raises(MesocosmError, match="newer mesocosm") as caught:
            await provisioner.images()
        assert str(path) in str(caught.value)
        assert path.exists()


# --- clocks ---


@pytest.mark.parametrize("when", [0.0, 4e9, time.time() - 1e8, time.time() + 1e8])
async def test_q14_times_of_another_clock_do_no_harm(when: float, tmp_path: Path) -> None:
    """A record from 1970 or the far future: collection still goes by use, and spares what is held."""
    one, two = layouts(tmp_path)
    async with opened(tmp_path) as provisioner:
        container = new_id()
        await provisioner.pull(one)
        await provisioner.pull(two)
        await provisioner.provision(container, one, scratch=tmp_path / "held")
        for part in ("images", "refs", "leases", "ingest"):
            for path in (tmp_path / "state/images" / part).iterdir():
                os.utime(path, (when, when))
        plan = await provisioner.prune(Limits(age=30 * DAY), dry_run=True)
        assert IMAGE.digest not in plan.images
        assert (OTHER.digest in plan.images) == (when < time.time() - 30 * DAY)
        room = Collector(provisioner.store).room(Limits(budget=0, ceiling=0))
        assert room.images == (OTHER.digest,)  # what was used in the future can make room, too
        await provisioner.prune(Limits(age=30 * DAY))
        await usable(provisioner, one, tmp_path)
        await usable(provisioner, two, tmp_path)
        await provisioner.release(container)
        everything = await provisioner.prune(Limits(budget=0))
        assert set(everything.images) == {IMAGE.digest, OTHER.digest}


# --- moved, copied, on another device ---


async def test_a_store_may_be_moved_and_copied(tmp_path: Path) -> None:
    one, two = layouts(tmp_path)
    here, there, copy = tmp_path / "here", tmp_path / "there", tmp_path / "copy"
    here.mkdir()
    async with opened(here) as provisioner:
        await provisioner.pull(one)
        await provisioner.pull(two)
        await usable(provisioner, two, tmp_path)
    here.rename(there)
    shutil.copytree(there / "state", copy / "state", symlinks=True)
    (copy / "run").mkdir()
    shutil.rmtree(tmp_path / "layout-two")
    for place in (there, copy):
        assert invariants.broken(place / "state/images") == []
        async with opened(place) as provisioner:
            assert {image.digest for image in await provisioner.images()} == {IMAGE.digest, OTHER.digest}
            assert (await provisioner.verify(OTHER.digest)).sound
            await usable(provisioner, OTHER.digest, tmp_path)
            await provisioner.pull(one)


async def test_a_store_on_another_device_is_tried_anew(tmp_path: Path) -> None:
    """What worked on one file system says nothing of another: the backend is chosen for the device."""
    one, _ = layouts(tmp_path)
    async with opened(tmp_path) as provisioner:
        await usable(provisioner, one, tmp_path)
    note = tmp_path / "run/backend.json"
    before = json.loads(note.read_bytes())["device"]
    shutil.move(tmp_path / "state", tmp_path / "aside")
    (tmp_path / "state").mkdir()
    fd, target = mounts.tmpfs(size=64 << 20), os.open(tmp_path / "state", os.O_PATH)
    mounts.attach(fd, target)
    os.close(fd)
    os.close(target)
    try:
        shutil.copytree(tmp_path / "aside", tmp_path / "state", symlinks=True, dirs_exist_ok=True)
        async with opened(tmp_path) as provisioner:
            await usable(provisioner, one, tmp_path)
        assert json.loads(note.read_bytes())["device"] == os.stat(tmp_path / "state").st_dev != before
    finally:
        mounts.detach(str(tmp_path / "state"))


# --- shared ---

_USER = """
import asyncio, sys
from pathlib import Path
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.collect import Limits
from mesocosm.model import ContainerID
from mesocosm.paths import Paths

async def main(folder, name, rounds):
    for _ in range(rounds):
        async with Provisioner.open(Paths(folder / "state", folder / "run")) as provisioner:
            container = ContainerID.generate()
            scratch = folder / f"scratch-{container}"
            provision = await provisioner.provision(container, name, pull="always", scratch=scratch)
            for layer in provision.root.layers:
                assert any(Path(layer).iterdir()), layer
            await provisioner.prune(Limits(budget=0))
            for layer in provision.root.layers:
                assert any(Path(layer).iterdir()), layer
            await provisioner.release(container)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


async def emptied(folder: Path) -> None:
    """Recover, remove every image, collect."""
    async with opened(folder) as provisioner:
        await provisioner.recover(set())
        for image in await provisioner.images():
            await provisioner.remove(image.digest, force=True)
        await provisioner.prune()


def test_q18_processes_that_pull_start_and_collect_on_one_store_at_once(tmp_path: Path) -> None:
    """Each holds a lease on what it has; everybody collects all that nobody holds; nobody loses a layer."""
    names = layouts(tmp_path)
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "run").mkdir(mode=0o700)
    users = [
        subprocess.Popen(
            [sys.executable, "-c", _USER, str(tmp_path), name, "6"], stderr=subprocess.PIPE, text=True
        )
        for name in (*names, *names)
    ]
    for user in users:
        _, complaint = user.communicate()
        assert user.returncode == 0, complaint
    store = tmp_path / "state/images"
    assert invariants.broken(store) == []
    asyncio.run(emptied(tmp_path))
    assert invariants.left_over(store, tmp_path / "run") == []
