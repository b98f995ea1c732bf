"""Roots that take no changes: nothing can be written, nothing is kept, every mount finds its place."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
from pathlib import Path

import pytest

from fixtures.launching import PROC, Desk, Outcome, compose
from mesocosm.errors import LaunchError
from mesocosm.plan.operations import (
    BindMount,
    CutPropagation,
    EnterRoot,
    Execute,
    MakeDevice,
    MakeDirectory,
    MakeSymlink,
    MountFilesystem,
    OverlayRoot,
    ReadOnlyRoot,
    Step,
)
from trees import snapshot

TMP = MountFilesystem(fstype="tmpfs", target="/tmp", options=("mode=1777",))
ACCESS = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in (
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 0, 1000),
        (0x04, 5, 0xFFFFFFFF),
        (0x10, 5, 0xFFFFFFFF),
        (0x20, 5, 0xFFFFFFFF),
    )
)
"""An access control list, acl(5): everybody but user 1000 (linux/posix_acl_xattr.h)."""


class Place:
    """An image, its stack without a place for changes, and a file and a folder to mount."""

    def __init__(self, desk: Desk, folder: Path, root: Path) -> None:
        self._desk = desk
        self.image = folder / "image"
        self.top = folder / "top"
        self.given = folder / "given"
        shutil.copytree(root, self.image, symlinks=True)
        self.top.mkdir()
        (self.given / "below").mkdir(parents=True)
        (self.given / "file").write_text("given\n")

    def folder_at(self, target: str) -> BindMount:
        return BindMount(source=str(self.given), target=target)

    def file_at(self, target: str) -> BindMount:
        return BindMount(source=str(self.given / "file"), target=target)

    async def run(self, script: str, *steps: Step, root: OverlayRoot | None = None) -> Outcome:
        """A shell script in a container on the image; neither the image nor the top is another one then."""
        before = snapshot(self.image)
        stack = root or OverlayRoot(layers=(str(self.top), str(self.image)))
        execute = Execute(arguments=("sh", "-c", script), environment=("PATH=/bin",))
        made = (CutPropagation(), stack, PROC, TMP, *steps, ReadOnlyRoot(), EnterRoot(), execute)
        outcome = await self._desk.run(compose(*made))
        assert snapshot(self.image) == before
        assert not list(self.top.iterdir())
        return outcome


@pytest.fixture
def place(desk: Desk, root: Path, tmp_path: Path) -> Place:
    return Place(desk, tmp_path, root)


WRITES = (
    "for name in / /bin /etc /var/tmp; do touch $name/new; rm -r $name/busybox; mkdir $name/d; done 2>&1;"
    " chmod 700 /etc 2>&1; echo x > /etc/passwd; mv /etc /old 2>&1; mount -o remount,rw / 2>&1;"
    " touch /new 2>&1"
)


def lowers_of(mountinfo: str) -> list[str]:
    """The layers of ``/``, which is the last mount there."""
    [*_, line] = (line for line in mountinfo.splitlines() if line.split()[4:5] == ["/"])
    assert line.split()[5].startswith("ro"), line
    options = line.split(" - ")[1].split()
    assert options[0] == "overlay" and "ro" in options[2].split(","), line
    assert "upperdir" not in line and "workdir" not in line, line
    words = [word.partition("=") for word in options[2].split(",")]
    return [part for name, _, value in words if name.startswith("lowerdir") for part in value.split(":")]


async def test_nothing_can_be_written_and_there_is_nowhere_to(place: Place) -> None:
    """Not even by who may mount: these containers have every capability, and no filter."""
    shutil.rmtree(place.image / "proc")
    outcome = await place.run(f"{WRITES}; grep -c . /etc/passwd; cat /proc/self/mountinfo")
    refusals, _, rest = outcome.stdout.partition("2\n")
    assert refusals.count("Read-only file system") + outcome.stderr.count("Read-only file system") >= 10
    assert len(lowers_of(rest)) == 3, "the mount points, the top, the image"


async def test_an_image_with_all_mount_points_needs_no_further_layer(place: Place) -> None:
    outcome = await place.run("cat /etc/group; cat /proc/self/mountinfo", place.file_at("/etc/group"))
    assert outcome.stdout.startswith("given\n")
    assert len(lowers_of(outcome.stdout)) == 2
    assert "mount-points" not in outcome.stdout


async def test_missing_mount_points_are_supplied(place: Place) -> None:
    """By name, through links, and where a link leads nowhere; below what is mounted by the mount itself."""
    shutil.rmtree(place.image / "proc")
    links = {
        "absolute": "/etc",
        "relative": "var/tmp",
        "dangling": "/made/by/link",
        "out": "../../../outside/x",
        "odd": "nowhere/../var/odd",
        "back": "nowhere/../var",
        "chain": "dangling/further",
    }
    for name, target in links.items():
        (place.image / name).symlink_to(target)
    targets = (
        "/a/b/c",
        "/absolute/in",
        "/relative/in",
        "/dangling",
        "/out",
        "/odd",
        "/back/in",
        "/chain/in",
        "/tmp/d/e",
    )
    files = ("/etc/hosts", "/a/b/file", "/relative/file", "/var/new/file")
    steps = (*map(place.folder_at, targets), *map(place.file_at, files))
    look = " ".join(f"{target}/file" for target in targets)
    script = (
        f"cat {look} {' '.join(files)};"
        "ls -d /etc/in /var/tmp/in /made/by/link/further/in /outside/x /var/odd;"
        f"stat -c %a:%u /a /a/b /made; touch /a/new /made/new 2>&1; ls /proc/self/mountinfo"
    )
    outcome = await place.run(script, *steps)
    lines = outcome.stdout.splitlines()
    count = len(targets) + len(files)
    assert lines[:count] == ["given"] * count, outcome.stderr
    assert lines[count : count + 5] == [
        *("/etc/in", "/made/by/link/further/in", "/outside/x", "/var/odd", "/var/tmp/in")
    ]
    assert lines[count + 5 : count + 8] == ["755:0"] * 3
    assert [line.rpartition(": ")[2] for line in lines[count + 8 : -1]] == ["Read-only file system"] * 2
    assert not (place.image.parent / "outside").exists()


async def test_a_directory_with_a_new_name_in_it_looks_as_it_did(place: Place) -> None:
    """Mode, owner, attributes: an access control list that shuts somebody out goes on doing so."""
    guarded = place.image / "etc"
    os.chown(guarded, 1000, 50)
    guarded.chmod(0o2750)
    os.setxattr(guarded, "user.note", b"\x00\xff")
    (place.image / "listed").mkdir()
    os.setxattr(place.image / "listed", "system.posix_acl_access", ACCESS)
    (place.image / "listed/file").write_text("secret\n")
    steps = (place.file_at("/etc/hosts"), place.file_at("/listed/new"))
    script = (
        "stat -c %a:%u:%g /etc / /listed; su -s /bin/sh worker -c 'cat /listed/file' || echo shut out;"
        "su -s /bin/sh nobody -c 'cat /listed/file'"
    )
    (place.image / "etc/passwd").chmod(0o644)
    with (place.image / "etc/passwd").open("a") as users:
        users.write("nobody:x:65534:65534:::/bin/sh\n")
    os.chown(guarded, 1000, 50)
    guarded.chmod(0o2755)
    outcome = await place.run(script, *steps)
    assert outcome.stdout.splitlines() == ["2755:1000:50", "755:0:0", "755:0:0", "shut out", "secret"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/etc/passwd/below", "not a directory"),
        ("/to-file/below", "not a directory"),
        ("/loop", "too many levels"),
        ("/etc/passwd", "not a directory"),
    ],
)
async def test_what_the_image_has_is_never_covered_by_a_mount_point(
    target: str, words: str, place: Place
) -> None:
    """A folder for a file's name, or below one: the step that wanted it says so; R-05."""
    (place.image / "to-file").symlink_to("etc/passwd")
    (place.image / "loop").symlink_to("loop")
    with pytest.raises(LaunchError, match=f"(?i)cannot show host path .* at {target}: {words}"):
        await place.run("true", place.folder_at(target), place.file_at("/etc/hosts"))
    outcome = await place.run("cat /etc/hosts; head -n1 /etc/passwd", place.file_at("/etc/hosts"))
    assert outcome.stdout.startswith("given\nroot:")


async def test_a_file_over_a_folder_is_refused(place: Place) -> None:
    with pytest.raises(LaunchError, match="(?i)cannot show host path .* at /var/tmp: a file cannot lie on"):
        await place.run("true", place.file_at("/var/tmp"), place.file_at("/etc/hosts"))


async def test_two_mounts_of_which_one_is_in_the_others_way(place: Place) -> None:
    """A dangling link makes a file where another step needs a folder."""
    (place.image / "link").symlink_to("/way/file")
    with pytest.raises(LaunchError, match="(?i)cannot show host path .* at /way/file/below: not a directory"):
        await place.run("true", place.file_at("/link"), place.folder_at("/way/file/below"))
    outcome = await place.run("cat /way/file", place.file_at("/link"), place.folder_at("/way/other"))
    assert outcome.stdout == "given\n"


async def test_links_devices_and_directories_of_the_root_itself(place: Place) -> None:
    """What isolators make beside mounts."""
    shutil.rmtree(place.image / "dev")
    steps = (
        MakeDirectory(target="/made/dir", mode=0o1770),
        MakeSymlink(target="/made/link", points_to="/etc/passwd"),
        MakeSymlink(target="/bin/sh", points_to="/stays"),
        MakeDevice(target="/dev/null", kind="c", major=1, minor=3),
    )
    script = "stat -c %a /made/dir; readlink /made/link; readlink /bin/sh; echo x > /dev/null;"
    script += "stat -c %t:%T /dev/null"
    outcome = await place.run(script, *steps)
    assert outcome.stdout.splitlines() == ["1770", "/etc/passwd", "busybox", "1:3"], outcome.stderr


async def test_a_made_link_leads_no_mount_point_anywhere(place: Place, tmp_path: Path) -> None:
    """The link is made beside the layers, where nothing but the kernel's own mount would follow it."""
    outside = Path("/var/tmp") / tmp_path.name
    outside.mkdir()
    try:
        steps = (MakeSymlink(target="/made", points_to=str(outside)), place.folder_at("/made/below"))
        with pytest.raises(LaunchError, match="(?i)cannot show host path .* at /made/below: read-only"):
            await place.run("true", *steps)
        assert not list(outside.iterdir())
    finally:
        outside.rmdir()


async def test_a_source_that_is_gone_is_that_steps_error(place: Place) -> None:
    gone = BindMount(source="/no/such/source", target="/gone")
    with pytest.raises(LaunchError, match="cannot show host path /no/such/source at /gone: no such file"):
        await place.run("true", gone)


async def test_many_at_once_on_the_same_layers(place: Place) -> None:
    shutil.rmtree(place.image / "proc")
    scripts = (f"cat /own-{number}/file; ls -d /own-*" for number in range(12))
    runs = (place.run(text, place.folder_at(f"/own-{number}")) for number, text in enumerate(scripts))
    outcomes = await asyncio.gather(*runs)
    assert [outcome.stdout for outcome in outcomes] == [f"given\n/own-{number}\n" for number in range(12)]


async def test_containers_on_one_layer_share_no_locks(desk: Desk, debian_root: Path, tmp_path: Path) -> None:
    """Each has an overlay of its own even where one layer alone would do: inodes, and so locks and watches,
    are not shared.
    """
    top = tmp_path / "top"
    top.mkdir()
    stack = OverlayRoot(layers=(str(top), str(debian_root)))

    def locking(script: str) -> tuple[Step, ...]:
        execute = Execute(arguments=("sh", "-c", script), environment=("PATH=/usr/bin:/bin",))
        return (CutPropagation(), stack, PROC, TMP, ReadOnlyRoot(), EnterRoot(), execute)

    holder, _ = await desk.fork(compose(*locking("exec flock -n /etc/passwd sleep 600")))
    await desk.launcher.start(holder)
    twin = "flock -n /etc/passwd true && echo own; "
    twin += "flock -n /etc/group sh -c 'flock -n /etc/group true || echo held'"
    outcome = await desk.run(compose(*locking(twin)))
    assert outcome.stdout == "own\nheld\n", outcome.stderr
