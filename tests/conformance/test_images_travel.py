"""Images out of one store and into another: save, load, push, tarballs; read by other people's tools too."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fixtures.command import run
from fixtures.registry import Registry
from mesocosm.errors import Corrupt, InvalidConfig, NotFound, Unavailable
from mesocosm.images.exchange import ArchiveForm
from mesocosm.images.provisioner import Provisioner
from provisions import docker_archive, image_of, new_id, opened, shown
from registry_fixtures import sha256, write_index_layout, write_layout
from tarballs import archive, directory, file

ONE = image_of([[file(b"base", b"b" * 70_000)], [directory(b"d"), file(b"d/one", b"1")]])
TWO = image_of([[file(b"base", b"b" * 70_000)], [file(b"two", b"2")]])


async def save(provisioner: Provisioner, names: list[str], target: Path) -> Path:
    """Write an archive."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        await provisioner.save(names, fd)
    finally:
        os.close(fd)
    return target


async def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with opened(first) as provisioner:
        for number, image in enumerate((ONE, TWO)):
            path = f"oci:{write_layout(image, tmp_path / str(number))}"
            await provisioner.pull(path)
            await provisioner.tag(path, f"example.org/app:{number}")
        names = ["example.org/app:0", "example.org/app:1"]
        saved = await save(provisioner, names, tmp_path / "saved.tar")
        again = await save(provisioner, names, tmp_path / "again.tar")
        assert saved.read_bytes() == again.read_bytes()
    async with opened(second) as provisioner:
        loaded = await provisioner.load(saved)
        assert [image.digest for image in loaded] == [ONE.digest, TWO.digest]
        assert [image.references for image in loaded] == [(f"docker://{name}",) for name in names]
        provision = await provisioner.provision(new_id(), names[0], pull="never", scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "d/one").read_text() == "1"


async def test_others_read_what_is_saved(tmp_path: Path) -> None:
    """skopeo as an OCI archive and as docker's, GNU tar as a tar file."""
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(path)
        await provisioner.tag(path, "example.org/app:1")
        saved = await save(provisioner, ["example.org/app:1"], tmp_path / "saved.tar")
    listed = run("tar", "--list", "--file", saved).split()
    assert {"oci-layout", "index.json", "manifest.json"} <= set(listed)
    for transport in ("oci-archive", "docker-archive"):
        config = json.loads(run("skopeo", "inspect", "--config", f"{transport}:{saved}"))
        assert config["rootfs"]["diff_ids"] == json.loads(ONE.config)["rootfs"]["diff_ids"]


async def test_docker_archives_of_several_images_are_loaded(tmp_path: Path) -> None:
    path = docker_archive(ONE, tmp_path / "image.tar", ["example.org/app:1", "example.org/app:2"])
    async with opened(tmp_path) as provisioner:
        loaded = await provisioner.load(path)
        assert len(loaded) == 1
        image = await provisioner.inspect("example.org/app:2")
        assert image.references == ("docker://example.org/app:1", "docker://example.org/app:2")
        with pytest.raises(NotFound):
            await provisioner.load(tmp_path / "absent.tar")


async def test_pushed_images_come_back(registry: Registry, tmp_path: Path) -> None:
    """To a real registry and back by skopeo: the same manifest; what is there is not sent again."""
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        await provisioner.pull(path)
        target = f"{registry.host}/travel/app:1"
        assert await provisioner.push(path, target) == ONE.digest
        manifest = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}")
        assert sha256(manifest.encode()) == ONE.digest
        before = len([line for line in registry.requests() if line.startswith(("POST", "PATCH"))])
        await provisioner.push(path, f"{registry.host}/travel/app:2")
        assert len([line for line in registry.requests() if line.startswith(("POST", "PATCH"))]) == before
        with pytest.raises(InvalidConfig):
            await provisioner.push(path)


async def test_a_disk_that_fails_while_pushing_is_told_as_such(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as trouble with the connection, and at once: trying again would not help."""
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"

    async def failing(*_: object) -> AsyncIterator[bytes]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield b""

    async with opened(tmp_path) as provisioner:
        await provisioner.pull(path)
        monkeypatch.setattr("mesocosm.images.pushing.chunks", failing)
        with pytest.raises(Unavailable, match="cannot be read: Input/output error"):
            await provisioner.push(path, f"{registry.host}/unread/app:1")


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
async def test_a_tarball_is_an_image_of_one_layer(compress: type[bytes], tmp_path: Path) -> None:
    raw = archive(directory(b"etc"), file(b"etc/motd", b"hello\n"))
    path = tmp_path / "root.tar"
    path.write_bytes(compress(raw))
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), f"tarball:{path}", scratch=tmp_path / "s")
        assert provision.identity.layers == (sha256(raw),)
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "etc/motd").read_text() == "hello\n"
        pinned = f"tarball:{path}@{sha256(path.read_bytes())}"
        assert (await provisioner.pull(pinned)).digest == provision.identity.digest
        with pytest.raises(Corrupt, match="pinned"):
            await provisioner.pull(f"tarball:{path}@{sha256(b'other')}")


async def test_i16_a_truncated_tarball_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(archive(file(b"a", b"x" * 5000))[:3000])
    async with opened(tmp_path) as provisioner:
        with pytest.raises(Corrupt):
            await provisioner.pull(f"tarball:{path}")
        assert await provisioner.images() == []


async def test_a_real_tree_by_gnu_tar(busybox_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "busybox.tar"
    run("tar", "-C", busybox_root, "-cf", path, ".")
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), f"tarball:{path}", scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "bin/busybox").stat().st_size == (busybox_root / "bin/busybox").stat().st_size


async def test_every_platform_travels_with_its_index(registry: Registry, tmp_path: Path) -> None:
    """Pulled, pushed, seen by skopeo, saved, loaded elsewhere: one digest all the way."""
    images = {one: image_of([[file(b"who", one.encode())]], architecture=one) for one in ("amd64", "arm64")}
    index = write_index_layout(images, tmp_path / "layout")
    digests = {image.digest for image in images.values()}
    name, elsewhere = f"{registry.host}/travel/several:1", f"{registry.host}/travel/part:1"
    run(
        *("skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false"),
        *(f"oci:{tmp_path / 'layout'}", f"docker://{name}"),
    )
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    async with opened(first) as provisioner:
        await provisioner.pull(name, platform="linux/arm64")
        assert await provisioner.push(name, elsewhere, platform="all") == images["arm64"].digest
        with pytest.raises(NotFound, match="host for linux/arm64, not for linux/amd64"):
            await provisioner.push(name, elsewhere)
        assert {one.digest for one in await provisioner.pull_all(name)} == digests
        assert await provisioner.push(name, elsewhere, platform="all") == index
        saved = tmp_path / "saved.tar"
        with open(saved, "wb") as target:
            await provisioner.save([name], target.fileno(), platform="all")
        with open(tmp_path / "docker.tar", "wb") as target, pytest.raises(InvalidConfig, match="platforms"):
            await provisioner.save([name], target.fileno(), platform="all", form="docker-archive")
        assert set((await provisioner.remove(name, platform="all")).deleted) == digests
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{elsewhere}")
    assert sha256(raw.encode()) == index
    assert sha256(run("skopeo", "inspect", "--raw", f"oci-archive:{saved}").encode()) == index
    async with opened(second) as provisioner:
        assert {one.digest for one in await provisioner.load(saved, platform="all")} == digests
        for architecture, image in images.items():
            found = await provisioner.inspect(name, platform=f"linux/{architecture}")
            assert found.digest == image.digest


async def test_an_index_of_one_image_travels_too(registry: Registry, tmp_path: Path) -> None:
    """A signature of the tag is one of the index.  What came without one goes without one, and the image
    alone goes as what it is.
    """
    image = image_of([[file(b"who", b"amd64")]])
    index = write_index_layout({"amd64": image}, tmp_path / "layout")
    bare = f"oci:{write_layout(image, tmp_path / 'bare')}"
    name, elsewhere = f"oci:{tmp_path / 'layout'}", f"{registry.host}/travel/single"
    async with opened(tmp_path) as provisioner:
        await provisioner.pull_all(name)
        assert await provisioner.push(name, f"{elsewhere}:index", platform="all") == index
        assert await provisioner.push(name, f"{elsewhere}:image") == image.digest
        await provisioner.pull(bare)
        assert await provisioner.push(bare, f"{elsewhere}:bare", platform="all") == image.digest
        await provisioner.tag(name, "example.org/one:1", platform="all")
        form: ArchiveForm
        for form in ("oci-archive", "docker-archive"):
            with open(tmp_path / f"{form}.tar", "wb") as target:
                await provisioner.save(["example.org/one:1"], target.fileno(), form=form, platform="all")
    for tag, digest in {"index": index, "image": image.digest, "bare": image.digest}.items():
        raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{elsewhere}:{tag}")
        assert sha256(raw.encode()) == digest
    raw = run("skopeo", "inspect", "--raw", f"oci-archive:{tmp_path / 'oci-archive.tar'}")
    assert sha256(raw.encode()) == index
