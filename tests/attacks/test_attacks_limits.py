"""Attacks on limits, devices and mounts that are shared: R-23, R-24, R-28, R-34, R-40, P-07, P-10."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

from attacks.commandline import CommandLine, exchanging
from counts import counts
from fixtures.canary import Canary
from fixtures.leaks import cgroup_directories
from mesocosm import ContainerConfig, Containerizer

Image = Callable[..., Path]

# --- limits ---

ALLOCATE = "print(len(bytearray(200 << 20)))"


def test_r23_exec_is_inside_the_limits(mesocosm: CommandLine, debian_root: Path) -> None:
    """R-23: exec joins the cgroups before its first instruction (rkt CVE-2019-10147, CVE-2025-47291): it sees
    the same cgroups, its memory counts, its processes count; benign twin: within them it works.
    """
    container = mesocosm.start(
        debian_root, "sleep", "600", options=("-m", "64m", "--memory-swap", "64m", "--pids-limit", "24")
    )
    same = mesocosm.exec(
        container, "sh", "-c", "cat /proc/1/cgroup > /tmp/first; cmp /tmp/first /proc/self/cgroup"
    )
    same.accepted()
    assert mesocosm.exec(container, "python3", "-I", "-c", "print(len(bytearray(8 << 20)))").accepted()
    bomb = mesocosm.exec(container, "python3", "-I", "/payload/fork_bomb.py", "100")
    assert '"stopped_by": "Resource temporarily unavailable"' in bomb.accepted()
    greedy = mesocosm.exec(container, "python3", "-I", "-c", ALLOCATE)
    assert greedy.status == 137
    assert greedy.out == ""


def test_r34_fork_bomb_stops_at_the_limit(mesocosm: CommandLine, debian_root: Path) -> None:
    """R-34: a fork bomb stops at pids.max, and what it made goes with the container."""
    done = mesocosm.run(
        debian_root, "python3", "-I", "/payload/fork_bomb.py", "500", options=("--pids-limit", "32")
    )
    assert '{"forked": 31, "stopped_by": "Resource temporarily unavailable"}' in done.accepted()


def test_r34_shared_memory_counts_and_goes(mesocosm: CommandLine, image: Image) -> None:
    """R-34: 512 MiB to /dev/shm in 64 MiB ends the container (podman CVE-2024-3056), 64 MiB of /dev are all
    there is; afterwards the host has its memory back.
    """

    def shared() -> int:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Shmem:"))

    before = shared()
    fill = ("dd", "if=/dev/zero", "of=/dev/shm/fill", "bs=1M", "count=512")
    root = image()
    small = ("-m", "64m", "--memory-swap", "64m", "--shm-size", "1g")
    done = mesocosm.run(root, *fill, options=small)
    assert done.status == 137
    assert "the limit of 64 MiB was reached" in done.err
    more = "dd if=/dev/zero of=/dev/fill bs=1M count=100 2> /dev/null || stat -c %s /dev/fill"
    full = mesocosm.shell(root, more)
    assert 0 < int(full.accepted()) <= 64 << 20
    assert shared() - before < 32 << 10


# --- devices ---


def test_r24_nodes_of_any_number_open_nothing(mesocosm: CommandLine, image: Image) -> None:
    """R-24: the disk, loop, fuse, mem, tun and port devices by mknod, in run, exec and after an update;
    benign twin: null, and a node of it that the container makes.
    """
    major, minor = os.major(os.stat("/").st_dev), os.minor(os.stat("/").st_dev)
    script = f"""
        mkdir -p /nodes; cd /nodes; rm -f *
        mknod disk b {major or 253} {minor}; mknod loop b 7 0; mknod fuse c 10 229; mknod mem c 1 1
        mknod kmsg c 1 11; mknod port c 1 4; mknod tun c 10 200; mknod kvm c 10 232
        for node in *; do
            head -c 0 $node 2> /dev/null && echo "$node was opened"
            (: > $node) 2> /dev/null && echo "$node was opened for writing"
        done
        mknod null c 1 3 && echo fine > null && echo benign
    """
    root = image()
    container = mesocosm.start(root, "sleep", "600")
    words = ("sh", "-c", textwrap.dedent(script))
    assert mesocosm.exec(container, *words).accepted() == "benign\n"
    mesocosm("update", "-m", "128m", "--memory-swap", "-1", container).accepted()
    assert mesocosm.exec(container, *words).accepted() == "benign\n"


# --- mounts ---


def test_r28_mounts_of_the_container_never_reach_the_host(
    mesocosm: CommandLine, image: Image, canary: Canary
) -> None:
    """R-28: a container that may mount does so on its root and on a volume; the host sees nothing; benign
    twin: ``rshared`` shows it both ways.
    """
    root = image()
    volume = canary.host / "mount"
    inside = """
        mkdir -p /volume/made && mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /volume/made && echo done
    """
    may_mount = ("--cap-add", "SYS_ADMIN")
    before = Path("/proc/self/mountinfo").read_text()
    done = mesocosm.shell(root, inside, *may_mount, "-v", f"{volume}:/volume")
    assert done.accepted() == "done\n"
    assert Path("/proc/self/mountinfo").read_text() == before
    subprocess.run(["mount", "--make-shared", volume], check=True)
    mesocosm.shell(root, inside, *may_mount, "-v", f"{volume}:/volume:rshared").accepted()
    assert f" {volume}/made " in Path("/proc/self/mountinfo").read_text()
    subprocess.run(["umount", volume / "made"], check=True)
    subprocess.run(["mount", "--make-private", volume], check=True)
    (volume / "made").rmdir()
    canary.look_again()


def test_r40_read_only_holds_below_too(mesocosm: CommandLine, debian_root: Path, canary: Canary) -> None:
    """R-40: a tmpfs below a read-only volume refuses writes too, and neither a remount nor a user namespace
    clears what a mount forbids; benign twin: writable without ``ro``.
    """
    script = """
        touch /volume/x && echo written
        touch /volume/mount/x && echo written below
        mount -o remount,rw,bind /volume && echo remounted
        unshare -Urm sh -c '
            for option in rw suid dev exec atime; do
                mount -o remount,bind,$option /volume && touch /volume/x && echo "remounted $option"
            done
            mount -o remount,bind,suid,dev,rw /volume/mount && echo remounted below
            mount -o remount,bind,ro /volume && echo namespace'
    """
    volume = ("-v", f"{canary.host}:/volume:ro,noexec")
    done = mesocosm.shell(debian_root, script, *volume, "--security-opt", "seccomp=unconfined")
    assert done.accepted() == "namespace\n"
    benign = mesocosm.shell(
        debian_root,
        "touch /volume/mount/x && rm /volume/mount/x && echo done",
        "-v",
        f"{canary.host}:/volume",
    )
    assert benign.accepted() == "done\n"
    canary.look_again()


# --- P-07: removing ---


def test_p07_removal_follows_no_link_and_crosses_no_mount(
    mesocosm: CommandLine, image: Image, canary: Canary
) -> None:
    """P-07: what is left in a container's own folders is removed while its components are swapped with a
    link to the host, and a bind mount left there is not descended into.
    """
    root = image()
    container = mesocosm.start(
        root,
        "sh",
        "-c",
        "mkdir -p /deep; for n in $(seq 300); do mkdir -p /deep/$n/a; touch /deep/$n/a/f; done",
    )
    mesocosm("wait", container).accepted()
    state = mesocosm.root / "containers" / container
    (state / "sandbox/path").mkdir()
    (state / "sandbox/evil").symlink_to(canary.host)
    (state / "sandbox/left").mkdir()
    subprocess.run(["mount", "--bind", canary.folder, state / "sandbox/left"], check=True)
    with exchanging(state / "sandbox", "path", "evil", forgiving=True):
        answer = mesocosm("rm", container)
    canary.assert_untouched()
    assert answer.status != 0
    assert "Traceback" not in answer.err
    # Out of sight at once, and tried again by every command, which does its own work all the same.
    doomed = state.with_name(f".removed-{container}")
    assert mesocosm("ps", "-aq").accepted() == ""
    subprocess.run(["umount", doomed / "sandbox/left"], check=True)
    mesocosm("ps", "-aq").accepted()
    assert not state.exists()
    assert not doomed.exists()


# --- P-10: many ends ---

ENDS = {f"exit {status}": status for status in range(0, 256, 11)} | {
    # The first process of a PID namespace ignores its own signals, so a child of it ends so.
    f"sh -c 'kill -{number} $$'; exit $?": 128 + number
    for number in (1, 2, 6, 9, 15, 31)
}


@counts("number", len(ENDS), 5000)
def test_p10_every_exit_status_of_many_short_containers_is_right(
    number: int, mesocosm: CommandLine, image: Image
) -> None:
    """P-10: exit statuses of short containers, eight at a time, are each its own; ends by signals too."""
    root, commands = image(), tuple(itertools.islice(itertools.cycle(ENDS), number))

    async def one(containers: Containerizer, gate: asyncio.Semaphore, command: str) -> int:
        async with gate:
            container = await containers.create(
                ContainerConfig(image=f"dir:{root}", command=("sh", "-c", command))
            )
            await containers.start(container)
            ended = await containers.wait(container)
            await containers.remove(container)
            return ended.status

    async def all_of_them() -> list[int]:
        async with Containerizer.open(root=mesocosm.root, runtime=mesocosm.runtime) as containers:
            gate = asyncio.Semaphore(8)
            return await asyncio.gather(*(one(containers, gate, command) for command in commands))

    ends = asyncio.run(all_of_them())
    assert ends == [ENDS[command] for command in commands]
    assert not [path for path in cgroup_directories() if str(mesocosm.runtime) in path]
