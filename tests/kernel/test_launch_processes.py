"""The processes behind a launch: zygote, mould, spares and supervisors."""

from __future__ import annotations

import os
import signal
import statistics
from pathlib import Path

import pytest

from fixtures.launching import Desk, boxed, gone
from mesocosm.errors import AlreadyExists, LaunchError
from mesocosm.linux import namespaces, processes

SUPERVISOR_KIB = 512
"""What an idle supervisor may have of its own."""


def _private(pid: int) -> int:
    """KiB of memory that no other process shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def _names(pid: int) -> list[str]:
    return sorted(os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd"))


async def test_an_idle_supervisor_is_small(desk: Desk, root: Path) -> None:
    supervisors = []
    for _ in range(8):
        session, forked = await desk.fork(boxed(root, "sleep", "100"))
        await desk.launcher.start(session)
        supervisors.append(forked.supervisor)
    assert statistics.fmean(_private(pid) for pid in supervisors) < SUPERVISOR_KIB


async def test_a_supervisor_holds_only_what_it_needs(desk: Desk, root: Path) -> None:
    """R-04: no plan, no standard input, no socket to the launcher, no descriptor of another container."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    await desk.fork(boxed(root, "sleep", "100"))
    try:
        session, forked = await desk.fork(boxed(root, "sleep", "100"), stdin=source)
        await desk.launcher.start(session)
        names = _names(forked.supervisor)
        pipe = os.readlink(f"/proc/self/fd/{source}")
    finally:
        os.close(source)
        os.close(sink)
    files = {name for name in names if name.startswith("/") and not name.startswith("/dev/")}
    output = desk.output(session)
    assert {name for name in files if "memfd" not in name} == {
        str(path) for path in (session.directory, session.lock, output.stdout, output.stderr, output.index)
    }
    assert pipe not in names
    assert not [name for name in names if name.startswith("/memfd:plan")]
    assert len([name for name in names if name.startswith("pipe:")]) == 2


@pytest.mark.parametrize("own", [("pid", "mnt", "ipc", "uts", "net"), ("pid", "mnt", "uts"), ("pid", "mnt")])
async def test_namespaces_made_ahead_are_the_childs_alone(
    desk: Desk, root: Path, own: tuple[str, ...]
) -> None:
    """The supervisor is back in the host's, and the child is in no new one that was not asked for."""
    session, forked = await desk.fork(boxed(root, "sleep", "100", namespaces=own))
    await desk.launcher.start(session)
    for kind in ("ipc", "uts", "net"):
        assert namespaces.identity(kind, forked.supervisor) == namespaces.identity(kind)
        ours = namespaces.identity(kind, forked.pid) == namespaces.identity(kind)
        assert ours == (kind not in own), kind


async def test_what_supervisors_are_is_seen_from_outside(desk: Desk, root: Path) -> None:
    session, forked = await desk.fork(boxed(root, "sleep", "100"))
    status = processes.read_status(forked.supervisor)
    assert status["Name"] == "mesocosm"
    assert int(status["PPid"]) == desk.zygote
    assert (
        status["SigBlk"] != "0000000000000000"
    )  # the terminal's and the init system's signals do not end it
    payload = processes.read_status(forked.pid)
    assert int(payload["PPid"]) == forked.supervisor


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_supervisor_is_not_ended_by_a_polite_signal(desk: Desk, root: Path, number: int) -> None:
    session, forked = await desk.fork(boxed(root, "sh", "-c", "echo on; exit 4"))
    os.kill(forked.supervisor, number)
    await desk.launcher.start(session)
    ended = await desk.launcher.wait(session)
    assert ended is not None
    assert ended.code == 4


def _spares(desk: Desk) -> set[int]:
    return set(processes.children(desk.zygote))


async def test_killed_spares_are_replaced(desk: Desk, root: Path) -> None:
    """Q-04: whatever waits may be killed; the next launch works all the same."""
    assert (await desk.run(boxed(root, "echo", "one"))).stdout == "one\n"
    for pid in _spares(desk):
        for child in processes.children(pid):
            os.kill(child, signal.SIGKILL)
    assert (await desk.run(boxed(root, "echo", "two"))).stdout == "two\n"


async def test_a_killed_mould_ends_the_zygote_and_another_one_starts(desk: Desk, root: Path) -> None:
    """Q-04: containers go on, and the launcher starts afresh."""
    session, _ = await desk.fork(boxed(root, "sh", "-c", "echo on; exit 4"))
    zygote = desk.zygote
    own = {found.supervisor[0] for found in [desk.launcher.process(session)] if found}
    moulds = [pid for pid in _spares(desk) - own if not processes.children(pid)]
    for pid in moulds:
        os.kill(pid, signal.SIGKILL)
    await gone(zygote)
    assert (await desk.run(boxed(root, "echo", "two"))).stdout == "two\n"
    await desk.launcher.start(session)
    ended = await desk.launcher.wait(session)
    assert ended is not None
    assert ended.code == 4


async def test_different_plans_one_after_another(desk: Desk, root: Path) -> None:
    """What the last child foresaw for the next one must never show when another one comes."""
    script = "readlink /proc/self/ns/net; cat /proc/mounts"
    host = os.readlink("/proc/self/ns/net")
    for _ in range(3):
        full = await desk.run(boxed(root, "sh", "-c", script))
        assert full.words[0] != host
        shared = await desk.run(boxed(root, "sh", "-c", script, namespaces=("mnt", "pid")))
        assert shared.words[0] == host
        assert sorted(full.stdout.splitlines()[1:]) == sorted(shared.stdout.splitlines()[1:])


async def test_what_cannot_be_prepared_is_a_launch_error(desk: Desk, root: Path) -> None:
    session = desk.session()
    output = desk.output(session)
    output.stdout.symlink_to("/etc/passwd")
    with pytest.raises(LaunchError, match="symbolic links"):
        await desk.fork(boxed(root, "true"), session=session)
    output.stdout.unlink()
    await desk.fork(boxed(root, "true"), session=session)
    with pytest.raises(AlreadyExists):
        await desk.fork(boxed(root, "true"), session=session)
