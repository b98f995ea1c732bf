"""App Container images from files: rendering, dependencies, whitelists, runtime (APC-1, I-19)."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import tracemalloc
from pathlib import Path

import pytest

from fixtures.command import run
from mesocosm.errors import Corrupt, Exhausted, MesocosmError, NotFound
from mesocosm.images.tar.header import TarEntry
from mesocosm.images.tar.writer import END, member
from provisions import new_id, opened, shown
from tarballs import Member, archive, directory, file, hardlink, symlink
from trees import Seen, snapshot


def aci(folder: Path, name: str, /, *members: Member, compress: bool = True, **manifest: object) -> Path:
    """An ACI file called like its image."""
    document = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": f"example.com/{name}"} | manifest
    raw = archive(file(b"manifest", json.dumps(document).encode()), directory(b"rootfs"), *members)
    path = folder / f"{name}.aci"
    path.write_bytes(gzip.compress(raw, mtime=0) if compress else raw)
    return path


def needs(*names: str) -> list[dict[str, str]]:
    """A list of dependencies."""
    return [{"imageName": f"example.com/{name}"} for name in names]


async def tree_of(folder: Path, reference: str) -> dict[bytes, Seen]:
    """The tree a container would see."""
    async with opened(folder) as provisioner:
        container = new_id()
        provision = await provisioner.provision(container, reference, scratch=folder / f"scratch-{container}")
        with shown(provision.root, folder / "root") as root:
            tree = snapshot(root)
    del tree[b"."]
    return tree


async def test_an_image_and_what_it_says_of_its_app(tmp_path: Path) -> None:
    path = aci(
        tmp_path,
        "app",
        directory(b"rootfs/bin"),
        file(b"rootfs/bin/app", b"#!/bin/sh\n", 0o4755),
        hardlink(b"rootfs/bin/twin", b"rootfs/bin/app"),
        symlink(b"rootfs/link", b"/bin/app"),
        Member(
            b"rootfs/" + b"n" * 150, data=b"long", pax=((b"SCHILY.xattr.user.a", b"1"), (b"mtime", b"5.25"))
        ),
        file(b"beside", b"not shown"),
        labels=[{"name": "os", "value": "linux"}, {"name": "version", "value": "1.0"}],
        app={
            "exec": ["/bin/app", "-v"],
            "user": "100",
            "group": "300",
            "supplementaryGIDs": [400, 500],
            "environment": [{"name": "A", "value": "1"}],
            "workingDirectory": "/bin",
            "mountPoints": [
                {"name": "data", "path": "/data", "readOnly": False},
                {"name": "fixed", "path": "/fixed/./x/", "readOnly": True},
            ],
        },
    )
    tree = await tree_of(tmp_path, f"aci:{path}")
    assert set(tree) == {b"bin", b"bin/app", b"bin/twin", b"link", b"n" * 150}
    assert tree[b"bin/app"].mode == 0o4755 and tree[b"bin/app"].nlink == 2
    assert tree[b"n" * 150].mtime == 5_250_000_000 and tree[b"n" * 150].xattrs == (("user.a", b"1"),)
    async with opened(tmp_path) as provisioner:
        runtime = (await provisioner.pull(f"aci:{path}")).runtime
    assert (runtime.entrypoint, runtime.user, runtime.env) == (("/bin/app", "-v"), "100:300", ("A=1",))
    assert runtime.groups == (400, 500)
    assert (runtime.workdir, runtime.volumes) == ("/bin", ("/data", "/fixed/x"))
    assert runtime.fixed_volumes == ("/fixed/x",)
    assert runtime.labels == {"appc.name": "example.com/app", "appc.os": "linux", "appc.version": "1.0"}


async def test_apc1_dependencies_lie_below_in_order(tmp_path: Path) -> None:
    """Depth first, in order; and the manifest that counts is the image's own (Mesos took the first one's)."""
    aci(
        tmp_path,
        "base",
        file(b"rootfs/a", b"base"),
        file(b"rootfs/base", b"base"),
        app={"exec": ["/base"], "user": "0", "group": "0"},
    )
    aci(tmp_path, "left", file(b"rootfs/a", b"left"), file(b"rootfs/b", b"left"), dependencies=needs("base"))
    aci(
        tmp_path,
        "right",
        file(b"rootfs/b", b"right"),
        file(b"rootfs/c", b"right"),
        dependencies=needs("base"),
    )
    app = {"exec": ["/top"], "user": "0", "group": "0"}
    top = aci(tmp_path, "top", file(b"rootfs/c", b"top"), dependencies=needs("left", "right"), app=app)
    async with opened(tmp_path) as provisioner:
        provision = await provisioner.provision(new_id(), f"aci:{top}", scratch=tmp_path / "s")
        assert provision.runtime.entrypoint == ("/top",)
        with shown(provision.root, tmp_path / "root") as root:
            content = {path.name: path.read_text() for path in root.iterdir()}
    assert content == {"a": "base", "base": "base", "b": "right", "c": "top"}


async def test_an_app_runs_as_the_owner_of_a_file(tmp_path: Path) -> None:
    """A path as user or group means the owner of that file, in the uppermost image that has it."""

    def owned(uid: int, gid: int) -> Member:
        return file(b"rootfs/data/own", mode=0o600)._replace(uid=uid, gid=gid)

    aci(tmp_path, "base", owned(70, 80), file(b"rootfs/low")._replace(uid=5, gid=6))
    app = {"exec": ["/a"], "user": "/data/own", "group": "/../low"}
    below = aci(tmp_path, "below", dependencies=needs("base"), app=app)
    above = aci(
        tmp_path, "above", owned(71, 81), dependencies=needs("base"), app={**app, "user": "/data/own"}
    )
    hidden = aci(tmp_path, "hidden", dependencies=needs("base"), app=app, pathWhitelist=["/data/own"])
    named = aci(tmp_path, "named", dependencies=needs("base"), app={**app, "user": "app"})
    await refused(tmp_path, hidden, Corrupt, "the owner of /../low, which the image lacks")
    async with opened(tmp_path) as provisioner:
        users = [(await provisioner.pull(f"aci:{path}")).runtime.user for path in (below, above, named)]
    assert users == ["70:6", "71:6", "app:6"]


async def test_a_neighbour_that_cannot_be_read_stops_no_image(tmp_path: Path) -> None:
    aci(tmp_path, "base", file(b"rootfs/base"))
    (tmp_path / "a-broken.aci").write_bytes(b"not an image")
    (tmp_path / "a-huge.aci").write_bytes(archive(file(b"manifest", b" " * (1 << 21))))
    (tmp_path / "a-packed.aci").write_bytes(b"BZh91AY&SY" + bytes(100))
    top = aci(tmp_path, "top", dependencies=needs("base"))
    assert set(await tree_of(tmp_path, f"aci:{top}")) == {b"base"}


async def test_labels_and_image_ids_choose_among_dependencies(tmp_path: Path) -> None:
    for version in ("1", "2"):
        made = aci(
            tmp_path,
            "base",
            file(b"rootfs/v", version.encode()),
            labels=[{"name": "version", "value": version}],
        )
        made.rename(tmp_path / f"base-{version}.aci")
    by_label = [{"imageName": "example.com/base", "labels": [{"name": "version", "value": "2"}]}]
    first = aci(tmp_path, "first", dependencies=by_label)
    assert (await tree_of(tmp_path, f"aci:{first}"))[b"v"].content == hashlib.sha256(b"2").hexdigest()
    raw = gzip.decompress((tmp_path / "base-1.aci").read_bytes())
    image_id = f"sha512-{hashlib.sha512(raw).hexdigest()}"
    second = aci(tmp_path, "second", dependencies=[{"imageName": "example.com/base", "imageID": image_id}])
    assert (await tree_of(tmp_path, f"aci:{second}"))[b"v"].content == hashlib.sha256(b"1").hexdigest()
    pinned = f"aci:{tmp_path / 'base-1.aci'}@sha512:{image_id.removeprefix('sha512-')}"
    assert set(await tree_of(tmp_path, pinned)) == {b"v"}


async def test_i19_whitelists_name_paths_within_the_image(tmp_path: Path) -> None:
    """I-19: what is not named is not there, in dependencies too; ``..`` leads nowhere."""
    aci(
        tmp_path,
        "base",
        directory(b"rootfs/d", 0o711),
        file(b"rootfs/d/kept"),
        file(b"rootfs/d/dropped"),
        file(b"rootfs/e"),
    )
    listed = ["/d/kept", "/own", "/../../etc", "/../own"]
    top = aci(
        tmp_path,
        "top",
        file(b"rootfs/own"),
        file(b"rootfs/f"),
        dependencies=needs("base"),
        pathWhitelist=listed,
    )
    tree = await tree_of(tmp_path, f"aci:{top}")
    assert set(tree) == {b"d", b"d/kept", b"own"} and tree[b"d"].mode == 0o711
    twin = aci(tmp_path, "twin", file(b"rootfs/own"), dependencies=needs("base"), pathWhitelist=[])
    assert set(await tree_of(tmp_path, f"aci:{twin}")) == {b"d", b"d/kept", b"d/dropped", b"e", b"own"}
    for alone in ("/", "/../.."):  # the root, and nothing in it
        none = aci(tmp_path, "none", file(b"rootfs/own"), dependencies=needs("base"), pathWhitelist=[alone])
        assert await tree_of(tmp_path, f"aci:{none}") == {}


async def test_i19_whitelists_are_not_written_out(tmp_path: Path) -> None:
    """A mebibyte of deep paths has half a gibibyte of directories on the way to them."""
    deep = [f"/{number:x}" + "/a" * 1000 for number in range(400)]
    top = aci(
        tmp_path,
        "top",
        directory(b"rootfs/1f/a", 0o711),
        directory(b"rootfs/1f/b"),
        directory(b"rootfs/1f/a/a", 0o711),
        pathWhitelist=deep,
    )
    tracemalloc.start()
    try:
        tree = await tree_of(tmp_path, f"aci:{top}")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert set(tree) == {b"1f", b"1f/a", b"1f/a/a"}


async def refused(folder: Path, path: Path, error: type[MesocosmError], words: str) -> None:
    """One clear line, and nothing in the store."""
    async with opened(folder) as provisioner:
        with pytest.raises(error) as caught:
            await provisioner.pull(f"aci:{path}")
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert list(provisioner.store.layers.list()) == []


async def test_i19_cycles_and_depth_are_bounded(tmp_path: Path) -> None:
    cycle = aci(tmp_path, "a", dependencies=needs("b"))
    aci(tmp_path, "b", dependencies=needs("a"))
    await refused(tmp_path, cycle, Corrupt, "depends on itself")
    deep = [aci(tmp_path, f"deep-{n}", dependencies=needs(f"deep-{n + 1}")) for n in range(20)][0]
    aci(tmp_path, "deep-20")
    await refused(tmp_path, deep, Exhausted, "16 deep")
    await refused(
        tmp_path, aci(tmp_path, "alone", dependencies=needs("absent")), NotFound, "example.com/absent"
    )


async def test_i19_what_is_no_image_is_refused(tmp_path: Path) -> None:
    user = {"exec": ["/a"], "user": "/../x", "group": "0"}
    await refused(tmp_path, aci(tmp_path, "user", app=user), Corrupt, "the owner of /../x, which the image")
    await refused(tmp_path, aci(tmp_path, "mark", file(b"rootfs/.wh.x")), Corrupt, "whiteouts")
    kind = aci(tmp_path, "kind", acKind="PodManifest")
    await refused(tmp_path, kind, Corrupt, "not an image manifest")
    for name in ("../../x", "a//b", "A", "a b", "..", "a?b", "a\u0663", "a" * 300, "user@example.com/x"):
        odd = aci(tmp_path, "odd", dependencies=[{"imageName": name}])
        await refused(tmp_path, odd, Corrupt, "which no App Container image has")
        await refused(tmp_path, aci(tmp_path, "odd", name=name), Corrupt, "which no App Container")
    bare = tmp_path / "bare.aci"
    bare.write_bytes(archive(file(b"rootfs/a")))
    await refused(tmp_path, bare, Corrupt, "no manifest")
    huge = tmp_path / "huge.aci"
    huge.write_bytes(archive(file(b"manifest", b" " * (1 << 21))))
    await refused(tmp_path, huge, Exhausted, "larger")
    other = aci(tmp_path, "other", labels=[{"name": "arch", "value": "aarch64"}])
    await refused(tmp_path, other, NotFound, "linux/arm64")


def test_members_are_written_as_they_were_read(tmp_path: Path) -> None:
    """GNU tar reads what is written: names, owners, times beyond ustar's fields."""
    long = b"d" * 90 + b"/" + b"f" * 90
    when = 1_234_567_890_123_456_789
    entry = TarEntry(long, 0, 0o640, 3_000_000, 70_000, 5, when, b"", stat.S_IFREG, stored=5)
    path = tmp_path / "one.tar"
    path.write_bytes(member(entry) + b"hello".ljust(512, b"\0") + END)
    run("tar", "--numeric-owner", "-C", tmp_path, "-xf", path)
    status = os.stat(os.fsencode(tmp_path) + b"/" + long)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (3_000_000, 70_000, 0o640)
    assert status.st_mtime_ns == 1_234_567_890_123_456_789 and status.st_size == 5
