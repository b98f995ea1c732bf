"""Attacks on the way into a container, each with a benign twin that works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.canary import Canary
from fixtures.launching import SEPARATE, TMP, Desk, boxed, compose, desk_in
from mesocosm.errors import LaunchError
from mesocosm.plan.operations import (
    BindMount,
    BindRoot,
    ChangeDirectory,
    CutPropagation,
    EnterRoot,
    Execute,
    MakeDevice,
    MakeDirectory,
    MaskPath,
    MountFilesystem,
    ReadOnlyPath,
    Step,
)


@pytest.fixture
def own_root(busybox_root: Path, tmp_path: Path) -> Path:
    """A root that a test may spoil."""
    copy = tmp_path / "root"
    shutil.copytree(busybox_root, copy, symlinks=True)
    return copy


# --- our own processes ------------------------------------------------------------------------------------


async def test_r01_no_file_of_ours_can_be_written_through_our_processes(desk: Desk, root: Path) -> None:
    """R-01, CVE-2019-5736: interpreter and libraries, through exe and map_files, even for the host's root."""
    session, forked = await desk.fork(boxed(root, "sleep", "100"))
    server = desk.zygote
    for pid in (server, forked.supervisor, forked.pid):
        files = [f"/proc/{pid}/exe", *(entry.path for entry in os.scandir(f"/proc/{pid}/map_files"))]
        assert len(files) > 5
        for file in files:
            if not os.readlink(file).startswith("/"):
                continue
            with pytest.raises(OSError, match="Read-only file system|Text file busy"):
                os.close(os.open(file, os.O_WRONLY | os.O_APPEND))
            held = os.open(file, os.O_PATH)
            assert os.fstatvfs(held).f_flag & os.ST_RDONLY, file
            os.close(held)
    os.close(os.open(sys.executable, os.O_RDONLY))
    control = Path(shutil.copy(sys.executable, desk.folder / "python"))
    os.close(os.open(control, os.O_WRONLY | os.O_APPEND))


async def test_r01_a_script_of_proc_self_exe(desk: Desk, own_root: Path) -> None:
    """The entry point is ``#!/proc/self/exe``: what the kernel runs is the payload's own file or nothing."""
    evil = own_root / "evil"
    evil.write_text("#!/proc/self/exe\n")
    evil.chmod(0o755)
    before = Path(sys.executable).resolve().stat()
    with pytest.raises(LaunchError):
        await desk.run(boxed(own_root, "/evil"))
    after = Path(sys.executable).resolve().stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


async def test_r02_a_held_child_has_nothing_of_the_hosts(desk: Desk, root: Path) -> None:
    """R-02, CVE-2016-9962: neither the first nor a further process holds a descriptor of a host path."""
    plan = boxed(root, "sleep", "100")
    session, first = await desk.fork(plan)
    held = {first.pid}
    await desk.launcher.start(session)
    further = plan.entering(pid=first.pid, start_time=first.start_time, arguments=("true",))
    held.add((await desk.fork(further))[1].pid)
    held.add((await desk.fork(plan))[1].pid)
    for pid in held:
        names = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
        assert all(name == "/dev/null" or name.startswith(("pipe:", "socket:")) for name in names), names
    for pid in held - {first.pid}:
        status = Path(f"/proc/{pid}/status").read_text()
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        assert os.stat(f"/proc/{pid}/fd").st_uid == 0
        assert "NSpid" in status


async def test_r02_our_processes_cannot_be_traced_from_inside(desk: Desk, root: Path) -> None:
    """R-02, R-42: without CAP_SYS_PTRACE nobody looks into them, also where the host's PIDs are visible."""
    _, forked = await desk.fork(boxed(root, "true"))
    script = (
        f"ls -l /proc/{forked.supervisor}/fd /proc/{forked.supervisor}/exe 2>&1; ls /proc/$$/fd | head -1"
    )
    shared = tuple(kind for kind in SEPARATE if kind != "pid")
    outcome = await desk.run(boxed(root, "sh", "-c", script, user="worker", namespaces=shared))
    assert outcome.stdout.count("Permission denied") == 2
    assert outcome.stdout.endswith("0\n")


async def test_r04_descriptors_of_the_caller_stay_outside(desk: Desk, root: Path) -> None:
    """R-04: inheritable descriptors of the agent, also ones open before the zygote was started."""
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        async with desk_in(desk.folder) as other:
            other.session("unused")
            session, forked = await other.fork(
                boxed(root, "sh", "-c", "ls /proc/self/fd"), session=other.session("x")
            )
            for pid in (forked.supervisor, forked.pid):
                names = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
                assert "/" not in names
            await other.launcher.start(session)
            await other.launcher.wait(session)
            assert other.stdout(session).split() == ["0", "1", "2", "3"]  # 3 is the listing itself
    finally:
        os.close(leak)


async def test_r33_our_environment_stays_outside(
    desk: Desk, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESOCOSM_SECRET", "canary-token")
    async with desk_in(desk.folder) as other:
        session, forked = await other.fork(boxed(root, "env"), session=other.session("x"))
        for pid in (other.zygote, forked.supervisor, forked.pid):
            assert b"canary-token" not in Path(f"/proc/{pid}/environ").read_bytes()
        await other.launcher.start(session)
        await other.launcher.wait(session)
        assert other.stdout(session) == "PATH=/bin\n"


# --- paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 9, 10, 20, 33, 35, 100, 101, 255])
async def test_r03_a_working_directory_of_a_descriptor(desk: Desk, own_root: Path, number: int) -> None:
    """R-03, CVE-2024-21626: by name, through a link in the image, and in a further process."""
    (own_root / "link").symlink_to(f"/proc/self/fd/{number}")
    for target in (f"/proc/self/fd/{number}", f"/proc/1/fd/{number}", "/link"):
        with pytest.raises(LaunchError, match="work in"):
            await desk.run(boxed(own_root, "true", steps=(ChangeDirectory(target=target),)))
    fine = boxed(own_root, "pwd", steps=(ChangeDirectory(target="/tmp/../tmp/./here"),))
    assert (await desk.run(fine)).stdout == "/tmp/here\n"


async def test_r03_a_working_directory_of_a_further_process(desk: Desk, root: Path) -> None:
    plan = boxed(root, "sleep", "100", steps=(ChangeDirectory(target="/tmp"),))
    session, forked = await desk.fork(plan)
    await desk.launcher.start(session)
    for target in [f"/proc/self/fd/{number}" for number in range(3, 12)]:
        further = plan.entering(
            pid=forked.pid, start_time=forked.start_time, arguments=("pwd",), workdir=target
        )
        with pytest.raises(LaunchError):
            await desk.run(further)
    fine = plan.entering(pid=forked.pid, start_time=forked.start_time, arguments=("pwd",), workdir="/tmp/in")
    assert (await desk.run(fine)).stdout == "/tmp/in\n"


def _links(outside: Path) -> list[str]:
    return [str(outside), f"../../../../../../../..{outside}", f"/proc/self/root{outside}"]


@pytest.mark.parametrize("kind", [0, 1, 2])
async def test_r05_targets_through_links_stay_inside(
    desk: Desk, own_root: Path, canary: Canary, tmp_path: Path, kind: int
) -> None:
    """R-05, R-13, R-14: whatever is made, mounted or hidden lands in the root or nowhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("host")
    (own_root / "link").symlink_to(_links(outside)[kind])
    steps: tuple[Step, ...] = (
        MakeDirectory(target="/link/made"),
        MakeDevice(target="/link/device", kind="c", major=1, minor=3),
        BindMount(source=str(canary.root), target="/link/bind"),
        MountFilesystem(fstype="tmpfs", target="/link/tmpfs"),
        MaskPath(target="/link/file"),
        ReadOnlyPath(target="/link/file"),
    )
    for step in steps:
        try:
            await desk.run(boxed(own_root, "true", steps=(step,)))
        except LaunchError as error:
            assert "symbolic" in str(error) or "not a directory" in str(error)
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "host"
    (own_root / "absolute").symlink_to("/var/run")  # the twin: an absolute link, as many images have it
    fine = boxed(own_root, "ls", "/var/run", steps=(MakeDirectory(target="/absolute/made"),))
    assert (await desk.run(fine)).stdout == "made\n"


@pytest.mark.parametrize("fstype", ["proc", "sysfs"])
async def test_r07_proc_and_sys_must_be_real_directories(desk: Desk, own_root: Path, fstype: str) -> None:
    target = {"proc": "/proc", "sysfs": "/sys"}[fstype]
    step = MountFilesystem(fstype=fstype, target=target)
    run = Execute(arguments=("true",), environment=("PATH=/bin",))

    def plan() -> object:
        return desk.run(compose(CutPropagation(), BindRoot(source=str(own_root)), step, EnterRoot(), run))

    await plan()  # type: ignore[misc]
    for place in (own_root / target[1:],):
        shutil.rmtree(place, ignore_errors=True)
        place.symlink_to("/tmp")
    with pytest.raises(LaunchError, match="symbolic link"):
        await plan()  # type: ignore[misc]


async def test_r07_the_kernels_view_cannot_be_covered(desk: Desk, root: Path, tmp_path: Path) -> None:
    """CVE-2019-16884: a volume over /proc or below; the informing files are the benign twin."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "meminfo").write_text("fake\n")
    for target in ("/proc/self", "/proc/sys", "/proc/sys/kernel/core_pattern", "/proc/1/attr"):
        source = tmp_path / ("meminfo" if target.endswith("pattern") else "fake")
        step = BindMount(source=str(source), target=target)
        with pytest.raises(LaunchError, match="covered|no such file|operation not permitted"):
            await desk.run(boxed(root, "true", steps=(step,)))
    shown = BindMount(source=str(tmp_path / "meminfo"), target="/proc/meminfo")
    assert (await desk.run(boxed(root, "cat", "/proc/meminfo", steps=(shown,)))).stdout == "fake\n"
    trusted = BindMount(source=str(tmp_path / "fake"), target="/proc/bus", trusted=True)
    assert (await desk.run(boxed(root, "ls", "/proc/bus", steps=(trusted,)))).stdout == ""


async def test_r09_the_null_device_is_the_hosts(desk: Desk, own_root: Path, tmp_path: Path) -> None:
    """R-09, CVE-2025-31133: a link or a file for /dev/null in the image is never used to hide with."""
    (tmp_path / "victim").write_text("host")
    shutil.rmtree(own_root / "dev", ignore_errors=True)
    (own_root / "dev").mkdir()
    (own_root / "dev/null").symlink_to("/etc/os-release")
    script = "echo written >/etc/passwd; cat /etc/passwd; cat /etc/os-release | head -1"
    outcome = await desk.run(boxed(own_root, "sh", "-c", script, steps=(MaskPath(target="/etc/passwd"),)))
    assert outcome.stdout == 'NAME="mesocosm test root"\n'


async def test_r20_a_fifo_for_passwd_does_not_hang(desk: Desk, own_root: Path) -> None:
    (own_root / "etc/passwd").unlink()
    os.mkfifo(own_root / "etc/passwd")
    with pytest.raises(LaunchError, match="not a regular file"):
        await desk.run(boxed(own_root, "true", user="worker"))


@pytest.mark.parametrize("user", ["4294967295", "4294967296", "-1", "+0", "1:", "٣", " 0", "0x0"])
async def test_r18_no_odd_user_becomes_root(desk: Desk, root: Path, user: str) -> None:
    with pytest.raises(LaunchError, match="look up user"):
        await desk.run(boxed(root, "id", "-u", user=user))
    assert (await desk.run(boxed(root, "id", "-u", user="2147483648"))).stdout == "2147483648\n"


async def test_r19_groups_are_set_and_others_dropped(desk: Desk, root: Path) -> None:
    groups = {"worker": "1000 63 10", "worker:audio": "63", "4242": "0", "4242:17": "17"}
    for user, wanted in groups.items():
        outcome = await desk.run(boxed(root, "id", "-G", user=user))
        assert sorted(outcome.words) == sorted(wanted.split())


async def test_r26_there_is_no_controlling_terminal(desk: Desk, root: Path) -> None:
    outcome = await desk.run(boxed(root, "sh", "-c", "cut -d' ' -f5-7 /proc/self/stat"))
    assert outcome.stdout.split()[-1] == "0"


async def test_r28_mounts_do_not_propagate(desk: Desk, root: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    steps = (MountFilesystem(fstype="tmpfs", target="/tmp/inner"),)
    session, _ = await desk.fork(boxed(root, "sleep", "100", steps=steps))
    assert Path("/proc/self/mountinfo").read_text() == before
    inside = await desk.run(boxed(root, "cat", "/proc/self/mountinfo", steps=steps))
    assert "/tmp/inner" in inside.stdout
    assert not re.search(r"shared:|master:", inside.stdout)


async def test_r29_no_abstract_socket_is_ours(desk: Desk, root: Path) -> None:
    _, forked = await desk.fork(boxed(root, "true"))
    own = {entry.name for entry in os.scandir(f"/proc/{forked.supervisor}/fd")}
    assert own
    lines = Path("/proc/net/unix").read_text().splitlines()
    assert not [line for line in lines if "@" in line.rpartition(" ")[2] and "mesocosm" in line]


async def test_r39_session_files_are_ours_alone(desk: Desk, root: Path) -> None:
    former = os.umask(0)
    try:
        session, _ = await desk.fork(boxed(root, "true"))
    finally:
        os.umask(former)
    assert os.stat(session.directory).st_mode & 0o077 == 0
    for entry in os.scandir(session.directory):
        assert entry.stat(follow_symlinks=False).st_mode & 0o077 == 0, entry.name


async def test_mounts_are_as_the_plan_says(desk: Desk, root: Path) -> None:
    """The tree that the payload sees has the root, /proc, /tmp and nothing of the host's."""
    outcome = await desk.run(boxed(root, "cat", "/proc/mounts"))
    assert {line.split()[1] for line in outcome.stdout.splitlines()} == {"/", "/proc", TMP.target}


# --- nothing is loaded inside -----------------------------------------------------------------------------

SCRIPT = """
import asyncio, sys
from pathlib import Path
from fixtures.launching import boxed, desk_in
from mesocosm.plan.operations import ChangeDirectory

async def main(root, folder):
    async with desk_in(folder) as desk:
        steps = (ChangeDirectory(target="/tmp/x"),)
        plan = boxed(root, "sleep", "100", user="worker", steps=steps)
        session, forked = await desk.fork(plan)
        await desk.launcher.start(session)
        await desk.run(plan.entering(pid=forked.pid, start_time=forked.start_time, arguments=("id",)))
        for program in ("/nope", "/etc/passwd"):
            try:
                await desk.run(boxed(root, program, user="worker", steps=steps))
            except Exception as error:
                print(error)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_p01_nothing_is_opened_between_the_root_and_execve(root: Path, tmp_path: Path) -> None:
    """P-01, CVE-2019-14271: between pivot_root or setns and execve no library and no module is opened."""
    trace = tmp_path / "trace"
    tests = Path(__file__).parent.parent
    calls = "open,openat,openat2,execve,pivot_root,setns,exit_group,mmap"
    subprocess.run(
        [
            *("strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}", "-e", "signal=none"),
            *(sys.executable, "-c", SCRIPT, str(root), str(tmp_path)),
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": str(tests)},
    )
    inside: dict[str, list[str]] = {}
    programs: set[str] = set()  # the zygote has been executed; a child is not before it becomes the payload
    ends = 0
    for line in trace.read_text().splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if pid not in programs and re.match(r"(<... )?(pivot_root|setns\(.*CLONE_NEWNS).* = 0", call):
            inside[pid] = []
        elif re.match(r"(<... )?execve\b.* = 0", call):
            programs.add(pid)
            ends += inside.pop(pid, None) is not None
        elif pid in inside:
            inside[pid].append(call)
            assert not re.match(r"open(at2?)?\(", call) or "O_DIRECTORY" in call, call
            assert not (call.startswith("mmap(") and "PROT_EXEC" in call), call
    assert ends >= 1
    assert len(inside) >= 2  # those whose execve failed
