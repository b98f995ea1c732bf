"""Roots and volumes whose owners are mapped, seen from inside the container and from beside it."""

from __future__ import annotations

import os
import select
import shutil
import signal
from pathlib import Path

import msgspec
import pytest

from fixtures import isolated, kernel
from fixtures.launching import Desk
from fixtures.owners import BEYOND, MAP, NOBODY, owned, owner_of, plan_of
from mesocosm.errors import LaunchError
from mesocosm.linux import mounts, syscalls, userns
from mesocosm.linux import overlay as overlays
from mesocosm.model import parse_idmap
from mesocosm.plan.operations import (
    BindMount,
    BindRoot,
    ChangeDirectory,
    HostRoot,
    MakeDirectory,
    MountFilesystem,
    OverlayRoot,
)

WALL = 0x40000000
SETUID = "0100000280000000000000000000000000000000"
"""CAP_SETUID, permitted and effective, as security.capability of version 2."""


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer with files of root, of a user, and of somebody whom the mapping does not have."""
    place = tmp_path / "layer"
    place.mkdir()
    owned(place / "root", 0)
    owned(place / "user", 1000, 50)
    owned(place / "beyond", BEYOND)
    owned(place / "secret", BEYOND, mode=0o600)
    return place


@pytest.fixture
def overlay(root: Path, layer: Path, tmp_path: Path) -> OverlayRoot:
    """A mapped overlay of busybox below that layer."""
    kernel.require_mapped_layers(tmp_path)
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    assert MAP.owner is not None
    os.chown(tmp_path / "upper", *MAP.owner)
    return OverlayRoot(
        layers=(str(layer), str(root)), upper=str(tmp_path / "upper"), work=str(tmp_path / "work"), idmap=MAP
    )


async def test_an_overlay_shows_mapped_owners_and_the_layers_keep_theirs(
    desk: Desk, overlay: OverlayRoot, layer: Path, root: Path, tmp_path: Path
) -> None:
    before = {path.name: owner_of(path) for path in layer.iterdir()}
    script = "stat -c '%n %u %g' root user beyond bin/busybox /; echo more >> user; touch new"
    outcome = await desk.run(plan_of(overlay, script))
    assert outcome.stdout.splitlines() == [
        "root 100000 200000",
        "user 101000 200050",
        f"beyond {NOBODY} {NOBODY}",
        "bin/busybox 100000 200000",
        "/ 100000 200000",
    ], outcome.stderr
    assert {path.name: owner_of(path) for path in layer.iterdir()} == before
    assert (layer / "user").read_text() == "user\n" and not (layer / "new").exists()
    assert owner_of(root / "bin/busybox") == (0, 0)
    assert owner_of(tmp_path / "upper/user") == (101_000, 200_050)


async def test_what_setup_makes_belongs_to_the_mapped_root(
    desk: Desk, overlay: OverlayRoot, tmp_path: Path
) -> None:
    """Mount points, directories, memory file systems and the working directory; the payload's own files are
    its own.
    """
    script = "stat -c '%u %g' /made /made/below /memory /new/work; id -u; touch /own; stat -c '%u %g' /own"
    steps = (
        MakeDirectory(target="/made/below"),
        MountFilesystem(fstype="tmpfs", target="/memory"),
        ChangeDirectory(target="/new/work"),
    )
    outcome = await desk.run(plan_of(overlay, script, *steps))
    assert outcome.stdout.splitlines() == ["100000 200000"] * 4 + ["0", "0 0"], outcome.stderr
    made = {path.name: owner_of(path) for path in (tmp_path / "upper").iterdir()}
    assert made.pop("own") == (0, 0)
    assert set(made) == {"made", "memory", "new"} and set(made.values()) == {(100_000, 200_000)}


async def test_whom_the_mapping_lacks_nobody_can_be(desk: Desk, overlay: OverlayRoot) -> None:
    """Nor can root read what such a file gives only to its owner, copy it up, or give it away."""
    script = "cat beyond secret; chown 0 beyond; echo x >> beyond; chmod 644 secret"
    outcome = await desk.run(plan_of(overlay, script))
    assert outcome.stdout == "beyond\n"
    reading, giving, writing, opening = outcome.stderr.splitlines()
    assert "secret" in reading and "Permission denied" in reading
    assert "beyond" in giving and "Value too large" in giving
    assert "beyond" in writing and "Permission denied" in writing
    assert "secret" in opening and "Value too large" in opening


async def test_a_user_of_the_host_with_the_mapped_id_owns_the_files(desk: Desk, overlay: OverlayRoot) -> None:
    """What a user namespace will make of this: host user 101000 is user 1000 of the image."""
    script = "echo more >> user && stat -c '%u %g' user; touch /no 2>&1"
    outcome = await desk.run(plan_of(overlay, script, user="101000:200050"))
    assert outcome.stdout.splitlines() == ["101000 200050", "touch: /no: Permission denied"], outcome.stderr


async def test_all_capabilities_come_back_with_the_identity(desk: Desk, overlay: OverlayRoot) -> None:
    script = "grep -E '^(Uid|Gid|CapEff|CapPrm)' /proc/self/status"
    mapped = (await desk.run(plan_of(overlay, script))).stdout
    plain = BindRoot(source=overlay.layers[-1], read_only=False)
    assert mapped == (await desk.run(plan_of(plain, script, mapping=None))).stdout
    assert "Uid:\t0\t0\t0\t0" in mapped


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_bind_root_is_mapped_too(
    desk: Desk, busybox_root: Path, tmp_path: Path, read_only: bool
) -> None:
    root = tmp_path / "root"
    shutil.copytree(busybox_root, root, symlinks=True)
    owned(root / "user", 1000)
    script = "stat -c '%u %g' /bin/busybox /user; ls -d /proc; touch /new 2>&1"
    step = BindRoot(source=str(root), read_only=read_only, idmap=MAP)
    outcome = await desk.run(plan_of(step, script))
    why = "Read-only file system" if read_only else "Value too large for defined data type"
    assert outcome.stdout.splitlines() == [
        "100000 200000",
        "101000 201000",
        "/proc",
        f"touch: /new: {why}",
    ], outcome.stderr
    assert owner_of(root / "user") == (1000, 1000)


async def test_the_hosts_own_root_is_mapped_mount_by_mount(desk: Desk, tmp_path: Path) -> None:
    """Hidden and emptied paths stay so; what of the host belongs to root belongs to the mapped root."""
    kernel.require_mapped_memory()
    disk = tmp_path / "disk"
    disk.mkdir()
    fd = mounts.tmpfs()
    target = os.open(disk, os.O_PATH)
    mounts.attach(fd, target)
    os.close(target)
    os.close(fd)
    try:
        owned(disk / "user", 1000)
        for name in ("upper", "work"):
            (tmp_path / name).mkdir()
        step = HostRoot(
            hidden=("/etc/shadow",),
            emptied=("/var/log",),
            submounts=(str(disk),),
            upper=str(tmp_path / "upper"),
            work=str(tmp_path / "work"),
            idmap=MAP,
        )
        script = f"stat -c '%n %u %g' / /etc /etc/passwd /var/log {disk}/user; ls /etc/shadow; touch /etc/new"
        outcome = await desk.run(plan_of(step, script, memory=()))
        assert outcome.stdout.splitlines() == [
            "/ 100000 200000",
            "/etc 100000 200000",
            "/etc/passwd 100000 200000",
            "/var/log 100000 200000",
            f"{disk}/user 101000 201000",
        ], outcome.stderr
        assert "/etc/shadow" in outcome.stderr and not Path("/etc/new").exists()
        assert owner_of(Path("/etc/passwd")) == (0, 0) and owner_of(disk / "user") == (1000, 1000)
    finally:
        mounts.detach(str(disk))


async def test_a_volume_with_a_mapping_of_its_own(desk: Desk, root: Path, tmp_path: Path) -> None:
    """``1000:0:1``: files of the host's user 1000 are root's inside, and what root makes there is 1000's."""
    source = tmp_path / "source"
    source.mkdir()
    os.chown(source, 1000, 1000)
    owned(source / "theirs", 1000)
    owned(source / "roots", 0)
    steps = (
        BindMount(source=str(source), target="/tmp/v", idmap=parse_idmap("1000:0:1")),
        BindMount(source=str(source / "theirs"), target="/tmp/file", idmap=parse_idmap("1000:7:1")),
        BindMount(source=str(source), target="/tmp/plain"),
    )
    script = (
        "stat -c %u /tmp/v/theirs /tmp/v/roots /tmp/file /tmp/plain/theirs;"
        "touch /tmp/v/new; stat -c %u /tmp/v/new"
    )
    outcome = await desk.run(plan_of(BindRoot(source=str(root)), script, *steps, mapping=None))
    assert outcome.stdout.split() == ["0", str(NOBODY), "7", "1000", "0"], outcome.stderr
    assert owner_of(source / "new") == (1000, 1000)


async def test_a_file_system_without_id_mapped_mounts_is_named(desk: Desk, root: Path) -> None:
    step = BindMount(source="/proc", target="/tmp/v", idmap=MAP, recursive=False, trusted=True)
    with pytest.raises(LaunchError, match=r"no id-mapped mounts \(proc\): /proc") as raised:
        await desk.run(plan_of(BindRoot(source=str(root)), "true", step, mapping=None))
    assert "show host path /proc" in str(raised.value) and raised.value.hint


async def test_set_user_id_programs_and_capabilities_of_files_are_the_mapped_users(
    desk: Desk, overlay: OverlayRoot, layer: Path, root: Path
) -> None:
    """A program of the image's root makes its caller 100000, who is nobody's root; capabilities of files
    count in a user namespace whose root that is, and nowhere else.  Without a mapping both are the host's.
    """
    for name, mode, capabilities in (("set", 0o6755, ""), ("cap", 0o755, SETUID)):
        program = layer / name
        program.mkdir()
        (program / "grep").write_bytes((root / "bin/busybox").read_bytes())
        (program / "grep").chmod(mode)
        if capabilities:
            os.setxattr(program / "grep", "security.capability", bytes.fromhex(capabilities))
    script = "/set/grep ^Uid /proc/self/status; /cap/grep CapPrm /proc/self/status"
    mapped = (await desk.run(plan_of(overlay, script, user="1000:1000"))).stdout.splitlines()
    # busybox gives the user up that it was started as; the third, saved one stays
    assert mapped == ["Uid:\t1000\t1000\t100000\t1000", "CapPrm:\t0000000000000000"]
    fresh = msgspec.structs.replace(overlay, idmap=None, upper=None, work=None)
    plain = (await desk.run(plan_of(fresh, script, mapping=None, user="1000:1000"))).stdout.splitlines()
    assert plain[1] == "CapPrm:\t0000000000000080"


async def test_a_capability_copied_up_stays_the_mapped_roots(
    desk: Desk, overlay: OverlayRoot, layer: Path, tmp_path: Path
) -> None:
    """capabilities(7): in the upper layer, which is not mapped, it names the user that root is mapped to."""
    owned(layer / "program", 0, mode=0o755)
    os.setxattr(layer / "program", "security.capability", bytes.fromhex(SETUID))
    outcome = await desk.run(plan_of(overlay, "touch -c program; chmod 700 program"))
    assert outcome.exit.status == 0, outcome.stderr
    copied = os.getxattr(tmp_path / "upper/program", "security.capability")
    assert copied[:1] == b"\1" and copied[3:4] == b"\3"
    assert int.from_bytes(copied[20:24], "little") == 100_000


def test_one_superblock_serves_every_mapping(tmp_path: Path) -> None:
    """Two clones of one mount, each with its mapping: the same file, device and inode, other owners."""
    owned(tmp_path / "file", 1000)

    def act() -> list[list[int]]:
        seen = []
        for first in (100_000, 300_000):
            namespace = userns.make(f"0 {first} 65536", f"0 {first + 1} 65536")
            fd = mounts.clone_tree(str(tmp_path))
            mounts.set_attributes(fd, 0, userns_fd=namespace)
            status = os.stat("file", dir_fd=fd)
            seen.append([status.st_dev, status.st_ino, status.st_uid, status.st_gid])
        return seen

    one, two = isolated.run(act)
    plain = (tmp_path / "file").stat()
    assert one[:2] == two[:2] == [plain.st_dev, plain.st_ino]
    assert one[2:] == [101_000, 101_001] and two[2:] == [301_000, 301_001]


def test_a_mapping_needs_nobody_to_live_in_it() -> None:
    """The process that made it is gone, and whoever enters finds the whole map; ranges may be many."""

    def act() -> list[str]:
        fd = userns.make("0 100000 10\n10 5 1\n", "0 7 1\n")
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | WALL)
        reader, writer = os.pipe()
        pid, pidfd = syscalls.clone3(0, exit_signal=signal.SIGCHLD, pidfd=True)
        if pid == 0:
            syscalls.setns(fd, syscalls.CLONE_NEWUSER)
            os.write(writer, Path("/proc/self/uid_map").read_bytes())
            os._exit(0)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        return os.read(reader, 4096).decode().split()

    assert isolated.run(act) == ["0", "100000", "10", "10", "5", "1"]


def test_a_mapping_is_made_below_a_pid_namespace_whose_procfs_is_the_hosts() -> None:
    def act() -> bool:
        fd = userns.make("0 100000 10", "0 7 1")
        return os.stat(fd).st_ino != os.stat("/proc/self/ns/user").st_ino

    assert isolated.run(act, flags=syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS) is True


def test_whoever_dies_while_making_a_mapping_leaves_no_process() -> None:
    """The one inside waits for its maker, and ends with it, killed at the worst moment."""

    def act() -> bool:
        reader, writer = os.pipe()
        maker, _ = syscalls.clone3(0, exit_signal=signal.SIGCHLD)
        if maker == 0:

            def die(pid: str, *maps: str) -> int:
                del maps
                os.write(writer, pid.encode())
                os.kill(os.getpid(), signal.SIGKILL)
                return -1

            userns._map = die  # type: ignore[assignment]
            userns.make("0 1 1", "0 1 1")
        inside = os.pidfd_open(int(os.read(reader, 20)))
        os.waitid(os.P_PID, maker, os.WEXITED)
        return bool(select.select([inside], [], [], 20)[0])

    assert isolated.run(act) is True


@pytest.mark.parametrize("old", [True, False])
def test_mapped_layers_below_an_overlay_by_every_interface(
    old: bool, layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.8 layers come in one option string, and detached ones are attached for a moment."""
    kernel.require_mapped_layers(tmp_path)
    if old:

        def refuse(_: object) -> int:
            raise overlays._NoAppend

        monkeypatch.setattr(overlays._Overlay, "_by_layer", refuse)
    above = tmp_path / "above"
    for place in (above, tmp_path / "upper", tmp_path / "work"):
        place.mkdir()
    owned(above / "above", 5)

    def act() -> list[int]:
        namespace = userns.make("0 100000 65536", "0 200000 65536")
        clones = []
        for place in (above, layer):
            clones.append(mounts.clone_tree(str(place), recursive=False))
            mounts.set_attributes(clones[-1], 0, userns_fd=namespace)
        upper, work = str(tmp_path / "upper"), str(tmp_path / "work")
        fd = mounts.overlay(clones, upper=upper, work=work)
        return [os.stat(name, dir_fd=fd).st_uid for name in ("above", "user", "beyond")]

    assert isolated.run(act) == [100_005, 101_000, NOBODY]


@pytest.mark.parametrize("bad", ["0 0", "", "0 1 2\n1 5 5", "0 4294967295 1"])
def test_the_kernel_refuses_a_map_and_nothing_stays(bad: str) -> None:
    def act() -> int:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="Invalid argument|not permitted"):
            userns.make(bad, "0 1 1")
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | WALL)
        return len(os.listdir("/proc/self/fd")) - before

    assert isolated.run(act) == 0


async def test_mount_points_of_a_read_only_root_belong_to_the_mapped_root(
    desk: Desk, overlay: OverlayRoot, layer: Path, tmp_path: Path
) -> None:
    """What the layers lack lies above them unmapped, and looks as if it were theirs."""
    (layer / "owned").mkdir(mode=0o755)
    os.chown(layer / "owned", 1000, 50)
    (tmp_path / "given").write_text("given\n")
    root = msgspec.structs.replace(overlay, upper=None, work=None)
    steps = (
        BindMount(source=str(tmp_path / "given"), target="/owned/deep/file"),
        MakeDirectory(target="/made/below"),
    )
    script = "stat -c '%u %g' / /owned /owned/deep /made /made/below; cat /owned/deep/file; touch /new 2>&1"
    outcome = await desk.run(plan_of(root, script, *steps))
    assert outcome.stdout.splitlines() == [
        "100000 200000",
        "101000 200050",
        *["100000 200000"] * 3,
        "given",
        "touch: /new: Read-only file system",
    ], outcome.stderr
