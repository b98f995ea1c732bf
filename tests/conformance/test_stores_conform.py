"""One image through every family of stores: the same layers, the same runtime, the same tree."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

import schema1_images
from malicious_registry import MaliciousRegistry
from mesocosm.errors import Corrupt, Exhausted, InvalidConfig, MesocosmError, NotFound
from mesocosm.images.archive import Archive
from mesocosm.images.stores.docker_archive import IMAGES, entries
from provisions import docker_archive, image_of, legacy_archive, new_id, opened, pack, shown, tar_of
from registry_fixtures import SmallImage, sha256, write_layout
from tarballs import directory, file, symlink
from trees import snapshot

IMAGE = image_of(
    [
        [
            directory(b"bin"),
            file(b"bin/hello", b"#!/bin/sh\n", 0o755),
            file(b"gone"),
            directory(b"old"),
            file(b"old/a"),
        ],
        [
            file(b".wh.gone", b""),
            directory(b"old"),
            file(b"old/.wh..wh..opq", b""),
            file(b"old/b"),
            symlink(b"link", b"bin"),
        ],
    ],
    runtime={
        "Entrypoint": ["/bin/hello"],
        "Cmd": ["world"],
        "Env": ["PATH=/bin", "A=1"],
        "User": "7:8",
        "WorkingDir": "/old",
        "StopSignal": "SIGUSR1",
        "Volumes": {"/data": {}},
        "ExposedPorts": {"80/tcp": {}},
        "Labels": {"org.example": "yes"},
    },
)
Source = Callable[[Path], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def layout(folder: Path) -> AsyncIterator[str]:
    yield f"oci:{write_layout(IMAGE, folder / 'layout')}:latest"


@asynccontextmanager
async def layout_archive(folder: Path) -> AsyncIterator[str]:
    yield f"oci-archive:{pack(write_layout(IMAGE, folder / 'layout'), folder / 'layout.tar')}"


@asynccontextmanager
async def saved(folder: Path) -> AsyncIterator[str]:
    yield f"docker-archive:{docker_archive(IMAGE, folder / 'image.tar')}"


@asynccontextmanager
async def saved_long_ago(folder: Path) -> AsyncIterator[str]:
    yield f"docker-archive:{legacy_archive(IMAGE, folder / 'image.tar')}:example.org/app:1"


@asynccontextmanager
async def pushed(_: Path) -> AsyncIterator[str]:
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        yield f"docker://{registry.host}/a/b:latest"


@asynccontextmanager
async def pushed_long_ago(_: Path) -> AsyncIterator[str]:
    async with MaliciousRegistry() as registry:
        schema1_images.serve(registry, IMAGE)
        yield f"docker://{registry.host}/a/b:latest"


SOURCES: list[Source] = [layout, layout_archive, saved, saved_long_ago, pushed, pushed_long_ago]
ALLOWED = 'allow-schema1 = ["127.0.0.1:*/**"]\n'


@pytest.mark.parametrize("source", SOURCES, ids=[source.__name__ for source in SOURCES])
async def test_every_family_gives_the_same_image(source: Source, tmp_path: Path) -> None:
    async with source(tmp_path) as reference, opened(tmp_path, ALLOWED) as provisioner:
        scratch = tmp_path / "scratch"
        provision = await provisioner.provision(new_id(), reference, scratch=scratch)
        steps = [step.created_by for step in await provisioner.history(reference)]
        assert steps == ["step 1", "step 0"]
        with shown(provision.root, tmp_path / "root") as root:
            tree = snapshot(root)
        assert set(tree) == {b".", b"bin", b"bin/hello", b"old", b"old/b", b"link"}
        assert tree[b"bin/hello"].mode == 0o755 and tree[b"link"].target == b"bin"
        runtime = provision.runtime
        assert (runtime.entrypoint, runtime.command) == (("/bin/hello",), ("world",))
        assert (runtime.env, runtime.user, runtime.workdir) == (("PATH=/bin", "A=1"), "7:8", "/old")
        assert (runtime.stop_signal, runtime.volumes, runtime.exposed_ports) == (
            "10",
            ("/data",),
            ("80/tcp",),
        )
        assert runtime.labels == {"org.example": "yes"}
        image = await provisioner.inspect(provision.identity.digest or "")
        assert provision.identity.layers == tuple(layer.diff_id for layer in image.layers)
        assert len(set(provision.identity.layers)) == 2
        again = await provisioner.pull(reference)
        assert again.digest == image.digest


async def test_layers_are_shared_between_families(tmp_path: Path) -> None:
    """Layers are kept by diff ID: the same tar through every family is on disk once."""
    async with opened(tmp_path, ALLOWED) as provisioner:
        for number, source in enumerate(SOURCES):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with source(folder) as reference:
                await provisioner.pull(reference)
        assert len(list(provisioner.store.layers.list())) == 2
        usage = await provisioner.usage()
        assert usage.shared == usage.layers > 0


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("source", [layout_archive, saved, saved_long_ago])
async def test_archives_may_be_compressed(source: Source, packer: str, tmp_path: Path) -> None:
    """The same image, decompressed once while the store is open; another file of that name is another."""
    async with opened(tmp_path) as provisioner, source(tmp_path) as reference:
        path = Path(reference.split(":")[1])
        plain, whole = await provisioner.pull(reference), path.read_bytes()
        await provisioner.remove(reference)
        path.write_bytes(PACKERS[packer](whole))
        ingest = provisioner.store.root / "ingest"
        packed = await provisioner.pull(reference)
        assert (packed.digest, packed.source, packed.complete) == (plain.digest, plain.source, True)
        (spool,) = ingest.glob("spool-*")
        assert (await provisioner.pull(reference)).digest == plain.digest
        assert list(ingest.glob("spool-*")) == [spool]
        path.write_bytes(PACKERS[packer](whole[: len(whole) // 2]))
        with pytest.raises(Corrupt) as caught:
            await provisioner.pull(reference)
        assert str(path) in str(caught.value) and "spool-" not in str(caught.value)
    assert list(ingest.iterdir()) == []


async def test_i09_a_compressed_archive_has_its_bounds(tmp_path: Path) -> None:
    """A file of zeroes is given up when it turns out to be nothing else."""
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", 6) as bomb:
        for _ in range(128):
            bomb.write(bytes(1 << 20))
    await refused(tmp_path, f"oci-archive:{tmp_path / 'bomb.tar.gz'}", Exhausted, "bomb.tar.gz")


async def refused(folder: Path, reference: str, error: type[MesocosmError], words: str) -> None:
    """One clear line, and nothing in the store."""
    async with opened(folder) as provisioner:
        with pytest.raises(error) as caught:
            await provisioner.pull(reference)
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert list(provisioner.store.layers.list()) == []
        assert await provisioner.images() == []


async def test_i20_names_in_an_archive_are_never_paths_of_the_host(tmp_path: Path) -> None:
    """I-20: ``Config`` and ``Layers`` that lead out of the archive are simply not in it."""
    secret = tmp_path / "secret"
    secret.write_bytes(IMAGE.config)
    for config, layers in [
        ("../secret", ["l"]),
        (str(secret), ["l"]),
        ("c", ["/etc/passwd"]),
        ("link", ["l"]),
    ]:
        manifest = f'[{{"Config": "{config}", "RepoTags": null, "Layers": ["{layers[0]}", "l"]}}]'.encode()
        files = {"manifest.json": manifest, "c": IMAGE.config, "l": b""}
        path = tar_of(files, tmp_path / "image.tar", {"link": str(secret), "up": "../secret"})
        await refused(tmp_path, f"docker-archive:{path}", Corrupt, "has no file")


async def test_i20_tags_with_control_bytes_are_refused(tmp_path: Path) -> None:
    path = docker_archive(IMAGE, tmp_path / "image.tar", ["a\x1b[31m:1"])
    await refused(tmp_path, f"docker-archive:{path}", Corrupt, "image reference")


async def test_i20_an_archive_of_one_image_a_thousand_times_is_read_once(tmp_path: Path) -> None:
    """What a list repeats is neither read nor kept again; a longer list is refused."""
    large = IMAGE.config[:-1] + b" " * (1 << 20) + b"}"
    entry = '{"Config": "c", "RepoTags": null, "Layers": ["l"]}'
    for count in (IMAGES, IMAGES + 1):
        files = {"manifest.json": f"[{','.join([entry] * count)}]".encode(), "c": large, "l": b""}
        archive = Archive.open(tar_of(files, tmp_path / f"{count}.tar", {}))
        tracemalloc.start()
        try:
            if count > IMAGES:
                with pytest.raises(Exhausted, match="more than the 1000 allowed"):
                    entries(archive)
            else:
                assert len(entries(archive)) == count
            assert tracemalloc.get_traced_memory()[1] < 32 << 20
        finally:
            tracemalloc.stop()


async def test_i20_links_within_an_archive_are_followed_in_its_table(tmp_path: Path) -> None:
    """The benign twin: docker 1.8 linked equal layers to each other."""
    files = {
        "manifest.json": b'[{"Config": "c", "RepoTags": ["a:1"], "Layers": ["x/layer.tar", "y/layer.tar"]}]',
        "c": image_of([[file(b"a")], [file(b"a")]]).config,
        "x/layer.tar": gzip.decompress(image_of([[file(b"a")]]).layers[0]),
    }
    path = tar_of(files, tmp_path / "image.tar", {"y/layer.tar": "../x/layer.tar"})
    async with opened(tmp_path) as provisioner:
        image = await provisioner.pull(f"docker-archive:{path}")
        assert len(image.layers) == 2 and len({layer.diff_id for layer in image.layers}) == 1
        provision = await provisioner.provision(new_id(), f"docker-archive:{path}", scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "a").read_bytes() == b"content"


async def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    saved_path = docker_archive(IMAGE, tmp_path / "image.tar")
    await refused(tmp_path, f"docker-archive:{saved_path}:other:2", NotFound, "example.org/app:1")
    await refused(tmp_path, f"oci:{write_layout(IMAGE, tmp_path / 'layout')}:nope", NotFound, "latest")
    await refused(tmp_path, f"oci:{tmp_path / 'absent'}", NotFound, "no such file")
    await refused(tmp_path, f"docker-archive:{tmp_path}", InvalidConfig, "not a regular file")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"x" * 2048)
    await refused(tmp_path, f"docker-archive:{garbage}", Corrupt, "tar header")
    await refused(tmp_path, f"oci-archive:{tar_of({'a': b''}, garbage)}", Corrupt, "oci-layout")


async def test_another_platform_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """An image for another machine would only fail at exec."""
    foreign = image_of([[file(b"a")]], architecture="s390x")
    path = f"oci:{write_layout(foreign, tmp_path / 'layout')}"
    await refused(tmp_path, path, NotFound, "--platform linux/s390x")
    async with opened(tmp_path) as provisioner:
        image = await provisioner.pull(path, platform="linux/s390x")
        assert image.platform == "linux/s390x"


async def test_i14_a_wrong_diff_id_publishes_nothing(tmp_path: Path) -> None:
    """I-14: a configuration that names other diff IDs than the layers have."""
    honest = image_of([[file(b"a", b"1")], [file(b"a", b"2")]])
    other = image_of([[file(b"a", b"2")], [file(b"a", b"1")]])
    swapped = SmallImage(
        honest.manifest.replace(sha256(honest.config).encode(), sha256(other.config).encode()),
        other.config,
        honest.layers,
    )
    await refused(tmp_path, f"oci:{write_layout(swapped, tmp_path / 'layout')}", Corrupt, "content is")
    async with opened(tmp_path) as provisioner:
        assert (await provisioner.pull(f"oci:{write_layout(honest, tmp_path / 'twin')}")).complete


async def test_a_pinned_digest_refuses_anything_else(tmp_path: Path) -> None:
    other = image_of([[file(b"b")]])
    path = write_layout(IMAGE, tmp_path / "layout")
    async with opened(tmp_path) as provisioner:
        assert (await provisioner.pull(f"oci:{path}@{IMAGE.digest}")).digest == IMAGE.digest
    await_other = f"oci:{path}@{other.digest}"
    async with opened(tmp_path / "") as provisioner:
        with pytest.raises(Corrupt, match="pinned"):
            await provisioner.pull(await_other)
