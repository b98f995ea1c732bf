"""What a container sees, and what it cannot do to it (attacks R-07, R-14 … R-41, N-08, K-02, K-06)."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.canary import Canary
from fixtures.containers import Box, Yard
from fixtures.view import View
from mesocosm.errors import LaunchError
from mesocosm.isolators.filesystem.linux import MASKED, READ_ONLY
from mesocosm.model import CapabilityRequest, HostPathMount, ImageRuntime, NamespaceModes, Rlimit, TmpfsMount


@pytest.fixture
async def yard(tmp_path: Path, busybox_root: Path, cgroup_root: str) -> AsyncIterator[Yard]:
    async with Yard.open(tmp_path / "yard", busybox_root, cgroup_root) as made:
        yield made


async def seen(yard: Yard, **config: Any) -> View:
    """The default container's view, or that of one with this configuration."""
    box = await yard.box("sh", "/payload/report.sh", **config)
    return View((await box.run()).encode(errors="surrogateescape"))


async def said(yard: Yard, script: str, **config: Any) -> str:
    """What a shell script says in a container."""
    box = await yard.box("sh", "-c", script, **config)
    return await box.run()


# ── the whole view ──────────────────────────────────────────────────────────────────────────────────────


async def test_the_default_container_k_06_r_17_r_21_r_22_r_33(yard: Yard) -> None:
    view = await seen(yard)
    assert set(view.text("dev").split()) - {".", ".."} == {
        *("fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm"),
        *("stderr", "stdin", "stdout", "tty", "urandom", "zero"),
    }
    assert view.capabilities("Bnd") == view.capabilities("Eff") == 0xA80425FB
    assert view.capabilities("Inh") == view.capabilities("Amb") == 0
    assert (view.status["NoNewPrivs"], view.status["Seccomp"], view.text("umask")) == ("1", "2", "0022")
    assert view.limits["Max core file size"][0] == "0"
    assert view.links == {"lo"}
    assert set(view.environment) == {"PATH", "HOSTNAME", "HOME"}
    assert view.text("hostname") == view.environment["HOSTNAME"]
    own = {
        kind: link for kind, link in view.namespaces.items() if os.readlink(f"/proc/self/ns/{kind}") != link
    }
    assert set(own) >= {"mnt", "pid", "ipc", "uts", "net", "cgroup"}
    assert min(view.processes) == 1 and len(view.processes) < 5
    assert set(view.cgroups.values()) <= {"/", "/.leaf"}


async def test_hosts_modes_share_what_they_say(yard: Yard) -> None:
    shared = NamespaceModes(pid="host", ipc="host", uts="host", net="host", cgroup="host")
    view = await seen(yard, namespaces=shared)
    for kind in ("pid", "ipc", "uts", "net", "cgroup"):
        assert view.namespaces[kind] == os.readlink(f"/proc/self/ns/{kind}")
    assert view.text("hostname") == os.uname().nodename
    assert view.namespaces["mnt"] != os.readlink("/proc/self/ns/mnt")


async def test_loopback_is_up_and_nothing_else_is_there(yard: Yard) -> None:
    assert await said(yard, "ping -c 1 -W 5 127.0.0.1 >/dev/null && echo up; route -n | wc -l") == "up\n2\n"


# ── /proc, /sys, /dev ───────────────────────────────────────────────────────────────────────────────────


async def test_masked_paths_tell_nothing_k_02(yard: Yard) -> None:
    probe = (
        f"for p in {' '.join(MASKED)}; do [ -d $p ] && ls -A $p; cat $p; done 2>/dev/null; cat /proc/uptime"
    )
    found = await said(yard, probe)
    assert len(found.split()) == 2, found  # the twin: what is not masked tells


async def test_read_only_paths_cannot_be_written_r_15(yard: Yard) -> None:
    """An interval that no one here waits for stands for every sysctl; what is the container's own is not
    locked.
    """
    setting = "/proc/sys/fs/lease-break-time"
    before = Path(setting).read_text()
    attack = f"echo 44 > {setting}; mount -o remount,rw /proc/sys; umount /proc/sys; echo 43 > {setting}"
    found = await said(yard, f"{attack}; echo 7 > /proc/self/oom_score_adj && cat /proc/self/oom_score_adj")
    assert found.startswith("7\n"), found
    assert found.count("Read-only file system") == 2
    assert Path(setting).read_text() == before


@pytest.mark.parametrize("path", READ_ONLY)
async def test_every_read_only_path_is_a_read_only_mount(path: str, yard: Yard) -> None:
    if not os.path.exists(path):
        return
    assert "ro" in (await seen(yard)).mount(path).options


async def test_sys_and_cgroups_are_read_only_r_25(yard: Yard) -> None:
    view = await seen(yard)
    places = {mount.target for mount in view.mounts if f"{mount.target}/".startswith("/sys/")}
    assert {"/sys", "/sys/fs/cgroup"} <= places
    assert all("ro" in view.mount(place).options for place in places)
    found = await said(
        yard, "mkdir /sys/fs/cgroup/x; echo 1 > /sys/fs/cgroup/unified/cgroup.procs; ls /sys/fs/cgroup"
    )
    assert found.count("Read-only file system") >= 1
    assert "x" not in found.splitlines()[:1]


async def test_its_own_limits_are_what_it_sees_cg_4(yard: Yard) -> None:
    version = yard.host.cgroups.version("memory")
    name = "memory.max" if version == 2 else "memory/memory.limit_in_bytes"
    assert await said(yard, f"cat /sys/fs/cgroup/{name}") == f"{256 << 20}\n"


async def test_devices_open_by_the_list_whatever_node_is_made_r_24(yard: Yard) -> None:
    benign = await said(yard, "head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo null")
    assert benign == "3\nnull\n"
    attack = "mknod /tmp/mem c 1 1; mknod /tmp/loop b 7 0; mknod /tmp/fuse c 10 229; mknod /tmp/tun c 10 200;"
    attack += " for d in mem loop fuse tun; do head -c 1 /tmp/$d 2>&1; done"
    found = await said(yard, attack)
    assert found.count("Operation not permitted") == 4


async def test_terminals_are_its_own_r_26(yard: Yard) -> None:
    view = await seen(yard)
    assert view.mount("/dev/pts").kind == "devpts"
    assert (await said(yard, "ls /dev/pts; cut -d' ' -f7 /proc/self/stat")).split() == ["ptmx", "0"]


async def test_the_sessions_keys_stay_out_of_reach_r_27(yard: Yard) -> None:
    assert await said(yard, "cat /proc/keys | wc -c") == "0\n"


# ── /etc ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_generated_files_n_08(yard: Yard) -> None:
    found = await said(
        yard, "cat /etc/hostname /etc/hosts; grep -c nameserver /etc/resolv.conf", hostname="web"
    )
    assert found.startswith("web\n127.0.0.1\tlocalhost\n") and "127.0.1.1\tweb\n" in found
    assert found.endswith("0\n")


@pytest.fixture
def image(tmp_path: Path, busybox_root: Path) -> Path:
    """A copy of the root to put hostile things into."""
    return shutil.copytree(busybox_root, tmp_path / "image", symlinks=True)


LINKS = ["{canary}", "../../../../../../{canary}", "/missing/file", "/payload/../../../..{canary}"]


@pytest.mark.parametrize("link", LINKS)
async def test_an_images_links_in_etc_lead_nowhere_n_08(
    link: str, tmp_path: Path, image: Path, cgroup_root: str, canary: Canary
) -> None:
    """The image's /etc/hosts leads to a host's file: that one stays, and the container has its own."""
    (image / "etc/hosts").symlink_to(link.format(canary=canary.secret))
    async with Yard.open(tmp_path / "yard", image, cgroup_root) as yard:
        box = await yard.box("sh", "-c", "cat /etc/hosts; echo changed > /etc/hosts; cat /etc/hosts")
        found = await box.run()
    canary.assert_unseen(found)
    assert "localhost" in found and found.endswith("changed\n")


async def test_a_magic_link_in_etc_is_refused_n_08(
    tmp_path: Path, image: Path, cgroup_root: str, canary: Canary
) -> None:
    (image / "etc/hosts").symlink_to(f"/proc/self/root{canary.secret}")
    async with Yard.open(tmp_path / "yard", image, cgroup_root) as yard:
        with pytest.raises(LaunchError, match="/etc/hosts"):
            await yard.box("true")


# ── privileges ──────────────────────────────────────────────────────────────────────────────────────────


async def test_another_user_has_no_capability_r_17_r_18_r_19(yard: Yard) -> None:
    view = await seen(yard, user="worker")
    assert view.status["Uid"].split() == ["1000"] * 4 and view.status["Gid"].split() == ["1000"] * 4
    assert view.status["Groups"].split() == ["63", "1000"] or set(view.status["Groups"].split()) >= {"63"}
    assert view.capabilities("Eff") == view.capabilities("Prm") == view.capabilities("Amb") == 0
    assert view.environment["HOME"] == "/home/worker"


async def test_capabilities_as_asked_for(yard: Yard) -> None:
    view = await seen(yard, capabilities=CapabilityRequest(drop=("ALL",), add=("CHOWN",)))
    assert view.capabilities("Bnd") == view.capabilities("Eff") == 1


async def test_limits_of_processes(yard: Yard) -> None:
    view = await seen(yard, rlimits=(Rlimit("nofile", 100, 200),))
    assert view.limits["Max open files"] == ("100", "200")


async def test_the_filter_denies_and_the_twin_works_r_22(yard: Yard) -> None:
    attack = "unshare -U true; mount -t tmpfs none /mnt; umount /proc; chroot / true && echo chroot"
    found = await said(yard, attack)
    assert found.startswith("chroot\n")
    assert found.lower().count("not permitted") + found.count("permission denied") == 3
    free = await said(
        yard,
        "mkdir /m && mount -t tmpfs none /m && echo mounted",
        seccomp="unconfined",
        capabilities=CapabilityRequest(add=("SYS_ADMIN",)),
    )
    assert free == "mounted\n"


# ── the image's and the request's words ─────────────────────────────────────────────────────────────────


async def test_the_image_says_how_to_run_gap_22(yard: Yard) -> None:
    image = ImageRuntime(
        entrypoint=("sh", "-c"),
        command=("id -u; pwd; echo $A$B",),
        env=("A=image", "B=image"),
        workdir="/new/place",
        user="worker",
    )
    box = await yard.box(image=image, env=("B=asked",))
    assert await box.run() == "1000\n/new/place\nimageasked\n"


async def test_without_an_image_it_works_from_its_sandbox(yard: Yard) -> None:
    box = await yard.box("/bin/sh", "-c", "pwd; echo kept > file; ls -d /payload", root=False)
    found = await box.run()
    sandbox = yard.host.paths.container(box.id).sandbox
    assert found.startswith(f"{sandbox}\n") and (sandbox / "file").read_text() == "kept\n"
    assert "/payload: No such file" in found or "cannot access" in found


# ── volumes ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    directory = tmp_path / "volume"
    directory.mkdir()
    (directory / "file").write_text("host\n")
    return directory


async def test_a_volume_goes_both_ways(volume: Path, yard: Yard) -> None:
    found = await said(
        yard, "cat /v/file; echo in > /v/new", mounts=(HostPathMount(source=str(volume), target="/v"),)
    )
    assert found == "host\n" and (volume / "new").read_text() == "in\n"


async def test_a_read_only_volume_does_not_r_40(volume: Path, yard: Yard) -> None:
    mount = HostPathMount(source=str(volume), target="/v", read_only=True)
    found = await said(yard, "cat /v/file; echo in > /v/file; mount -o remount,rw /v", mounts=(mount,))
    assert found.startswith("host\n") and "Read-only file system" in found
    assert (volume / "file").read_text() == "host\n"


@pytest.mark.parametrize(
    ("options", "kept", "opens"), [((), {"nosuid", "nodev"}, False), (("suid", "dev"), set(), True)]
)
async def test_a_volume_carries_no_set_user_id_and_no_devices_r_41(
    options: tuple[str, ...], kept: set[str], opens: bool, volume: Path, yard: Yard
) -> None:
    mount = HostPathMount(source=str(volume), target="/v", options=options)
    view = await seen(yard, mounts=(mount,))
    assert view.mount("/v").options & {"nosuid", "nodev"} == kept
    found = await said(yard, "mknod /v/null c 1 3; echo x > /v/null && echo opened", mounts=(mount,))
    assert ("opened" in found) == opens
    (volume / "null").unlink()


async def test_one_file_can_be_a_volume(volume: Path, yard: Yard) -> None:
    mount = HostPathMount(source=str(volume / "file"), target="/etc/some/file")
    assert await said(yard, "cat /etc/some/file", mounts=(mount,)) == "host\n"


async def test_volumes_in_volumes(volume: Path, yard: Yard) -> None:
    mounts = (HostPathMount(source=str(volume), target="/a/b/c"), TmpfsMount(target="/a", size=1 << 20))
    assert await said(
        yard, "ls /a /a/b/c; df -k /a | tail -n 1 | tr -s ' ' | cut -d' ' -f2", mounts=mounts
    ) == ("/a:\nb\n\n/a/b/c:\nfile\n1024\n")


async def test_a_target_that_is_a_link_into_proc_is_refused_r_07(
    tmp_path: Path, image: Path, cgroup_root: str, volume: Path
) -> None:
    (image / "innocent").symlink_to("/proc/sys")
    (image / "benign").symlink_to("/tmp")
    async with Yard.open(tmp_path / "yard", image, cgroup_root) as yard:
        with pytest.raises(LaunchError, match="/innocent"):
            await yard.box("true", mounts=(HostPathMount(source=str(volume), target="/innocent"),))
        box = await yard.box(
            "cat", "/tmp/file", mounts=(HostPathMount(source=str(volume), target="/benign"),)
        )
        assert await box.run() == "host\n"


async def test_a_read_only_root_has_writable_volumes(volume: Path, yard: Yard) -> None:
    mounts = (HostPathMount(source=str(volume), target="/v"), TmpfsMount(target="/t"))
    found = await said(
        yard,
        "echo 1 > /x; echo 1 > /v/x; echo 1 > /t/x; echo 1 > /etc/hosts; ls /v /t",
        mounts=mounts,
        read_only=True,
    )
    assert found.count("Read-only file system") == 2
    assert (volume / "x").read_text() == "1\n"


async def test_a_socket_of_the_host_can_be_a_volume(tmp_path: Path, yard: Yard) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        mount = HostPathMount(source=str(tmp_path / "s"), target="/run/s")
        assert await said(yard, "test -S /run/s && echo socket", mounts=(mount,)) == "socket\n"


async def test_a_started_container_has_no_host_path_in_its_descriptors_r_03(yard: Yard) -> None:
    view = await seen(yard)
    assert all(link.startswith(("pipe:", "/dev/null", "socket:")) for link in view.descriptors.values())


async def test_boxes_do_not_see_each_other(yard: Yard) -> None:
    reader, writer = os.pipe()
    one: Box = await yard.box("sh", "/payload/wait.sh", stdin=reader)
    os.close(reader)
    await one.start()
    await one.until("ready")
    try:
        view = await seen(yard)
    finally:
        os.close(writer)
    await one.wait()
    assert all("wait.sh" not in name for name in view.processes.values())
    assert len(view.processes) < 5
