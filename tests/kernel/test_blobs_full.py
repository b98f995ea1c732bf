"""The content store on a file system that is really full, and with pullers that are really killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from malicious_registry import MaliciousRegistry
from mesocosm.errors import Exhausted
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.transfer import fetch
from registry_fixtures import SmallImage, small_image


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


def source(data: bytes) -> object:
    async def chunks(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(data), 100_000):
            yield data[at : at + 100_000]

    return chunks


async def test_a_full_disk_fails_the_transfer_and_leaves_room_for_the_next(small_disk: Path) -> None:
    store = BlobStore.open(small_disk / "store")
    small, big = os.urandom(500_000), os.urandom(3 << 20)
    for keep_secret in (False, True):
        # A descriptor without a promise of size cannot be refused beforehand: the write itself fails.
        ingest = store.begin(Digest.of(big), None if keep_secret else len(big))
        assert ingest is not None
        with ingest, pytest.raises(Exhausted, match="left"):
            ingest.require_space()
            for at in range(0, len(big), 100_000):
                ingest.write(big[at : at + 100_000])
        assert not list((store.root / "ingest").iterdir())
    with pytest.raises(Exhausted):
        store.put(big)
    assert not list((store.root / "ingest").iterdir())
    descriptor = Descriptor("a/b", Digest.of(small), len(small))
    await fetch(store, descriptor, source(small))  # type: ignore[arg-type]
    store.verify(descriptor.digest)


PULLER = """
import asyncio, sys
from pathlib import Path
from mesocosm.images.blobs import BlobStore
from mesocosm.images.documents import parse_document
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.limits import Limits

async def pull(host, root, names):
    store = BlobStore.open(Path(root))
    hosts, limits = HostsConfig(certs_dirs=()), Limits()
    async with await RegistryClient.open(host, hosts=hosts, limits=limits) as client:
        async def one(name):
            reply = await client.manifest("a/b", name)
            document = parse_document(reply.data, content_type=reply.media_type)
            blobs = (document.config, *document.layers)
            await asyncio.gather(*[client.fetch_blob(store, "a/b", blob) for blob in blobs])
            print(name, flush=True)
        await asyncio.gather(*[one(name) for name in names])

asyncio.run(pull(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


def shared_images() -> list[SmallImage]:
    """Eight images that share their first layer."""
    base = {"base": os.urandom(500_000)}
    return [small_image([base, {"own": os.urandom(50_000)}]) for _ in range(8)]


async def start(registry: MaliciousRegistry, root: Path, names: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PULLER, registry.host, str(root), *names, stdout=subprocess.PIPE
    )


async def test_Q17_64_pulls_of_8_images_with_kills_fetch_each_blob_once(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        images = shared_images()
        for number, image in enumerate(images):
            registry.add(image, "a/b", f"v{number}")
        names = [f"v{number}" for number in range(8)] * 4
        root = tmp_path / "store"
        victim = await start(registry, root, names)
        assert victim.stdout is not None
        assert await victim.stdout.readline()
        pullers = [await start(registry, root, names) for _ in range(2)]
        victim.send_signal(signal.SIGKILL)
        await victim.wait()
        for puller in pullers:
            output, _ = await puller.communicate()
            assert (puller.returncode, len(output.split())) == (0, 32)
        expected = {digest: data for image in images for digest, data in image.blobs.items()}
        store = BlobStore.open(root)
        assert {str(one.digest): one.size for one in store.list()} == {
            digest: len(data) for digest, data in expected.items()
        }
        for one in store.list():
            store.verify(one.digest)
        # What the killed one had just begun is empty, and the sweep's.
        assert store.sweep() == 0
        assert not list((store.root / "ingest").iterdir())
        # Only what the killed process had in flight may have been asked for a second time.
        asked = registry.paths("/blobs/")
        assert len(set(asked)) == len(expected)
        assert len(asked) <= 2 * len(expected)
        resumed = [one for one in registry.seen if "range" in one.headers]
        assert len(asked) - len(resumed) <= len(expected) + 8


def test_memory_of_a_transfer_does_not_grow_with_the_blob(tmp_path: Path) -> None:
    """300 MiB through the store, and less than 32 MiB more at the peak."""
    script = """
import asyncio, hashlib, resource, sys
from pathlib import Path
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.transfer import fetch

SIZE, PIECE = 300 << 20, bytes(1 << 20)
whole = hashlib.sha256()
for _ in range(SIZE >> 20):
    whole.update(PIECE)

async def source(offset):
    for _ in range(offset, SIZE, 1 << 20):
        yield PIECE

store = BlobStore.open(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
one = Descriptor("a/b", Digest("sha256", whole.hexdigest()), SIZE)
asyncio.run(fetch(store, one, source, keep=False))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store")], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 32 << 10, "KiB"
