"""Signals to the command: at each moment of a run, once and twice, from a terminal and from a script."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attacks.commandline import CommandLine

SCRIPT = Path(__file__).with_name("interrupted_command.py")

TRAPS = """
trap 'echo caught' INT
trap 'echo bye; exit 42' TERM
echo up
while :; do sleep 1000 & wait $!; done
"""


@contextmanager
def running(
    mesocosm: CommandLine, root: Path, script: str, *options: str, ignoring: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A container in the foreground that has said ``up``."""
    words = mesocosm.words("run", *options, f"dir:{root}", "sh", "-c", script)
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if ignoring is None else lambda: signal.signal(ignoring, signal.SIG_IGN),
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n", process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_a_signal_goes_to_the_payload_and_its_answer_is_ours(
    mesocosm: CommandLine, busybox_root: Path
) -> None:
    with running(mesocosm, busybox_root, TRAPS, "--rm") as process:
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == "bye\n"
        assert process.wait(60) == 42
    assert mesocosm("ps", "-aq").accepted() == ""


def test_a_second_interrupt_ends_it_by_force(mesocosm: CommandLine, busybox_root: Path) -> None:
    with running(mesocosm, busybox_root, TRAPS, "--rm") as process:
        process.send_signal(signal.SIGINT)
        assert next_line(process) == "caught\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 137
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert mesocosm("ps", "-aq").accepted() == ""


def test_a_hang_up_leaves_the_container_running(
    mesocosm: CommandLine, busybox_root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cid"
    with running(mesocosm, busybox_root, TRAPS, "--cidfile", str(file)) as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129
    assert mesocosm("ps", "-q").accepted().strip() == file.read_text()
    assert mesocosm("stop", file.read_text()).accepted()
    assert mesocosm("wait", file.read_text()).accepted() == "42\n"


def test_a_hang_up_that_was_to_be_ignored_is(mesocosm: CommandLine, busybox_root: Path) -> None:
    """As under nohup."""
    with running(mesocosm, busybox_root, TRAPS, "--rm", ignoring=signal.SIGHUP) as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == "bye\n"
        assert process.wait(60) == 42


def test_an_interrupt_that_was_to_be_ignored_is(mesocosm: CommandLine, busybox_root: Path) -> None:
    """As for a command that a script put into the background."""
    with running(mesocosm, busybox_root, TRAPS, "--rm", ignoring=signal.SIGINT) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == "bye\n"
        assert process.wait(60) == 42


def test_waiting_is_interrupted_and_the_container_is_not(mesocosm: CommandLine, busybox_root: Path) -> None:
    container = mesocosm.start(busybox_root, "sh", "-c", "echo up; sleep 1000")
    words = mesocosm.words("logs", "-f", container)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert next_line(process) == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert mesocosm("ps", "-q").accepted().strip() == container


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "every"), [("SIGINT", 1), ("SIGTERM", 7)])
def test_a_signal_at_any_moment_leaves_nothing(
    mesocosm: CommandLine, busybox_root: Path, tmp_path: Path, name: str, every: int
) -> None:
    """At each named point of a run: the signal's status, or the payload's once that has begun."""
    number = getattr(signal, name)
    words = ["run", "--rm", "-q", "--name", "one", "--cidfile", str(tmp_path / "cid"), "-m", "64m"]
    words = mesocosm.words(*words, f"dir:{busybox_root}", "echo", "hi")[1:]
    points = tmp_path / "points"
    subprocess.run([sys.executable, SCRIPT, "--list", points, *words], check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "cid").unlink()
    passed = list(dict.fromkeys(points.read_text().splitlines()))
    assert "containerizer.created" in passed
    begun = passed.index("containerizer.started")
    for place, point in list(enumerate(passed))[::every]:
        done = subprocess.run(
            [sys.executable, SCRIPT, name, point, *words], capture_output=True, text=True, timeout=60
        )
        expected = {128 + number} if place < begun else {0, 128 + number, 137}
        if point in ("launch.starting", "launch.started"):
            expected.add(0)  # the gate is open: it may be the payload that gets the signal
        assert done.returncode in expected, (point, done)
        assert done.stderr == "", point
        assert mesocosm("ps", "-aq").accepted() == "", point
        assert list((mesocosm.root / "names").glob("[!.]*")) == [], point
        if done.returncode == 128 + number and place < begun:
            assert not (tmp_path / "cid").exists(), point
        (tmp_path / "cid").unlink(missing_ok=True)


def test_on_a_terminal_the_payload_has_none(mesocosm: CommandLine, busybox_root: Path) -> None:
    """R-26: standard input is the terminal, and the payload gets a pipe that cannot be written back to."""
    controller, terminal = pty.openpty()
    try:
        words = mesocosm.words("run", "--rm", "-i", f"dir:{busybox_root}", "sh", "-c", "tty; read x; echo $x")
        with subprocess.Popen(
            words, stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, text=True
        ) as process:
            assert next_line(process) == "not a tty\n"
            os.write(controller, b"typed\n")
            assert next_line(process) == "typed\n"
            assert process.wait(60) == 0
    finally:
        os.close(terminal)
        os.close(controller)
