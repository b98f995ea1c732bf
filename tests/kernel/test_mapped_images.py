"""Images whose owners are mapped, by every backend: the same root, everybody in it shifted."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path

import pytest

from fixtures import isolated, kernel
from fixtures.launching import Desk
from fixtures.owners import BEYOND, MAP, NOBODY, plan_of
from mesocosm.errors import InvalidConfig, LaunchError, WrongState
from mesocosm.images.backends.copy import copy_layer
from mesocosm.images.owners import Owners
from mesocosm.images.provisioner import Provision, Provisioner
from mesocosm.linux import mounts, userns
from mesocosm.linux.mountinfo import read_mountinfo
from mesocosm.model import ContainerID, IDMap, RootChanges, parse_idmap
from mesocosm.plan.operations import BindRoot, HostRoot, OverlayRoot
from provisions import image_of, new_id, opened
from registry_fixtures import write_layout
from tarballs import DIRECTORY, Member, directory, file, symlink

OTHER = parse_idmap("0:400000:65536")
UNMAPPED = r"has no id-mapped mounts \(erofs\)|overlayfs refuses layers with mapped owners"
"""What a kernel without them says of layers that are files, and of layers that are directories."""
LOOK = "find / -xdev -exec stat -c '%n|%u|%g|%a|%F' {} +"
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

Seen = dict[str, tuple[int | None, int | None, str]]


def layers_of(root: Path, count: int, *more: Member) -> list[list[Member]]:
    """A stack whose layers add, replace and hide files, and a shell to look at it with."""
    base = [
        *(directory(name) for name in (b"bin", b"proc", b"d")),
        directory(b"tmp", 0o1777),
        file(b"bin/busybox", (root / "bin/busybox").read_bytes(), 0o755),
        *(symlink(b"bin/" + name, b"busybox") for name in (b"sh", b"find", b"stat", b"cat", b"touch")),
        Member(b"d/over", data=b"0", uid=5, gid=6),
        Member(b"d/set", data=b"x", uid=1000, gid=50, mode=0o6755),
        Member(b"link", b"2", link=b"d/over", uid=7, gid=8),
        *more,
    ]
    above = [
        [
            Member(b"d", DIRECTORY, uid=number, gid=number, mode=0o751),
            Member(b"d/over", data=b"%d" % number, uid=number, gid=100 + number),
            Member(b"only%d" % number, data=b"x", uid=1000 + number),
            *([file(b".wh.only%d" % (number - 1), b"")] if number > 1 else []),
        ]
        for number in range(1, count)
    ]
    return [base, *above]


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend's name; ``loop`` is ``erofs`` on a kernel that mounts block devices only."""
    name = str(request.param)
    if name != "loop":
        return name

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOTBLK, "Block device required")

    monkeypatch.setattr("mesocosm.images.layers.mounts.mount_files", refuse)
    return "erofs"


async def provided(
    provisioner: Provisioner, image: str, backend: str, where: Path, idmap: IDMap | None
) -> Provision:
    container = new_id()
    scratch = where / f"s-{container}"
    return await provisioner.provision(container, image, backend=backend, idmap=idmap, scratch=scratch)


async def seen(desk: Desk, provision: Provision, mapping: IDMap | None) -> Seen:
    """All that the container sees in its root."""
    outcome = await desk.run(plan_of(provision.root, LOOK, mapping=mapping))
    assert outcome.exit.status == 0, outcome.stderr
    found: Seen = {}
    for line in outcome.stdout.splitlines():
        name, uid, gid, rest = line.split("|", 3)
        found[name] = (int(uid), int(gid), rest)
    del found["/proc"]  # it is the kernel's
    return found


def shifted(plain: Seen, mapping: IDMap) -> Seen:
    return {
        name: (mapping.uid(uid or 0), mapping.gid(gid or 0), rest) for name, (uid, gid, rest) in plain.items()
    }


@pytest.mark.parametrize(
    ("way", "count"),
    [
        ("erofs", 1), ("erofs", 6), ("erofs", 40), ("loop", 6), ("loop", 40), ("overlay", 1), ("overlay", 6),
        ("overlay", 40), ("copy", 1), ("copy", 6), ("copy", 40), ("bind", 1),
    ],
    indirect=["way"],
)  # fmt: skip
async def test_everybody_is_shifted_and_nothing_else(
    way: str, count: int, desk: Desk, busybox_root: Path, tmp_path: Path
) -> None:
    """Forty layers are one file where layers are files: a merge refers to them for the data.

    A kernel that overlays no mapped layers is told of, with the way that remains.
    """
    able = kernel.maps_layers(tmp_path)
    image = f"oci:{write_layout(image_of(layers_of(busybox_root, count)), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        plain = await provided(provisioner, image, way, tmp_path, None)
        expected = await seen(desk, plain, None)
        mapped = await provided(provisioner, image, way, tmp_path, MAP)
        if isinstance(mapped.root, OverlayRoot) and not able:
            with pytest.raises(LaunchError, match=UNMAPPED) as why:
                await seen(desk, mapped, MAP)
            assert "use --backend copy" in str(why.value.hint)
        else:
            assert await seen(desk, mapped, MAP) == shifted(expected, MAP)
        again = await provided(provisioner, image, way, tmp_path, None)
        assert await seen(desk, again, None) == expected
        if isinstance(mapped.root, OverlayRoot):
            merged = way == "erofs" and count > 32 and kernel.mounts_merges()
            assert len(mapped.root.layers) == (1 if merged else count)
    assert expected["/d/over"][:2] == ((count - 1, 99 + count) if count > 1 else (5, 6))
    assert f"/only{count - 1}" in expected or count == 1


async def test_two_mappings_share_each_layers_only_mount(
    desk: Desk, busybox_root: Path, tmp_path: Path
) -> None:
    """One superblock, and so one page cache; its mount in the host's table is as it was, not mapped."""
    kernel.require_mapped_layers(tmp_path)
    image = f"oci:{write_layout(image_of(layers_of(busybox_root, 6)), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        held = []
        for mapping in (MAP, OTHER, None):
            root = (await provided(provisioner, image, "erofs", tmp_path, mapping)).root
            session, _ = await desk.fork(plan_of(root, "cat /d/over; stat -c '%u' /d/over", mapping=mapping))
            held.append(session)
        layers = str(provisioner.mounts.where("x").parent)
        entries = [entry for entry in read_mountinfo() if entry.mount_point.startswith(layers)]
        assert len(entries) == len({entry.device for entry in entries}) == 6
        assert not any("idmapped" in entry.options for entry in entries)
        for session, uid in zip(held, (100_005, 400_005, 5), strict=True):
            await desk.launcher.start(session)
            await desk.launcher.wait(session)
            assert desk.stdout(session).split() == [f"5{uid}"]


async def test_a_clone_of_a_layer_is_the_same_file_system(busybox_root: Path, tmp_path: Path) -> None:
    kernel.require_mapped_layers(tmp_path)
    image = f"oci:{write_layout(image_of(layers_of(busybox_root, 1)), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        root = (await provided(provisioner, image, "erofs", tmp_path, MAP)).root
        assert isinstance(root, OverlayRoot)
        [place] = root.layers

        def act() -> list[list[int]]:
            found = []
            for first in (100_000, 300_000):
                namespace = userns.make(f"0 {first} 65536", f"0 {first} 65536")
                fd = mounts.clone_tree(place, recursive=False)
                mounts.set_attributes(fd, 0, userns_fd=namespace)
                status = os.stat("d/set", dir_fd=fd)
                found.append([status.st_dev, status.st_ino, status.st_uid])
            return found

        one, two = isolated.run(act)
        plain = (Path(place) / "d/set").stat()
    assert one == [plain.st_dev, plain.st_ino, 101_000] and two == [plain.st_dev, plain.st_ino, 301_000]
    assert plain.st_uid == 1000


@pytest.mark.parametrize("way", ["erofs", "overlay", "bind"], indirect=True)
async def test_whom_the_mapping_lacks_is_nobody(
    way: str, desk: Desk, busybox_root: Path, tmp_path: Path
) -> None:
    if way != "bind":
        kernel.require_mapped_layers(tmp_path)
    more = Member(b"beyond", data=b"x", uid=BEYOND, gid=BEYOND)
    image = f"oci:{write_layout(image_of(layers_of(busybox_root, 1, more)), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        mapped = await provided(provisioner, image, way, tmp_path, MAP)
        assert (await seen(desk, mapped, MAP))["/beyond"][:2] == (NOBODY, NOBODY)


async def test_a_copy_cannot_write_down_nobody(busybox_root: Path, tmp_path: Path) -> None:
    more = Member(b"beyond", data=b"x", uid=0, gid=BEYOND)
    image = f"oci:{write_layout(image_of(layers_of(busybox_root, 1, more)), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        with pytest.raises(InvalidConfig, match=f"of group {BEYOND}, which the mapping .* lacks") as why:
            await provided(provisioner, image, "copy", tmp_path, MAP)
        assert "map more IDs" in str(why.value.hint)
        await provided(provisioner, image, "copy", tmp_path, None)


def test_a_copy_has_lists_and_capabilities_of_the_mapped(tmp_path: Path) -> None:
    """As an id-mapped mount shows them: users and groups of access lists, the root of a capability."""
    source, target = tmp_path / "source", tmp_path / "target"
    for place in (source, target):
        place.mkdir()
    program = source / "program"
    program.write_bytes(b"x")
    os.chown(program, 3, 4)
    os.setxattr(program, "security.capability", CAPABILITY)
    entries = ((1, 7, -1), (2, 5, 1000), (4, 5, -1), (8, 4, 50), (16, 5, -1), (32, 4, -1))
    acl = b"\2\0\0\0" + b"".join(
        struct.pack("<HHI", tag, permissions, number & 0xFFFFFFFF) for tag, permissions, number in entries
    )
    os.setxattr(program, "system.posix_acl_access", acl)
    copy_layer(source, target, Owners(MAP))
    copied = target / "program"
    assert (copied.stat().st_uid, copied.stat().st_gid) == (100_003, 200_004)
    found = os.getxattr(copied, "system.posix_acl_access")
    numbers = [int.from_bytes(found[at + 4 : at + 8], "little") for at in range(4, len(found), 8)]
    assert numbers[1] == 101_000 and numbers[3] == 200_050
    assert [found[at : at + 4] for at in range(4, len(found), 8)] == [
        acl[at : at + 4] for at in range(4, len(acl), 8)
    ]
    capability = os.getxattr(copied, "security.capability")
    assert capability == b"\1\0\0\3" + CAPABILITY[4:20] + (100_000).to_bytes(4, "little")
    copy_layer(source, target, Owners())
    assert os.getxattr(copied, "security.capability") == CAPABILITY


async def test_kept_changes_belong_to_one_mapping(busybox_root: Path, desk: Desk, tmp_path: Path) -> None:
    """An upper layer has the host's IDs: with another mapping its files would be strangers'."""
    kernel.require_mapped_layers(tmp_path)
    image = f"oci:{write_layout(image_of(layers_of(busybox_root, 2)), tmp_path / 'layout')}"
    kept = tmp_path / "kept"

    async def begin(provisioner: Provisioner, idmap: IDMap | None, *, rebase: bool = False) -> ContainerID:
        container = new_id()
        provision = await provisioner.provision(
            container,
            image,
            backend="erofs",
            changes=RootChanges(str(kept), rebase=rebase),
            idmap=idmap,
            scratch=tmp_path / f"s-{container}",
        )
        await desk.run(plan_of(provision.root, "touch /new; chown 100000:200000 /new", mapping=idmap))
        (tmp_path / f"s-{container}").rmdir()
        return container

    async with opened(tmp_path) as provisioner:
        await begin(provisioner, MAP)
        assert {(path.stat().st_uid, path.stat().st_gid) for path in (kept / "upper").rglob("*")} == {
            (100_000, 200_000)
        }
        assert json.loads((kept / "base.json").read_text())["idmap"]["uids"][0]["host"] == 100_000
        await begin(provisioner, MAP)
        for other in (OTHER, None):
            with pytest.raises(WrongState, match="with the idmap uids=0:100000:65536;gids=0:200000") as why:
                await begin(provisioner, other, rebase=True)
            assert "same idmap" in str(why.value.hint)
            with pytest.raises(WrongState, match="made with the idmap"):
                await provisioner.preview(
                    image, changes=RootChanges(str(kept)), idmap=other, scratch=tmp_path / "s"
                )
        assert (kept / "upper/new").stat().st_uid == 100_000


async def test_changes_kept_before_there_were_mappings_have_none(busybox_root: Path, tmp_path: Path) -> None:
    image = f"oci:{write_layout(image_of(layers_of(busybox_root, 2)), tmp_path / 'layout')}"
    changes = RootChanges(str(tmp_path / "kept"))
    async with opened(tmp_path) as provisioner:
        await provisioner.provision(new_id(), image, changes=changes, scratch=tmp_path / "s")
        base = tmp_path / "kept/base.json"
        record = json.loads(base.read_text())
        del record["idmap"]
        base.write_text(json.dumps(record))
        with pytest.raises(WrongState, match="made without an idmap"):
            await provisioner.preview(image, changes=changes, idmap=MAP, scratch=tmp_path / "s")
        await provisioner.preview(image, changes=changes, scratch=tmp_path / "s")


async def test_what_is_no_image_of_layers_is_mapped_too(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    async with opened(tmp_path) as provisioner:
        for reference, kind in ((f"dir:{tmp_path}/root", OverlayRoot), ("host", HostRoot)):
            scratch = tmp_path / f"s-{kind.__name__}"
            found = await provisioner.provision(new_id(), reference, idmap=MAP, scratch=scratch)
            assert isinstance(found.root, kind) and found.root.idmap == MAP
            shown = await provisioner.preview(reference, idmap=MAP, scratch=scratch)
            assert shown.root == found.root
            assert ((scratch / "upper").stat().st_uid, (scratch / "upper").stat().st_gid) == MAP.owner


async def test_an_image_without_layers_is_an_empty_directory_of_the_mapped_root(tmp_path: Path) -> None:
    image = f"oci:{write_layout(image_of([]), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        found = await provided(provisioner, image, "overlay", tmp_path, MAP)
        assert isinstance(found.root, BindRoot) and found.root.idmap is None
        status = Path(found.root.source).stat()
        assert (status.st_uid, status.st_gid) == MAP.owner
