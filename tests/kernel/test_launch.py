"""Launching for real: the life of a payload from fork to exit.json, with plans made by hand."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.launching import SEPARATE, Desk, appears, boxed, compose, gone
from mesocosm.containerizer import Containerizer
from mesocosm.errors import AlreadyExists, LaunchError, NotFound, WrongState
from mesocosm.launch.launcher import Launcher
from mesocosm.linux import processes
from mesocosm.paths import Paths
from mesocosm.plan import LaunchPlan
from mesocosm.plan.operations import (
    BindMount,
    ChangeDirectory,
    Execute,
    LookUpUser,
    MakeDevice,
    MountFilesystem,
    SetHostname,
    SetRlimit,
    SetUser,
    Step,
)

# --- one life ---------------------------------------------------------------------------------------------


async def test_a_payload_runs_and_its_output_is_kept(desk: Desk, root: Path) -> None:
    outcome = await desk.run(boxed(root, "sh", "-c", "echo out; echo err >&2"))
    assert (outcome.stdout, outcome.stderr) == ("out\n", "err\n")
    assert outcome.exit.code == 0
    assert outcome.exit.signal is None
    assert outcome.forked.warnings == ()


@pytest.mark.parametrize("code", [0, 1, 2, 42, 125, 126, 127, 128, 137, 255])
async def test_every_exit_code_is_the_payloads_own(desk: Desk, root: Path, code: int) -> None:
    outcome = await desk.run(boxed(root, "sh", "-c", f"exit {code}"))
    assert outcome.exit.code == code
    assert outcome.exit.status == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
async def test_a_signal_is_reported_as_one(desk: Desk, root: Path, number: int) -> None:
    plan = boxed(root, "sleep", "100", namespaces=("mnt",))
    session, _ = await desk.fork(plan)
    await desk.launcher.start(session)
    assert await desk.launcher.signal(session, number)
    ended = await desk.launcher.wait(session)
    assert ended is not None
    assert (ended.code, ended.signal, ended.core_dumped) == (None, number, False)
    assert not await desk.launcher.signal(session, number)


async def test_a_core_dump_is_reported(desk: Desk, root: Path) -> None:
    unlimited: tuple[Step, ...] = (
        SetRlimit(name="core", soft=1 << 24, hard=1 << 24),
        ChangeDirectory(target="/tmp"),
    )
    dumped = await desk.run(boxed(root, "sh", "-c", "kill -SEGV $$; sleep 9", init=True, steps=unlimited))
    assert (dumped.exit.signal, dumped.exit.core_dumped) == (signal.SIGSEGV, True)
    none = (SetRlimit(name="core", soft=0, hard=0),)
    plain = await desk.run(boxed(root, "sh", "-c", "kill -SEGV $$; sleep 9", init=True, steps=none))
    assert (plain.exit.signal, plain.exit.core_dumped) == (signal.SIGSEGV, False)


async def test_the_index_says_when_and_which_stream(desk: Desk, root: Path) -> None:
    session, _ = await desk.fork(
        boxed(root, "sh", "-c", "echo one; read x; echo two >&2", env=("PATH=/bin",))
    )
    await desk.launcher.start(session)
    await desk.launcher.wait(session)
    index = desk.output(session).index.read_bytes()
    records = list(struct.iter_unpack("<QIQ", index))
    assert sum(size for _, stream, size in records if stream == 1) == len("one\n")
    assert sum(size for _, stream, size in records if stream == 2) == len("two\n")
    assert [at for at, _, _ in records] == sorted(at for at, _, _ in records)


async def test_much_output_arrives_whole(desk: Desk, root: Path) -> None:
    outcome = await desk.run(boxed(root, "sh", "-c", "seq 1 400000; seq 1 100000 >&2"))
    wanted = "".join(f"{n}\n" for n in range(1, 400001))
    assert hashlib.sha256(outcome.stdout.encode()).digest() == hashlib.sha256(wanted.encode()).digest()
    assert len(outcome.stderr.split()) == 100000


async def test_output_is_appended_to_what_is_there(desk: Desk, root: Path) -> None:
    session = desk.session()
    desk.output(session).stdout.write_text("before\n")
    await desk.fork(boxed(root, "echo", "after"), session=session)
    await desk.launcher.start(session)
    await desk.launcher.wait(session)
    assert desk.stdout(session) == "before\nafter\n"


async def test_a_descendant_that_keeps_the_pipe_does_not_hold_up_the_end(desk: Desk, root: Path) -> None:
    devices = (
        MountFilesystem(fstype="tmpfs", target="/dev", options=("mode=755",)),
        MakeDevice(target="/dev/null", kind="c", major=1, minor=3, mode=0o666),  # read by a shell's &
    )
    outcome = await desk.run(
        boxed(root, "sh", "-c", "sleep 100 & echo $!", steps=devices, namespaces=("mnt",))
    )
    assert outcome.exit.code == 0
    orphan = int(outcome.stdout)
    os.kill(orphan, signal.SIGKILL)
    await gone(orphan)


async def test_stdin_is_read_to_its_end(desk: Desk, root: Path) -> None:
    source, sink = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.write(sink, b"through the pipe")
    os.close(sink)
    try:
        outcome = await desk.run(boxed(root, "cat"), stdin=source)
    finally:
        os.close(source)
    assert outcome.stdout == "through the pipe"
    assert (await desk.run(boxed(root, "cat"))).stdout == ""


async def test_standard_streams_block_and_belong_to_the_user(desk: Desk, root: Path) -> None:
    script = "echo again >/proc/self/fd/1; cat /proc/self/fdinfo/0 /proc/self/fdinfo/1"
    outcome = await desk.run(boxed(root, "sh", "-c", script, user="worker"))
    assert outcome.stdout.startswith("again\n")
    flags = [int(line.split()[1], 8) for line in outcome.stdout.splitlines() if line.startswith("flags")]
    assert all(not flag & os.O_NONBLOCK for flag in flags)


# --- the gate ---------------------------------------------------------------------------------------------


async def test_nothing_runs_before_the_start(desk: Desk, root: Path) -> None:
    session, forked = await desk.fork(boxed(root, "echo", "ran"))
    found = desk.launcher.evidence(session)
    assert found.alive
    assert found.exit is None
    assert found.processes is not None
    assert found.processes.payload == (forked.pid, forked.start_time)
    assert found.processes.supervisor == (forked.supervisor, forked.supervisor_start_time)
    assert desk.stdout(session) == ""
    await desk.launcher.start(session)
    await desk.launcher.wait(session)
    assert desk.stdout(session) == "ran\n"


async def test_a_start_happens_once(desk: Desk, root: Path) -> None:
    session, forked = await desk.fork(boxed(root, "sleep", "100"))
    await desk.launcher.start(session)
    with pytest.raises(WrongState, match="started before"):
        await desk.launcher.start(session)
    await desk.launcher.signal(session, signal.SIGKILL)
    await desk.launcher.wait(session)
    with pytest.raises(WrongState):
        await desk.launcher.start(session)
    with pytest.raises(NotFound):
        await desk.launcher.start(desk.session("never"))
    await gone(forked.supervisor)


async def test_a_held_child_can_be_killed(desk: Desk, root: Path) -> None:
    session, forked = await desk.fork(boxed(root, "echo", "never"))
    assert await desk.launcher.signal(session, signal.SIGKILL)
    ended = await desk.launcher.wait(session)
    assert ended is not None
    assert ended.signal == signal.SIGKILL
    assert desk.stdout(session) == ""
    await gone(forked.supervisor)


async def test_a_session_is_used_once(desk: Desk, root: Path) -> None:
    session, _ = await desk.fork(boxed(root, "true"))
    with pytest.raises(AlreadyExists):
        await desk.fork(boxed(root, "true"), session=session)


async def test_the_gate_holds_when_the_zygote_is_killed(desk: Desk, root: Path) -> None:
    session, _ = await desk.fork(boxed(root, "echo", "later"))
    zygote = desk.zygote
    os.kill(zygote, signal.SIGKILL)
    await gone(zygote)
    async with Launcher.open(runtime=desk.folder) as other:
        await other.start(session)
        ended = await other.wait(session)
    assert ended is not None
    assert ended.code == 0
    assert desk.stdout(session) == "later\n"
    # and a launcher whose zygote was killed starts another one
    assert (await desk.run(boxed(root, "echo", "new"))).stdout == "new\n"


AGENT = """
import asyncio, sys
from pathlib import Path
from mesocosm.launch.launcher import Launcher, OutputPaths
from mesocosm.paths import SessionPaths
from mesocosm.plan import LaunchPlan

async def main(plan, directory, output):
    async with Launcher.open(runtime=directory) as launcher:
        paths = OutputPaths(stdout=output / "stdout", stderr=output / "stderr", index=output / "index")
        await launcher.fork(LaunchPlan.from_json(plan), SessionPaths(directory), output=paths)
        print("created", flush=True)
        await asyncio.sleep(100)

asyncio.run(main(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), Path(sys.argv[3])))
"""


async def test_a_created_container_survives_the_agents_death(desk: Desk, root: Path) -> None:
    """GAP-7: kill -9 of agent and zygote between create and start; another process goes on."""
    session = desk.session()
    output = desk.output(session).stdout.parent
    plan = desk.folder / "plan.json"
    plan.write_bytes(boxed(root, "sh", "-c", "echo survived; exit 7").to_json())
    agent = subprocess.Popen(  # noqa: ASYNC220  (it is waited for by line)
        [sys.executable, "-c", AGENT, str(plan), str(session.directory), str(output)],
        stdout=subprocess.PIPE,
    )
    assert agent.stdout is not None
    with agent.stdout:
        assert agent.stdout.readline() == b"created\n"
        agent.kill()
        agent.wait()
    assert desk.launcher.evidence(session).alive
    await desk.launcher.start(session)
    ended = await desk.launcher.wait(session)
    assert ended is not None
    assert ended.code == 7
    assert desk.stdout(session) == "survived\n"


async def test_a_lost_supervisor_is_told_from_an_ended_payload(desk: Desk, root: Path) -> None:
    session, forked = await desk.fork(boxed(root, "sleep", "100"))
    await desk.launcher.start(session)
    os.kill(forked.supervisor, signal.SIGKILL)
    assert await desk.launcher.wait(session) is None
    found = desk.launcher.evidence(session)
    assert found.lost
    os.kill(forked.pid, signal.SIGKILL)
    await gone(forked.pid)


async def test_a_held_child_ends_with_its_supervisor(desk: Desk, root: Path) -> None:
    session, forked = await desk.fork(boxed(root, "echo", "never"))
    os.kill(forked.supervisor, signal.SIGKILL)
    await gone(forked.pid)
    assert desk.launcher.evidence(session).lost
    assert desk.stdout(session) == ""


async def test_a_cancelled_fork_leaves_nothing(desk: Desk, root: Path) -> None:
    session = desk.session()
    await desk.launcher.warm()
    # A mount of an empty FIFO's directory would do as well; what matters is a cancel while the child works.
    task = asyncio.create_task(desk.fork(boxed(root, "true"), session=session))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(session.directory.iterdir())
    assert not desk.launcher.evidence(session).alive


async def test_a_cancelled_first_fork_leaves_the_zygote_to_the_next(desk: Desk, root: Path) -> None:
    task = asyncio.create_task(desk.fork(boxed(root, "true")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await desk.run(boxed(root, "echo", "on"))).stdout == "on\n"


async def test_who_only_looks_has_no_zygote(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "state", tmp_path / "runtime")
    before = processes.children(os.getpid())  # of fixtures that last
    async with Containerizer.open(root=paths.root, runtime=paths.runtime, warm=False) as containerizer:
        assert containerizer.list() == ()
        assert processes.children(os.getpid()) == before


async def test_many_at_once(desk: Desk, root: Path) -> None:
    outcomes = await asyncio.gather(*(desk.run(boxed(root, "echo", str(n))) for n in range(24)))
    assert [outcome.stdout for outcome in outcomes] == [f"{n}\n" for n in range(24)]


async def test_a_long_session_path(desk: Desk, root: Path) -> None:
    """A socket's path has 108 bytes, a session's directory may have more."""
    session = desk.session("/".join(["d" * 60] * 4))
    plan = boxed(root, "echo", "deep")
    output = desk.output(desk.session("plain"))
    await desk.launcher.fork(plan, session, output=output)
    await desk.launcher.start(session)
    await desk.launcher.wait(session)
    assert output.stdout.read_text() == "deep\n"


# --- inside -----------------------------------------------------------------------------------------------


async def test_the_environment_is_the_plans_own(desk: Desk, root: Path) -> None:
    """R-33: nothing of ours, HOME from the user when it is not given."""
    outcome = await desk.run(boxed(root, "/bin/env", user="worker", env=("A=1", "PATH=/x:/bin")))
    assert outcome.stdout.splitlines() == ["A=1", "PATH=/x:/bin", "HOME=/home/worker"]
    given = await desk.run(boxed(root, "/bin/env", user="worker", env=("HOME=/mine",)))
    assert given.stdout.splitlines() == ["HOME=/mine"]


async def test_the_program_is_found_in_the_payloads_path(desk: Desk, root: Path) -> None:
    found = await desk.run(boxed(root, "echo", "x", env=("PATH=/nowhere:/etc/passwd:/bin",)))
    assert found.stdout == "x\n"
    with pytest.raises(LaunchError) as failed:
        await desk.run(boxed(root, "echo", "x", env=("PATH=/nowhere",)))
    assert failed.value.status == 127


async def test_namespaces_are_those_of_the_plan(desk: Desk, root: Path) -> None:
    kinds = ("ipc", "uts", "net", "pid", "cgroup")
    script = "for n in ipc uts net pid cgroup mnt; do readlink /proc/self/ns/$n; done"
    host = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in (*kinds, "mnt")}
    separate = (await desk.run(boxed(root, "sh", "-c", script))).words
    assert not set(separate) & set(host.values())
    some = (await desk.run(boxed(root, "sh", "-c", script, namespaces=("mnt", "pid", "uts")))).words
    assert some[0] == host["ipc"]
    assert some[1] != host["uts"]
    assert some[2] == host["net"]
    assert some[3] != host["pid"]
    assert some[4] == host["cgroup"]
    plain = await desk.run(boxed(root, "sh", "-c", script, namespaces=("mnt", "ipc")))
    assert plain.words[0] != host["ipc"]
    assert plain.words[3] == host["pid"]


async def test_without_a_mount_namespace_the_host_is_seen(desk: Desk) -> None:
    plan = compose(Execute(arguments=("cat", "/etc/hostname"), environment=()), namespaces=("pid",))
    assert (await desk.run(plan)).stdout == Path("/etc/hostname").read_text()


async def test_steps_that_would_change_the_host_are_refused_without_their_namespace(desk: Desk) -> None:
    before = os.uname().nodename
    run = Execute(arguments=("true",), environment=("PATH=/bin",))
    for step in (SetHostname(name="taken"), MountFilesystem(fstype="tmpfs", target="/mnt")):
        with pytest.raises(LaunchError, match="namespace of its own"):
            await desk.run(compose(step, run, namespaces=("pid",)))
    assert os.uname().nodename == before


# --- exec -------------------------------------------------------------------------------------------------


async def _inside(desk: Desk, plan: LaunchPlan, script: str) -> str:
    """The output of a further process in a container of this plan."""
    session, forked = await desk.fork(plan)
    await desk.launcher.start(session)
    further = plan.entering(pid=forked.pid, start_time=forked.start_time, arguments=("sh", "-c", script))
    outcome = await desk.run(further)
    assert outcome.exit.code == 0, outcome.stderr
    return outcome.stdout


async def test_a_further_process_enters_every_namespace(desk: Desk, root: Path) -> None:
    plan = boxed(root, "sleep", "100", steps=(SetHostname(name="inside"),))
    script = "hostname; tr '\\0' ' ' </proc/1/cmdline; echo; cat /proc/self/status | grep NSpid; ls /payload"
    host, first, pids, *payload = (await _inside(desk, plan, script)).splitlines()
    assert host == "inside"
    assert first == "sleep 100 "
    assert payload
    assert len(pids.split()) == 2  # as this namespace counts, it is in no other below
    for kind in SEPARATE:
        line = f"readlink /proc/self/ns/{kind}; readlink /proc/1/ns/{kind}"
        assert len(set((await _inside(desk, plan, line)).split())) == 1


async def test_a_further_process_has_the_same_identity(desk: Desk, root: Path) -> None:
    """R-17, R-22, R-23: the steps of identity are the plan's own."""
    plan = boxed(root, "sleep", "100", user="worker:audio")
    assert (await _inside(desk, plan, "id -u; id -g; id -G")).split() == ["1000", "63", "63"]


async def test_a_further_process_of_one_that_has_ended_is_refused(desk: Desk, root: Path) -> None:
    plan = boxed(root, "true")
    session, forked = await desk.fork(plan)
    await desk.launcher.start(session)
    await desk.launcher.wait(session)
    further = plan.entering(pid=forked.pid, start_time=forked.start_time, arguments=("true",))
    with pytest.raises(LaunchError, match="has ended"):
        await desk.fork(further)
    with pytest.raises(LaunchError, match="has ended"):
        await desk.fork(plan.entering(pid=os.getpid(), start_time=1, arguments=("true",)))


async def test_exit_codes_of_a_further_process(desk: Desk, root: Path) -> None:
    plan = boxed(root, "sleep", "100")
    session, forked = await desk.fork(plan)
    await desk.launcher.start(session)

    def further(*arguments: str) -> LaunchPlan:
        return plan.entering(pid=forked.pid, start_time=forked.start_time, arguments=arguments)

    for script, code, number in (("exit 9", 9, None), ("kill -TERM $$; sleep 9", None, 15)):
        outcome = await desk.run(further("sh", "-c", script))
        assert (outcome.exit.code, outcome.exit.signal) == (code, number)
    with pytest.raises(LaunchError) as failed:
        await desk.run(further("nope"))
    assert failed.value.status == 127


# --- init -------------------------------------------------------------------------------------------------


async def test_an_init_reaps_and_passes_the_exit_code_on(desk: Desk, root: Path) -> None:
    script = "(sleep 0.01 &) ; sleep 0.2; grep -l zombie /proc/[0-9]*/status; cat /proc/1/comm; exit 5"
    outcome = await desk.run(boxed(root, "sh", "-c", script, init=True))
    assert outcome.stdout == "init\n"
    assert outcome.exit.code == 5


async def test_an_init_forwards_signals(desk: Desk, root: Path) -> None:
    script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    session, _ = await desk.fork(boxed(root, "sh", "-c", script, init=True))
    await desk.launcher.start(session)
    await appears(desk.output(session).stdout, "ready")
    await desk.launcher.signal(session, signal.SIGTERM)
    ended = await desk.launcher.wait(session)
    assert ended is not None
    assert ended.code == 3
    assert desk.stdout(session) == "ready\nasked\n"


async def test_an_init_reports_a_payload_that_cannot_be_executed(desk: Desk, root: Path) -> None:
    session, forked = await desk.fork(boxed(root, "/nope", init=True))
    with pytest.raises(LaunchError) as failed:
        await desk.launcher.start(session)
    assert failed.value.status == 127
    await desk.launcher.wait(session)
    found = desk.launcher.evidence(session)
    assert found.failure is not None
    assert found.failure.status == 127
    await gone(forked.supervisor)


# --- failures ---------------------------------------------------------------------------------------------


def _failing() -> list[tuple[str, tuple[Step, ...], str]]:
    return [
        ("show host path /nope", (BindMount(source="/nope", target="/x"),), "no such file"),
        ("mount nonsense on /x", (MountFilesystem(fstype="nonsense", target="/x"),), "no such device"),
        ("mount tmpfs on /x", (MountFilesystem(fstype="tmpfs", target="/x", options=("bad=1",)),), "bad"),
        ("mount tmpfs on /bin/sh", (MountFilesystem(fstype="tmpfs", target="/bin/sh"),), "not a directory"),
        ("look up user nobody-here", (LookUpUser(user="nobody-here"), SetUser()), "has no user nobody-here"),
        ("look up user 0:nogroup", (LookUpUser(user="0:nogroup"), SetUser()), "has no group nogroup"),
        ("work in /bin/sh", (ChangeDirectory(target="/bin/sh"),), "not a directory"),
        ("limit nofile", (SetRlimit(name="nofile", soft=10, hard=5),), "invalid argument"),
    ]


@pytest.mark.parametrize(("step", "steps", "reason"), _failing(), ids=[case[0] for case in _failing()])
async def test_a_failing_step_is_named_and_leaves_nothing(
    desk: Desk, root: Path, step: str, steps: tuple[Step, ...], reason: str
) -> None:
    """GAP-44: what, where and why; supervisor and files are gone when the error arrives."""
    session = desk.session()
    with pytest.raises(LaunchError) as failed:
        await desk.fork(boxed(root, "true", steps=steps), session=session)
    error = failed.value
    assert error.step.startswith(step)
    assert reason in str(error).lower()
    assert error.status == 125
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)
    assert not any(session.directory.iterdir())
    assert not desk.launcher.evidence(session).alive
    assert desk.launcher.process(session) is None


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("/nope", 127, "no such file"),
        ("nope", 127, "no such file"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "permission denied"),
        ("/bin/sh/x", 127, "no such file"),
        ("/payload/text", 126, "exec format error"),
        ("/payload/script", 127, "interpret"),
    ],
)
async def test_what_cannot_be_executed_is_a_launch_error(
    desk: Desk, root: Path, tmp_path: Path, program: str, status: int, reason: str
) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "text").write_text("just text\n")
    (folder / "script").write_text("#!/no/such/interpreter\n")
    for file in folder.iterdir():
        file.chmod(0o755)
    plan = boxed(root, program, steps=(BindMount(source=str(folder), target="/payload"),))
    session, forked = await desk.fork(plan)
    with pytest.raises(LaunchError) as failed:
        await desk.launcher.start(session)
    assert failed.value.status == status
    assert reason in str(failed.value).lower()
    ended = await desk.launcher.wait(session)
    assert ended is not None
    assert ended.code == status
    found = desk.launcher.evidence(session)
    assert found.failure is not None
    await gone(forked.supervisor)


async def test_a_refused_rlimit_is_clamped_with_a_warning(desk: Desk, root: Path) -> None:
    """GAP-47: without CAP_SYS_RESOURCE a limit cannot be raised; that is a warning, not a failure."""
    script = "ulimit -n; ulimit -H -n"
    above = (SetRlimit(name="nofile", soft=1 << 40, hard=1 << 40),)
    outcome = await desk.run(boxed(root, "sh", "-c", script, steps=above))
    assert len(outcome.forked.warnings) == 1
    assert "nofile" in outcome.forked.warnings[0]
    assert all(int(word) < 1 << 40 for word in outcome.words)
    fine = await desk.run(
        boxed(root, "sh", "-c", script, steps=(SetRlimit(name="nofile", soft=64, hard=128),))
    )
    assert fine.forked.warnings == ()
    assert fine.words == ["64", "128"]
