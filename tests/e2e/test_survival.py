"""Containers outlive whoever started them; whoever comes next knows what became of them, and cleans up."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attacks.commandline import Answer, CommandLine
from e2e.leftovers import assert_nothing_left

SAYS = "echo ready; exec sleep 1000"
Running = subprocess.Popen[str]


@contextmanager
def running(mesocosm: CommandLine, *words: str, **options: object) -> Iterator[Running]:
    """A command in the background, ended by force afterwards."""
    process: Running = subprocess.Popen(  # type: ignore[call-overload]
        mesocosm.words(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=mesocosm.environment,
        **options,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: Running) -> str:
    """The next line of its output; an end without one fails, with what it said."""
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line


def states(mesocosm: CommandLine) -> dict[str, str]:
    """Names and states of all containers."""
    listed = json.loads(mesocosm("ps", "-a", "--format", "json").accepted())
    return {one["name"] or one["id"]: one["state"] for one in listed}


def processes_of(mesocosm: CommandLine, name: str) -> dict[str, int]:
    """The pids of a container's first process and of its supervisor."""
    (report,) = json.loads(mesocosm("inspect", name).accepted())
    return {part: report[part]["pid"] for part in ("process", "supervisor")}


def test_it_outlives_kill_9_of_its_command(mesocosm: CommandLine, busybox_root: Path) -> None:
    with running(mesocosm, "run", "-q", "--name", "on", f"dir:{busybox_root}", "sh", "-c", SAYS) as command:
        assert line_of(command) == "ready\n"
        command.kill()
        command.wait()
    assert states(mesocosm) == {"on": "running"}
    assert mesocosm("exec", "on", "echo", "inside").accepted() == "inside\n"
    mesocosm("stop", "-t", "0", "on").accepted()
    assert mesocosm("logs", "on").accepted() == "ready\n"


def test_it_outlives_its_terminal(mesocosm: CommandLine, busybox_root: Path) -> None:
    """The terminal closes: SIGHUP to the session's foreground group, and nobody reads the output any more."""
    script = "echo ready; read line; while :; do echo more; sleep 1000 & wait; done"
    words = mesocosm.words("run", "-q", "--name", "on", f"dir:{busybox_root}", "sh", "-c", script)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(words[0], words, mesocosm.environment)
    try:
        assert b"ready" in os.read(terminal, 1024)
    finally:
        os.close(terminal)
    os.waitpid(pid, 0)
    assert states(mesocosm) == {"on": "running"}
    mesocosm("rm", "-f", "on").accepted()


def test_detached_it_is_nobody_s_child(mesocosm: CommandLine, busybox_root: Path) -> None:
    """Another session and another process group; no descriptor of the terminal is held open."""
    container = mesocosm.start(busybox_root, "sh", "-c", SAYS)
    for pid in processes_of(mesocosm, container).values():
        assert os.getsid(pid) != os.getsid(0)
        links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert not {link for link in links if link.startswith(("/dev/pts", "/dev/tty"))}
    mesocosm("rm", "-f", container).accepted()


def test_two_follow_and_three_wait(mesocosm: CommandLine, busybox_root: Path) -> None:
    """Each reader sees everything; each waiter gets the status."""
    script = "trap 'echo last; exit 7' TERM; echo first; while :; do sleep 1000 & wait; done"
    container = mesocosm.start(busybox_root, "sh", "-c", script, options=("--name", "on"))
    with (
        running(mesocosm, "logs", "-f", container) as one,
        running(mesocosm, "logs", "-f", container) as two,
        running(mesocosm, "wait", container) as three,
        running(mesocosm, "wait", "on") as four,
        running(mesocosm, "wait", container[:8]) as five,
    ):
        assert line_of(one) == line_of(two) == "first\n"
        mesocosm("kill", "-s", "TERM", container).accepted()
        for reader in (one, two):
            assert line_of(reader) == "last\n"
            assert reader.wait(30) == 0
        for waiter in (three, four, five):
            assert line_of(waiter) == "7\n"
            assert waiter.wait(30) == 0
    assert mesocosm("wait", container).accepted() == "7\n"


def at_once(calls: list[Callable[[], Answer]]) -> list[Answer]:
    """All of them at the same time."""
    answers: list[Answer | None] = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def act(index: int) -> None:
        ready.wait()
        answers[index] = calls[index]()

    threads = [threading.Thread(target=act, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answer for answer in answers if answer is not None]


def test_eight_commands_at_once(mesocosm: CommandLine, busybox_root: Path) -> None:
    """Start, stop and remove: neither in each other's way nor on the same containers is anything lost."""
    names = [f"c{number}" for number in range(8)]
    image = f"dir:{busybox_root}"

    def run(name: str) -> Callable[[], Answer]:
        return lambda: mesocosm("run", "-d", "-q", "--name", name, "-m", "32m", image, "sleep", "1000")

    def do(*words: str) -> Callable[[], Answer]:
        return lambda: mesocosm(*words)

    for answer in at_once([run(name) for name in names]):
        answer.accepted()
    assert states(mesocosm) == dict.fromkeys(names, "running")
    for answer in at_once([do("stop", "-t", "0", name) for name in names]):
        answer.accepted()
    assert set(states(mesocosm).values()) == {"destroyed"}
    for answer in at_once([do("rm", name) for name in names]):
        answer.accepted()
    assert states(mesocosm) == {}
    assert_nothing_left(mesocosm)


def test_eight_commands_at_once_on_the_same_container(mesocosm: CommandLine, busybox_root: Path) -> None:
    """One name is given once; ended and removed by several at once, it ends and is removed."""
    image = f"dir:{busybox_root}"
    words = ("run", "-d", "-q", "--name", "one", image, "sleep", "1000")
    answers = at_once([lambda: mesocosm(*words)] * 8)
    assert sorted(answer.status for answer in answers) == [0] + [125] * 7
    for answer in answers:
        if answer.status:
            answer.refused("one")
    assert states(mesocosm) == {"one": "running"}
    for answer in at_once([lambda: mesocosm("stop", "-t", "0", "one")] * 4):
        assert answer.status == 0 or answer.refused()
    removed = at_once([lambda: mesocosm("rm", "-f", "one")] * 4)
    assert 0 in [answer.status for answer in removed]
    for answer in removed:
        assert answer.status == 0 or answer.refused("no container 'one'")
    assert states(mesocosm) == {}
    assert_nothing_left(mesocosm)


@pytest.mark.parametrize("verb", ["ps", "wait"])
def test_a_supervisor_that_is_killed_is_told_of_and_its_container_is_cleaned_up(
    mesocosm: CommandLine, busybox_root: Path, verb: str
) -> None:
    """Nobody knows any more how the payload ends: it is ended, and reported as lost."""
    container = mesocosm.start(busybox_root, "sh", "-c", "sleep 1000 & sleep 1000", options=("-m", "32m"))
    pids = processes_of(mesocosm, container)
    payload = os.pidfd_open(pids["process"])
    try:
        os.kill(pids["supervisor"], signal.SIGKILL)
        mesocosm(*(("wait", container) if verb == "wait" else ("ps", "-a"))).accepted()
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(payload, 0)
    finally:
        os.close(payload)
    (report,) = json.loads(mesocosm("inspect", container).accepted())
    assert (report["state"], report["termination"]["reason"]) == ("destroyed", "lost")
    assert "supervisor" in report["termination"]["message"]
    assert "lost" in mesocosm("ps", "-a", "--no-trunc").accepted()
    mesocosm("rm", container).accepted()
    assert_nothing_left(mesocosm)


def test_a_command_in_the_foreground_tells_that_its_supervisor_is_lost(
    mesocosm: CommandLine, busybox_root: Path
) -> None:
    words = ("run", "-q", "--rm", "--name", "on", f"dir:{busybox_root}", "sh", "-c", SAYS)
    with running(mesocosm, *words) as command:
        assert line_of(command) == "ready\n"
        os.kill(processes_of(mesocosm, "on")["supervisor"], signal.SIGKILL)
        assert command.wait(30) not in (0, None)
        assert command.stderr is not None
        assert "supervisor" in command.stderr.read()
    assert states(mesocosm) == {}


def test_nothing_of_a_container_is_left_in_the_kernel(mesocosm: CommandLine, busybox_root: Path) -> None:
    """No process, and none of the namespaces that it had."""

    def namespaces() -> set[str]:
        found = set()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
                try:
                    found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
                except OSError:
                    continue
        return found

    container = mesocosm.start(busybox_root, "sh", "-c", "(sleep 1000 &) ; sleep 1000")
    pid = processes_of(mesocosm, container)["process"]
    own = {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup")}
    assert (
        len(own - {os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "net", "ipc", "uts")}) >= 5
    )
    assert own <= namespaces()
    mesocosm("rm", "-f", container).accepted()
    kept = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "net", "ipc", "uts", "cgroup")}
    assert not (own - kept) & namespaces()
    assert_nothing_left(mesocosm)
