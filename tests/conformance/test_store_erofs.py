"""Ready-made EROFS files as images and as layers: refused unless policy allows them (I-21), then kept as they
are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fixtures.command import run
from mesocosm.errors import Corrupt, Denied, MesocosmError, NotFound, Unsupported
from mesocosm.images.provisioner import Provisioner
from provisions import image_of, new_id, opened, paths_of, shown
from registry_fixtures import OCI_MANIFEST, SmallImage, sha256, write_layout
from tarballs import file
from trees import snapshot

ALLOWED = 'allow-erofs = ["erofs:**", "oci:**"]\n'


def erofs_of(folder: Path, name: str = "image.erofs") -> Path:
    """A file that mkfs.erofs writes: compact inodes, compressed data, another block layout than ours."""
    tree = folder / f"{name}.tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/tool").write_bytes(b"#!/bin/sh\n" + b"echo compressible\n" * 2000)
    (tree / "bin/tool").chmod(0o755)
    (tree / "link").symlink_to("bin/tool")
    os.link(tree / "bin/tool", tree / "twin")
    run("mkfs.erofs", "-zlz4", "-T0", "--quiet", folder / name, tree)
    return folder / name


def layered(folder: Path, data: bytes, media_type: str = "application/vnd.erofs.layer.v1") -> Path:
    """A layout of two layers: an EROFS file, and an archive upon it."""
    upper = image_of([[file(b"upper", b"1")]])
    config = json.loads(upper.config)
    config["rootfs"]["diff_ids"].insert(0, sha256(data))
    del config["history"]
    written = json.dumps(config).encode()
    manifest = json.loads(upper.manifest)
    manifest["config"] |= {"digest": sha256(written), "size": len(written)}
    manifest["layers"].insert(0, {"mediaType": media_type, "digest": sha256(data), "size": len(data)})
    image = SmallImage(json.dumps(manifest).encode(), written, (data, *upper.layers), OCI_MANIFEST)
    return write_layout(image, folder / "layout")


@asynccontextmanager
async def allowing(folder: Path, rules: str = ALLOWED) -> AsyncIterator[Provisioner]:
    """A provisioner under a policy."""
    (folder / "policy.toml").write_text(rules)
    async with Provisioner.open(paths_of(folder), policy=folder / "policy.toml") as provisioner:
        try:
            yield provisioner
        finally:
            for owner in provisioner.store.leases.owners("container-"):
                provisioner.store.leases.drop(owner)


async def test_i21_what_the_kernel_parses_is_refused_unless_allowed(tmp_path: Path) -> None:
    path = erofs_of(tmp_path)
    sources = [f"erofs:{path}", f"oci:{layered(tmp_path, path.read_bytes())}"]
    for reference in sources:
        for rules in ("", 'allow-erofs = ["erofs:/elsewhere/*"]\n', 'allow-erofs = ["*"]\n'):
            async with allowing(tmp_path, rules) as provisioner:
                with pytest.raises(Denied, match="allow-erofs") as caught:
                    await provisioner.provision(new_id(), reference, scratch=tmp_path / "s")
                assert "\n" not in str(caught.value)
                assert list(provisioner.store.layers.list()) == [] and provisioner.store.leases.owners() == []
    async with allowing(tmp_path) as provisioner:
        for reference in sources:
            await provisioner.pull(reference)
    async with opened(tmp_path) as provisioner:  # here already, and no longer allowed: no start
        digest = (await provisioner.images())[0].digest
        for reference in (*sources, digest):
            with pytest.raises(Denied, match="allow-erofs"):
                await provisioner.provision(new_id(), reference, scratch=tmp_path / "s")


async def test_i21_a_file_that_one_image_brought_is_no_archive_of_another(tmp_path: Path) -> None:
    """Layers are kept once, and policy asks for the media type: an image whose files are not taken must not
    come by them under the type of an archive.
    """
    path = erofs_of(tmp_path)
    disguised = layered(tmp_path, path.read_bytes(), "application/vnd.oci.image.layer.v1.tar")
    async with allowing(tmp_path, 'allow-erofs = ["erofs:**"]\n') as provisioner:
        await provisioner.pull(f"erofs:{path}")
        with pytest.raises(Corrupt, match="is an EROFS file, which its manifest calls an archive"):
            await provisioner.provision(new_id(), f"oci:{disguised}", scratch=tmp_path / "s")
        assert len(await provisioner.images()) == 1
        await provisioner.provision(new_id(), f"erofs:{path}", scratch=tmp_path / "s")


async def test_a_file_is_an_image_of_one_layer(tmp_path: Path) -> None:
    path = erofs_of(tmp_path)
    async with allowing(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), f"erofs:{path}", scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            tree = snapshot(root)
        assert {b"bin", b"bin/tool", b"link", b"twin"} <= set(tree)
        assert tree[b"bin/tool"].mode == 0o755 and tree[b"link"].target == b"bin/tool"
        expected = (path.parent / "image.erofs.tree/twin").read_bytes()
        assert tree[b"twin"].content == hashlib.sha256(expected).hexdigest()
        image = await provisioner.inspect(provision.identity.digest or "")
        assert [layer.diff_id for layer in image.layers] == [sha256(path.read_bytes())]
        pinned = await provisioner.pull(f"erofs:{path}@{sha256(path.read_bytes())}")
        assert pinned.digest == image.digest
        other = erofs_of(tmp_path, "other.erofs")
        changes = await provisioner.compare(f"erofs:{path}", f"erofs:{path}")
        assert changes == []
        with pytest.raises(Corrupt, match="pinned"):
            await provisioner.pull(f"erofs:{other}@{'sha256:' + '0' * 64}")


async def test_files_are_compared_with_those_of_archives(tmp_path: Path) -> None:
    path = erofs_of(tmp_path)
    layout = layered(tmp_path, path.read_bytes())
    other = write_layout(image_of([[file(b"upper", b"1")]]), tmp_path / "other")
    async with allowing(tmp_path) as provisioner:
        for reference in (f"erofs:{path}", f"oci:{layout}", f"oci:{other}"):
            await provisioner.pull(reference)
        below = await provisioner.compare(f"erofs:{path}", f"oci:{layout}")
        assert [(change.kind, change.path) for change in below] == [("added", "/upper")]
        above = await provisioner.compare(f"oci:{layout}", f"oci:{other}")
        gone = ["/bin", "/bin/tool", "/link", "/twin"]
        assert [(change.kind, change.path) for change in above] == [("removed", name) for name in gone]
        assert above[1].before == (tmp_path / "image.erofs.tree/twin").stat().st_size


@pytest.mark.parametrize(
    "media_type", ["application/vnd.erofs.layer.v1", "application/vnd.oci.image.layer.v1.erofs"]
)
async def test_archives_stack_upon_an_erofs_layer(media_type: str, tmp_path: Path) -> None:
    layout = layered(tmp_path, erofs_of(tmp_path).read_bytes(), media_type)
    async with allowing(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), f"oci:{layout}", scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            assert (root / "upper").read_bytes() == b"1" and (root / "link").readlink() == Path("bin/tool")
        with pytest.raises(Unsupported, match="no archive"):
            await provisioner.convert(f"oci:{layout}", "example.org/a:1", "zstd")


async def test_verify_finds_a_flipped_bit_and_mends_it(tmp_path: Path) -> None:
    path = erofs_of(tmp_path)
    async with allowing(tmp_path) as provisioner:
        image = await provisioner.pull(f"erofs:{path}")
        assert (await provisioner.verify(f"erofs:{path}")).sound
        [(diff_id, form)] = provisioner.store.layers.list()
        content = provisioner.store.layers.content(diff_id, form)
        for at in (100, content.stat().st_size - 1):
            content.chmod(0o600)
            with content.open("r+b") as damaged:
                byte = os.pread(damaged.fileno(), 1, at)[0]
                os.pwrite(damaged.fileno(), bytes([byte ^ 1]), at)
            verdict = await provisioner.verify(image.digest)
            assert str(diff_id) in verdict.damaged
            await provisioner.verify(f"erofs:{path}", repair=True)
            assert (await provisioner.verify(f"erofs:{path}")).sound


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("short", Corrupt, "too short"),
        ("magic", Corrupt, "magic"),
        ("truncated", Corrupt, "truncated"),
        ("feature", Corrupt, "cannot be mounted"),
        ("devices", Unsupported, "further devices"),
        ("absent", NotFound, "no file"),
    ],
)
async def test_what_is_no_file_system_is_refused(
    fault: str, error: type[MesocosmError], words: str, tmp_path: Path
) -> None:
    path = erofs_of(tmp_path)
    data = bytearray(path.read_bytes())
    if fault == "short":
        del data[1100:]
    elif fault == "magic":
        data[1024] ^= 1
    elif fault == "truncated":
        del data[-4096:]
    elif fault == "feature":
        data[1024 + 80 : 1024 + 84] = b"\xff\xff\xff\x7f"
    elif fault == "devices":
        data[1024 + 86 : 1024 + 88] = b"\x01\x00"
    path.write_bytes(data)
    if fault == "absent":
        path.unlink()
    async with allowing(tmp_path) as provisioner:
        with pytest.raises(error, match=words) as caught:
            await provisioner.pull(f"erofs:{path}")
        assert "\n" not in str(caught.value)
        assert list(provisioner.store.layers.list()) == []
