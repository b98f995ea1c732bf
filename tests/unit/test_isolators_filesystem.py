"""Contributions of filesystem/linux and filesystem/posix, per cgroup layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fixtures.isolation import MODES, NAME, ROOT, Mode, container, host, isolator, prepare
from mesocosm.errors import InvalidConfig
from mesocosm.isolators.filesystem.linux import MASKED, READ_ONLY
from mesocosm.model import HostPathMount, NamespaceModes, TmpfsMount, parse_idmap
from mesocosm.plan import Contribution, LaunchPlan, MakeHostDirectory, WriteHostFile
from mesocosm.plan.operations import (
    BindMount,
    BindRoot,
    CutPropagation,
    EnterRoot,
    HostRoot,
    JoinKeyring,
    MakeDevice,
    MakeFilesAs,
    MakeSymlink,
    MaskPath,
    MountFilesystem,
    ReadOnlyPath,
    ReadOnlyRoot,
    SetUmask,
)

LOCKED = ("nosuid", "nodev", "noexec")


def linux(tmp_path: Path, mode: Mode = "hybrid", **request: Any) -> Contribution:
    return prepare("filesystem/linux", host(tmp_path, mode), **request)


def test_a_root_with_mapped_owners_is_set_up_as_its_root(tmp_path: Path) -> None:
    """What is made in it belongs to the mapped root, from the step after the root on."""
    found = linux(tmp_path, idmap=parse_idmap("uids=0:100000:9;gids=0:200000:9"), image="x")
    kinds = [type(step) for step in found.steps]
    assert kinds.index(MakeFilesAs) == kinds.index(CutPropagation) + 2
    assert MakeFilesAs(uid=100_000, gid=200_000) in found.steps
    files = [step for step in found.host if isinstance(step, WriteHostFile)]
    assert files and all(step.owner == (100_000, 200_000) for step in files)
    assert "owners mapped by uids=0:100000:9;gids=0:200000:9" in found.notes
    plain = linux(tmp_path)
    assert MakeFilesAs not in map(type, plain.steps)
    assert all(step.owner is None for step in plain.host if isinstance(step, WriteHostFile))


def targets(found: Contribution) -> list[str]:
    kinds = MountFilesystem | BindMount | MakeDevice | MakeSymlink
    return [step.target for step in found.steps if isinstance(step, kinds)]


def _view(tmp_path: Path, mode: Mode) -> tuple[MountFilesystem | BindMount, ...]:
    place = {"v1": "/freezer", "hybrid": "/unified", "v2": ""}[mode]
    bind = BindMount(
        source=f"{tmp_path}/cgroup{place}/mesocosm-test/{NAME}",
        target=f"/sys/fs/cgroup{place}",
        recursive=False,
        flags=("ro", *LOCKED),
        trusted=True,
    )
    tmpfs = MountFilesystem(
        fstype="tmpfs",
        target="/sys/fs/cgroup",
        options=("mode=755", "size=64k"),
        flags=LOCKED,
        trusted=True,
    )
    return (bind,) if mode == "v2" else (tmpfs, bind)


@pytest.mark.parametrize("mode", MODES)
def test_the_whole_contribution_fs_3_fs_4(mode: Mode, tmp_path: Path) -> None:
    etc = f"{tmp_path}/root/containers/{NAME}/etc"
    found = linux(tmp_path, mode)
    masks = tuple(step for step in found.steps if isinstance(step, MaskPath))
    expected = (
        CutPropagation(),
        ROOT,
        MountFilesystem(fstype="proc", target="/proc", flags=LOCKED),
        MountFilesystem(fstype="sysfs", target="/sys", flags=("ro", *LOCKED)),
        *_view(tmp_path, mode),
        MountFilesystem(
            fstype="tmpfs",
            target="/dev",
            options=("mode=755", "size=64m", "nr_inodes=4096"),
            flags=("nosuid",),
        ),
        MountFilesystem(
            fstype="devpts",
            target="/dev/pts",
            options=("newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            flags=("nosuid", "noexec"),
        ),
        MountFilesystem(
            fstype="tmpfs", target="/dev/shm", options=("mode=1777", "size=67108864"), flags=LOCKED
        ),
        MountFilesystem(fstype="mqueue", target="/dev/mqueue", flags=LOCKED),
        MakeDevice(target="/dev/null", kind="c", major=1, minor=3),
        MakeDevice(target="/dev/zero", kind="c", major=1, minor=5),
        MakeDevice(target="/dev/full", kind="c", major=1, minor=7),
        MakeDevice(target="/dev/random", kind="c", major=1, minor=8),
        MakeDevice(target="/dev/urandom", kind="c", major=1, minor=9),
        MakeDevice(target="/dev/tty", kind="c", major=5, minor=0),
        MakeSymlink(target="/dev/fd", points_to="/proc/self/fd"),
        MakeSymlink(target="/dev/stdin", points_to="/proc/self/fd/0"),
        MakeSymlink(target="/dev/stdout", points_to="/proc/self/fd/1"),
        MakeSymlink(target="/dev/stderr", points_to="/proc/self/fd/2"),
        MakeSymlink(target="/dev/ptmx", points_to="pts/ptmx"),
        *(
            BindMount(source=f"{etc}/{name}", target=f"/etc/{name}", recursive=False, flags=LOCKED)
            for name in ("hosts", "hostname", "resolv.conf")
        ),
        *masks,
        *(ReadOnlyPath(target=target) for target in READ_ONLY),
        *(() if mode == "v2" else (ReadOnlyPath(target="/sys/fs/cgroup"),)),
        EnterRoot(),
        JoinKeyring(name=f"_ses.{NAME}"),
        SetUmask(),
    )
    assert found.steps == expected
    assert {mask.target for mask in masks} >= set(MASKED)
    assert found.namespaces == ("mnt",)
    assert found.notes == ("root: 2 layers, writable", "/dev/shm: 64 MiB")


def test_all_that_the_peers_hide_is_hidden_k_02() -> None:
    proc = [
        "acpi",
        "asound",
        "interrupts",
        "kcore",
        "keys",
        "latency_stats",
        "sched_debug",
        "scsi",
        "timer_list",
        "timer_stats",
    ]
    assert {f"/proc/{name}" for name in proc} <= set(MASKED)
    assert {"/sys/firmware", "/sys/devices/virtual/powercap"} <= set(MASKED)
    assert {f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")} == set(READ_ONLY)


def test_etc_files_are_made_beside_the_image_n_08(tmp_path: Path) -> None:
    etc = f"{tmp_path}/root/containers/{NAME}/etc"
    directory, hosts, hostname, resolv = linux(tmp_path, hostname="web").host
    assert directory == MakeHostDirectory(path=etc)
    assert hostname == WriteHostFile(path=f"{etc}/hostname", content="web\n")
    assert isinstance(hosts, WriteHostFile) and isinstance(resolv, WriteHostFile)
    assert "127.0.0.1\tlocalhost\n" in hosts.content and hosts.content.endswith("127.0.1.1\tweb\n")
    assert "nameserver" not in resolv.content


def test_on_the_hosts_network_its_names_hold(tmp_path: Path) -> None:
    found = linux(tmp_path, namespaces=NamespaceModes(net="host"))
    hosts = next(s for s in found.host if isinstance(s, WriteHostFile) and s.path.endswith("/hosts"))
    assert hosts.content == Path("/etc/hosts").read_text(errors="replace")


def test_with_the_hosts_ipc_its_memory_is_shown(tmp_path: Path) -> None:
    found = linux(tmp_path, namespaces=NamespaceModes(ipc="host"))
    shm = [s for s in found.steps if isinstance(s, BindMount) and s.target == "/dev/shm"]
    assert shm == (
        [BindMount(source="/dev/shm", target="/dev/shm", flags=LOCKED)] if os.path.isdir("/dev/shm") else []
    )


def test_a_read_only_root_keeps_its_mounts_writable(tmp_path: Path) -> None:
    found = linux(tmp_path, read_only=True)
    assert ReadOnlyRoot() in found.steps
    etc = [s for s in found.steps if isinstance(s, BindMount) and s.target.startswith("/etc/")]
    assert all("ro" in step.flags for step in etc)
    assert found.notes[0] == "root: read-only"
    assert ReadOnlyRoot() not in linux(tmp_path).steps


def test_the_root_step_is_the_provisioners(tmp_path: Path) -> None:
    view = HostRoot(hidden=("/a",), submounts=(), upper="/u", work="/w")
    assert view in linux(tmp_path, root=view).steps
    assert linux(tmp_path, root=view).notes[0] == "root: the host's, copy-on-write, 1 paths hidden"
    assert linux(tmp_path, root=BindRoot(source="/x")).notes[0] == "root: read-only"


@pytest.mark.parametrize("target", ["/dev/shm", "/dev/shm/", "//dev/shm", "/dev/./shm"])
def test_a_volume_replaces_the_mount_it_covers(target: str, tmp_path: Path) -> None:
    found = linux(tmp_path, mounts=(TmpfsMount(target=target),))
    assert "/dev/shm" not in targets(found) and "/dev/mqueue" in targets(found)
    parts = [("filesystem/linux", found)]
    parts += [
        (name, prepare(name, host(tmp_path), mounts=(TmpfsMount(target=target),)))
        for name in ("volume/host_path", "image/runtime")
    ]
    assert LaunchPlan.compose(NAME, parts)


@pytest.mark.parametrize(
    ("target", "gone"),
    [
        ("/dev", {"/dev", "/dev/null", "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue"}),
        ("/etc", {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}),
        ("/etc/hosts", {"/etc/hosts"}),
    ],
)
def test_a_volume_above_replaces_all_it_covers(target: str, gone: set[str], tmp_path: Path) -> None:
    volume = HostPathMount(source=str(tmp_path), target=target)
    left = set(targets(linux(tmp_path))) - set(targets(linux(tmp_path, mounts=(volume,))))
    assert left >= gone
    assert all(path == target or path.startswith(target + "/") for path in left)


def test_files_under_a_volume_on_etc_are_not_made(tmp_path: Path) -> None:
    assert linux(tmp_path, mounts=(HostPathMount(source="/", target="/etc"),)).host == ()


def test_a_root_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="needs an image"):
        linux(tmp_path, root=None)


@pytest.mark.parametrize("mode", MODES)
def test_preparing_reads_only(mode: Mode, tmp_path: Path) -> None:
    one = isolator("filesystem/linux", host(tmp_path, mode))
    assert one.prepare(container()) == one.prepare(container())
    assert list(tmp_path.iterdir()) == []


def test_posix_has_the_hosts_files(tmp_path: Path) -> None:
    assert prepare("filesystem/posix", host(tmp_path), root=None) == Contribution(
        host=(MakeHostDirectory(path=f"{tmp_path}/root/containers/{NAME}/sandbox"),),
        steps=(SetUmask(),),
        notes=("root: the host's own",),
    )


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"root": None, "mounts": (TmpfsMount(target="/a"),)}, "a volume needs a root file system"),
        ({"root": None, "read_only": True}, "a read-only root needs a root file system"),
        ({}, "has no use for an image"),
    ],
)
def test_posix_refuses_what_needs_a_mount(request_: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=sentence):
        prepare("filesystem/posix", host(tmp_path), **request_)
