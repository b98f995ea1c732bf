"""What each kind of step does, seen from inside the container."""

from __future__ import annotations

import base64
import os
import shutil
import struct
from pathlib import Path

import pytest

from fixtures.launching import PROC, Desk, boxed, compose
from mesocosm.errors import LaunchError
from mesocosm.linux import mounts
from mesocosm.plan.operations import (
    BindMount,
    BindRoot,
    ChangeDirectory,
    CutPropagation,
    EnterRoot,
    Execute,
    HostRoot,
    JoinCgroup,
    JoinKeyring,
    LoadFilter,
    LoadFilterEarly,
    LoopbackUp,
    MakeDevice,
    MakeDirectory,
    MakeSymlink,
    MaskPath,
    MountFilesystem,
    NoNewPrivileges,
    OverlayRoot,
    ReadOnlyPath,
    ReadOnlyRoot,
    SetCapabilities,
    SetHostname,
    SetUmask,
    Step,
)

DEV = MountFilesystem(fstype="tmpfs", target="/dev", options=("mode=755",), flags=("nosuid",))


@pytest.mark.parametrize(
    ("steps", "script", "output"),
    [
        pytest.param((SetHostname(name="a-name"),), "hostname", "a-name", id="hostname"),
        pytest.param((LoopbackUp(),), "ip -o link show lo | grep -c 'LOOPBACK,UP'", "1", id="loopback"),
        pytest.param((SetUmask(mask=0o077),), "umask", "0077", id="umask"),
        pytest.param((), "umask", "0022", id="default umask"),
        pytest.param(
            (MakeDirectory(target="/tmp/a/b", mode=0o751),), "stat -c %a /tmp/a/b", "751", id="directory"
        ),
        pytest.param((MakeSymlink(target="/tmp/l", points_to="/x"),), "readlink /tmp/l", "/x", id="symlink"),
        pytest.param(
            (MakeSymlink(target="/bin/sh", points_to="/x"),),
            "readlink /bin/sh",
            "busybox",
            id="symlink stays",
        ),
        pytest.param(
            (DEV, MakeDevice(target="/dev/null", kind="c", major=1, minor=3, mode=0o600)),
            "stat -c '%a %t:%T' /dev/null; echo x >/dev/null",
            "600 1:3",
            id="device",
        ),
        pytest.param((ChangeDirectory(target="/tmp/new/dir"),), "pwd", "/tmp/new/dir", id="workdir"),
        pytest.param((NoNewPrivileges(),), "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1", id="nnp"),
        pytest.param(
            (MountFilesystem(fstype="tmpfs", target="/tmp/m", options=("size=4m",), flags=("ro", "noexec")),),
            "touch /tmp/m/x 2>&1; grep ' /tmp/m ' /proc/mounts | cut -d' ' -f3,4",
            "touch: /tmp/m/x: Read-only file system\ntmpfs ro,noexec,relatime,size=4096k",
            id="mount",
        ),
        pytest.param(
            (MaskPath(target="/payload"), MaskPath(target="/etc/passwd"), MaskPath(target="/nowhere")),
            "ls /payload; cat /etc/passwd; touch /payload/x 2>&1",
            "touch: /payload/x: Read-only file system",
            id="mask",
        ),
        pytest.param(
            (MaskPath(target="/bin/busybox/x"),), "", None, id="mask below a file is an error"
        ),
        pytest.param(
            (
                MountFilesystem(fstype="tmpfs", target="/tmp/m"),
                MountFilesystem(fstype="tmpfs", target="/tmp/m/n"),
                ReadOnlyPath(target="/tmp/m"),
                ReadOnlyPath(target="/nowhere"),
            ),
            "touch /tmp/m/x /tmp/m/n/x 2>&1; touch /tmp/y && echo fine",
            "touch: /tmp/m/x: Read-only file system\ntouch: /tmp/m/n/x: Read-only file system\nfine",
            id="read-only path",
        ),
        pytest.param(
            (ReadOnlyRoot(),),
            "touch /x 2>&1; touch /tmp/x && echo fine",
            "touch: /x: Read-only file system\nfine",
            id="read-only root",
        ),
    ],
)  # fmt: skip
async def test_a_step(
    desk: Desk, root: Path, steps: tuple[Step, ...], script: str, output: str | None
) -> None:
    plan = boxed(root, "sh", "-c", script, steps=steps)
    if output is None:
        with pytest.raises(LaunchError, match="not a directory"):
            await desk.run(plan)
        return
    outcome = await desk.run(plan)
    assert outcome.stdout.rstrip("\n") == output, outcome.stderr


async def test_a_bind_shows_a_file_or_a_folder(desk: Desk, root: Path, tmp_path: Path) -> None:
    """R-40: read-only holds for what is mounted below, too."""
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "file").write_text("content\n")
    below = mounts.tmpfs()
    held = os.open(source / "below", os.O_PATH)
    mounts.attach(below, held)
    os.close(held)
    os.close(below)
    steps = (
        BindMount(source=str(source), target="/tmp/rw"),
        BindMount(source=str(source), target="/tmp/ro", flags=("ro", "nosuid")),
        BindMount(source=str(source / "file"), target="/tmp/file", flags=("ro",)),
        BindMount(source=str(source), target="/tmp/flat", recursive=False),
    )
    script = (
        "cat /tmp/file; touch /tmp/rw/new /tmp/rw/below/new && ls /tmp/rw/below /tmp/flat/below;"
        "touch /tmp/ro/x /tmp/ro/below/x /tmp/file 2>&1"
    )
    try:
        outcome = await desk.run(boxed(root, "sh", "-c", script, steps=steps))
    finally:
        mounts.detach(str(source / "below"))
    assert outcome.stdout.splitlines() == [
        "content",
        "/tmp/flat/below:",
        "",
        "/tmp/rw/below:",
        "new",
        "touch: /tmp/ro/x: Read-only file system",
        "touch: /tmp/ro/below/x: Read-only file system",
        "touch: /tmp/file: Read-only file system",
    ]
    assert (source / "new").exists()


async def test_an_overlay_root_keeps_its_layers(desk: Desk, root: Path, tmp_path: Path) -> None:
    top, upper, work = (tmp_path / name for name in ("top", "upper", "work"))
    for folder in (top, upper, work):
        folder.mkdir()
    (top / "marker").write_text("top\n")

    def overlay(step: OverlayRoot, script: str) -> object:
        run = Execute(arguments=("sh", "-c", script), environment=("PATH=/bin",))
        return desk.run(compose(CutPropagation(), step, PROC, EnterRoot(), run))

    layers = (str(top), str(root))
    script = "cat /marker; echo changed >/marker; rm /etc/passwd; cat /marker"
    outcome = await overlay(OverlayRoot(layers=layers, upper=str(upper), work=str(work)), script)  # type: ignore[misc]
    assert outcome.stdout == "top\nchanged\n"
    assert (top / "marker").read_text() == "top\n"
    assert (upper / "marker").read_text() == "changed\n"
    assert (root / "etc/passwd").exists()
    outcome = await overlay(OverlayRoot(layers=layers), "cat /marker; touch /x 2>&1")  # type: ignore[misc]
    assert outcome.stdout == "top\ntouch: /x: Read-only file system\n"


async def test_the_host_root_is_a_copy_on_write_view(desk: Desk, tmp_path: Path) -> None:
    """The upper directory lies on the host's own disk; hidden paths do not exist; the host stays as it is."""
    place = Path("/var/tmp") / tmp_path.name
    upper, work, shown, hidden = (place / name for name in ("upper", "work", "shown", "hidden"))
    for folder in (upper, work, shown, hidden):
        folder.mkdir(parents=True)
    hidden.chmod(0o751)
    (shown / "file").write_text("host\n")
    (hidden / "secret").write_text("secret\n")
    (hidden / "open").write_text("open\n")
    step = HostRoot(
        hidden=(str(hidden / "secret"), str(upper), str(work), "/no/such/path"),
        submounts=(),
        upper=str(upper),
        work=str(work),
    )
    script = (
        f"cat {shown}/file; echo changed >{shown}/file; cat {shown}/file; ls {hidden} {place};"
        f"stat -c %a {hidden} /tmp; touch /new"
    )
    run = Execute(arguments=("sh", "-c", script), environment=("PATH=/usr/bin:/bin",))
    try:
        outcome = await desk.run(compose(CutPropagation(), step, PROC, EnterRoot(), run))
        changes = {path.name for path in upper.iterdir()}
        tmp_mode = f"{os.stat('/tmp').st_mode & 0o7777:o}"
        lines = outcome.stdout.splitlines()
        assert lines[:2] == ["host", "changed"]
        assert lines[2:9] == [f"{place}:", "hidden", "shown", "", f"{hidden}:", "open", "751"]
        assert lines[9:] == [tmp_mode]
        assert (shown / "file").read_text() == "host\n"
        assert changes == {"%2F"}
        assert not Path("/new").exists()
    finally:
        shutil.rmtree(place)


async def test_the_first_process_is_in_the_cgroup(desk: Desk, root: Path, cgroup_root: str) -> None:
    """R-23, R-34: it is moved before anything of the payload runs, and its cgroup namespace begins there."""
    group = Path("/sys/fs/cgroup/pids") / cgroup_root
    group.mkdir()
    (group / "pids.max").write_text("5")
    step = JoinCgroup(source=str(group / "tasks"))
    script = (
        "grep :pids: /proc/self/cgroup; (sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 &) 2>&1; kill -9 -1"
    )
    session, forked = await desk.fork(boxed(root, "sh", "-c", script, steps=(step,)))
    assert (group / "tasks").read_text().split() == [str(forked.pid)]
    await desk.launcher.start(session)
    await desk.launcher.wait(session)
    assert desk.stdout(session).splitlines()[0].endswith(":pids:/")
    assert "can't fork" in desk.stdout(session) + desk.stderr(session)


async def test_a_cgroup_given_as_a_folder(desk: Desk, root: Path, cgroup_root: str) -> None:
    group = Path("/sys/fs/cgroup/unified") / cgroup_root
    group.mkdir()
    session = desk.session()
    plan = boxed(root, "true")
    forked = await desk.launcher.fork(plan, session, output=desk.output(session), cgroup=group)
    assert (group / "cgroup.procs").read_text().split() == [str(forked.pid)]
    await desk.launcher.start(session)
    await desk.launcher.wait(session)


async def test_capabilities_are_exactly_those(desk: Desk, root: Path) -> None:
    """R-17: five sets, none wider than asked; a user other than root keeps only what is ambient."""
    chown, kill, net = 1 << 0, 1 << 5, 1 << 10
    sets = SetCapabilities(bounding=chown | kill | net, permitted=chown | kill, effective=chown, ambient=0)
    script = "grep Cap /proc/self/status"

    async def read(user: str, step: SetCapabilities) -> dict[str, int]:
        outcome = await desk.run(boxed(root, "sh", "-c", script, user=user, steps=(step,)))
        return {line.split(":")[0]: int(line.split()[1], 16) for line in outcome.stdout.splitlines()}

    everything = chown | kill | net
    assert await read("0", sets) == {
        "CapInh": 0, "CapPrm": everything, "CapEff": everything, "CapBnd": everything, "CapAmb": 0,
    }  # fmt: skip
    assert await read("worker", sets) == {
        "CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": everything, "CapAmb": 0,
    }  # fmt: skip
    with_ambient = SetCapabilities(
        bounding=everything, permitted=net, effective=net, inheritable=net, ambient=net
    )
    assert await read("worker", with_ambient) == {
        "CapInh": net, "CapPrm": net, "CapEff": net, "CapBnd": everything, "CapAmb": net,
    }  # fmt: skip


def _refuse(number: int, code: int) -> str:
    """A filter that answers one system call with an errno and allows the others."""
    instructions = (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, number),
        (0x06, 0, 0, 0x50000 | code),
        (0x06, 0, 0, 0x7FFF0000),
    )
    return base64.b64encode(b"".join(struct.pack("HBBI", *each) for each in instructions)).decode()


@pytest.mark.parametrize("early", [False, True])
async def test_a_filter_holds_in_the_payload(desk: Desk, root: Path, early: bool) -> None:
    """R-22: loaded last; without no_new_privs while there is still the privilege to."""
    mkdir = _refuse({"x86_64": 83, "aarch64": 34}[os.uname().machine], 99)
    if early:
        steps: tuple[Step, ...] = (LoadFilterEarly(program=mkdir, summary="test"),)
    else:
        steps = (NoNewPrivileges(), LoadFilter(program=mkdir, summary="test"))
    script = "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status"
    outcome = await desk.run(boxed(root, "sh", "-c", script, user="worker", steps=steps))
    assert outcome.stdout.splitlines() == [
        "mkdir: can't create directory '/tmp/x': Cannot assign requested address",
        "Seccomp:\t2",
    ]
    session, forked = await desk.fork(boxed(root, "sleep", "100", steps=steps))
    await desk.launcher.start(session)
    further = boxed(root, "sleep", "100", steps=steps).entering(
        pid=forked.pid, start_time=forked.start_time, arguments=("sh", "-c", script)
    )
    assert (await desk.run(further)).stdout == outcome.stdout


async def test_a_keyring_of_its_own(desk: Desk, root: Path) -> None:
    """R-27: the keys of the one who launches are out of reach."""
    script = "cat /proc/keys | grep -c _mesocosm-test"
    outcome = await desk.run(boxed(root, "sh", "-c", script, steps=(JoinKeyring(name="_mesocosm-test"),)))
    assert outcome.stdout == "1\n"


async def test_a_read_only_root_by_its_own_step(desk: Desk, root: Path) -> None:
    plan = boxed(root, "sh", "-c", "touch /x 2>&1", read_only=True)
    assert (await desk.run(plan)).stdout == "touch: /x: Read-only file system\n"
    with pytest.raises(LaunchError, match="not a directory"):
        await desk.run(
            compose(CutPropagation(), BindRoot(source="/etc/passwd"), EnterRoot(), Execute(arguments=("x",)))
        )
