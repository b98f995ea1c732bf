"""What an interrupted pull leaves, and who goes on with it (Q-16; GAP-24)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crash import invariants
from malicious_registry import MaliciousRegistry, truncate
from mesocosm.errors import MesocosmError
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.layers.store import Form
from mesocosm.images.progress import Phase, Progress
from mesocosm.images.registry import client
from mesocosm.images.registry.limits import Limits
from provisions import docker_archive, image_of, opened, pack
from registry_fixtures import OCI_LAYER, sha256, write_layout
from tarballs import file

IMAGE = image_of([[file(b"data", os.urandom(300_000))]])
LAYER = Digest.parse(sha256(IMAGE.layers[0]))
HASTY = Limits(attempts=1, backoff=0.001, backoff_cap=0.01)


async def interrupted(registry: MaliciousRegistry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pull whose layer comes to two thirds at most; answers the file that has them."""
    registry.add(IMAGE, "a/b", "latest")
    registry.always(f"/blobs/{LAYER}", truncate(200_000))
    monkeypatch.setattr(client, "Limits", lambda: HASTY)
    async with opened(folder) as provisioner:
        with pytest.raises(MesocosmError):
            await provisioner.pull(f"{registry.host}/a/b")
    registry.honest()
    monkeypatch.undo()
    partial = folder / f"state/images/ingest/sha256-{LAYER.hex}"
    assert 0 < partial.stat().st_size <= 200_000
    return partial


async def test_what_other_commands_do_meanwhile_takes_nothing_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command recovers first; for a day that leaves the download to the pull that goes on with it."""
    async with MaliciousRegistry() as registry:
        partial = await interrupted(registry, tmp_path, monkeypatch)
        come, spool = partial.stat().st_size, partial.with_name("spool-1")
        spool.write_bytes(b"what nobody goes on with")
        async with opened(tmp_path) as provisioner:
            await provisioner.recover(set())
            await provisioner.prune()
            assert partial.exists() and not spool.exists()
            registry.seen.clear()
            assert (await provisioner.pull(f"{registry.host}/a/b")).complete
        [asked] = [seen for seen in registry.seen if str(LAYER) in seen.path]
        assert asked.headers["range"] == f"bytes={come}-"


@pytest.mark.parametrize("way", ["recover", "prune"])
async def test_after_a_day_nobody_goes_on_with_it(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MaliciousRegistry() as registry:
        partial = await interrupted(registry, tmp_path, monkeypatch)
        invariants.let_a_day_pass(tmp_path / "state/images")
        async with opened(tmp_path) as provisioner:
            await (provisioner.recover(set()) if way == "recover" else provisioner.prune())
        assert not partial.exists()


def _whole(data: bytes) -> bytes:
    return data


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def _shorter(data: bytes) -> bytes:
    return data[:-1]


@pytest.mark.parametrize("change", [_whole, _flipped, _shorter])
async def test_a_layer_that_came_before_its_blob_did(
    change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """A crash between the two: the blob is published when it is whole, nothing is asked for, nothing left."""
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        registry.add(IMAGE, "a/b", "latest")
        registry.add(IMAGE, "a/c", "latest")
        await provisioner.pull(f"{registry.host}/a/b")
        blobs = provisioner.store.blobs
        data = blobs.read(LAYER, limit=1 << 20)
        blobs.delete(LAYER)
        partial = tmp_path / f"state/images/ingest/sha256-{LAYER.hex}"
        partial.write_bytes(change(data))
        registry.seen.clear()
        assert (await provisioner.pull(f"{registry.host}/a/c")).complete
        assert not registry.paths(str(LAYER))
        assert not partial.exists()
        assert blobs.has(LAYER) == (change is _whole)
        assert invariants.broken(tmp_path / "state/images") == []


@pytest.mark.parametrize("family", ["oci", "oci-archive", "docker-archive"])
async def test_of_an_archive_on_this_host_nothing_stays(family: str, tmp_path: Path) -> None:
    """What failed or was given up in the middle is copied anew: there is nothing to save by keeping it."""
    image = image_of([[file(b"data", os.urandom(8 << 20))]])
    path = tmp_path / "image"
    if family == "docker-archive":
        docker_archive(image, path)
    elif family == "oci-archive":
        pack(write_layout(image, tmp_path / "layout"), path)
    else:
        write_layout(image, path)
    async with opened(tmp_path) as provisioner:
        ingest = provisioner.store.root / "ingest"
        held: list[str] = []

        def give_up(progress: Progress) -> None:
            if progress.phase is Phase.DOWNLOAD and 1 << 20 < progress.done < (progress.total or 0):
                held.extend(one.name for one in ingest.glob("sha256-*") if one.stat().st_size)
                pulling.cancel()

        pulling = asyncio.ensure_future(provisioner.pull(f"{family}:{path}", progress=give_up))
        with pytest.raises(asyncio.CancelledError):
            await pulling
        assert held and list(ingest.iterdir()) == []
        assert (await provisioner.pull(f"{family}:{path}")).complete


@pytest.mark.parametrize("act", ["pull", "commit"])
async def test_what_was_copied_here_goes_with_the_next_command(act: str, tmp_path: Path) -> None:
    """Also where SIGKILL ended it: nobody goes on with what is not fetched, so it is not kept a day."""
    image = image_of([[file(b"data", os.urandom(3 << 20))]])
    reference = f"oci:{write_layout(image, tmp_path / 'layout')}"
    changes = [tmp_path / "changes"] if act == "commit" else []
    for path in changes:
        path.mkdir()
    ingest = tmp_path / "state/images/ingest"
    assert killed(tmp_path, reference, *changes) == -signal.SIGKILL
    [left] = ingest.glob("sha256-*")
    assert left.stat().st_size > 0
    async with opened(tmp_path) as provisioner:
        await provisioner.recover(set())
        assert not left.exists()


async def test_a_download_that_goes_on_with_a_copy_may_be_gone_on_with(tmp_path: Path) -> None:
    """What a killed copy left is as good a beginning as any, and then a download."""
    path = write_layout(IMAGE, tmp_path / "layout")
    assert killed(tmp_path, f"oci:{path}") == -signal.SIGKILL
    [left] = (tmp_path / "state/images/ingest").glob("sha256-*")
    async with opened(tmp_path) as provisioner:
        blobs = provisioner.store.blobs
        for resume, kept in ((False, False), (True, True), (False, True)):
            ingest = blobs.begin(LAYER, len(IMAGE.layers[0]), resume=resume)
            assert ingest is not None
            ingest.close()
            assert (left.stat().st_mode & 0o777) == (0o600 if kept else 0o700)
        await provisioner.recover(set())
        assert left.exists()


def killed(*words: str | Path) -> int:
    """How crash/dying_copy.py ended."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, tests / "crash/dying_copy.py", *words]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tests)}, check=False).returncode


async def test_a_layer_given_up_before_its_first_byte_leaves_no_lock(tmp_path: Path) -> None:
    """A cancel comes while what a crash left of the layer is being removed."""

    async def never(*_: object, **__: object) -> None:
        pytest.fail("the blob was fetched")

    async with opened(tmp_path) as provisioner:
        layers, ingest = provisioner.store.layers, provisioner.store.root / "ingest"
        descriptor = Descriptor(media_type=OCI_LAYER, digest=LAYER, size=len(IMAGE.layers[0]))
        work = asyncio.ensure_future(layers.ingest(descriptor, LAYER, Form.TREE, never))
        await asyncio.sleep(0)
        assert [one.name for one in ingest.iterdir()] == [f"layer-{LAYER.hex}.tree.lock"]
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert list(ingest.iterdir()) == []


async def test_the_lock_of_a_layer_goes_with_what_a_crash_left_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        left = provisioner.store.root / f"ingest/layer-{LAYER.hex}.tree"
        (left / "root").mkdir(parents=True)
        provisioner.store.layers.empty_trash()
        assert list(left.parent.iterdir()) == []
