"""A memory hog, a fork bomb and a cpu burner: each stopped or held at its limit, and told of in words."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.commandline import CommandLine


def stats(mesocosm: CommandLine, container: str) -> dict[str, float]:
    """What it uses."""
    (found,) = json.loads(mesocosm("stats", "--no-stream", "--format", "json", container).accepted())
    usage: dict[str, float] = found["usage"]
    return usage


# --- memory ---


def test_a_memory_hog_is_stopped_and_told_of(mesocosm: CommandLine, busybox_root: Path) -> None:
    """Requested, peak and the largest process, on one line; 137 as after any SIGKILL."""
    done = mesocosm.run(busybox_root, "/payload/eat-memory.sh", "200", options=("-m", "32m"))
    assert done.status == 137
    assert "ate" not in done.out
    (line,) = done.err.splitlines()
    told = re.fullmatch(
        r"mesocosm: memory: the limit of 32 MiB was reached \(most used: ([0-9.]+) MiB\); "
        r"the kernel killed (1 process|[0-9]+ processes); "
        r"the largest was dd \(process [0-9]+, ([0-9.]+) MiB\)",
        line,
    )
    assert told, line
    assert 30 < float(told[1]) <= 32
    benign = mesocosm.run(busybox_root, "/payload/eat-memory.sh", "8", options=("-m", "32m"))
    assert benign.accepted() == "ate 8 MiB\n"
    assert benign.err == ""


def test_a_hog_that_ran_unwatched_is_told_of_afterwards(mesocosm: CommandLine, busybox_root: Path) -> None:
    """``ps`` and ``inspect`` know why it ended; nobody was there when it did."""
    container = mesocosm.start(busybox_root, "/payload/eat-memory.sh", "200", options=("-m", "32m"))
    assert mesocosm("wait", container).accepted() == "137\n"
    assert "the limit of 32 MiB was reached" in mesocosm("ps", "-a", "--no-trunc").accepted()
    (report,) = json.loads(mesocosm("inspect", container).accepted())
    termination = report["termination"]
    assert termination["reason"] == "limited"
    assert "the limit of 32 MiB was reached" in termination["message"]


def test_a_hog_beside_a_well_behaved_process(mesocosm: CommandLine, busybox_root: Path) -> None:
    """All of a container ends when one of its processes reached the limit, even a child of another."""
    script = "/payload/eat-memory.sh 200 & sleep 1000"
    done = mesocosm.shell(busybox_root, script, "-m", "32m")
    assert done.status == 137
    assert "the limit of 32 MiB was reached" in done.err


# --- processes ---


def test_a_fork_bomb_is_held_and_told_of(mesocosm: CommandLine, busybox_root: Path) -> None:
    """It gets as many processes as it may have and no more; the report says so."""
    # The first process waits for the first refusal: were it to end sooner, all would, and none might come.
    script = (
        "bomb() { bomb | bomb & }; mkfifo /dev/shm/words; exec 3<>/dev/shm/words;"
        'bomb 2>&3; read -r words <&3; echo "$words" >&2; exit 3'
    )
    options = ("--pids-limit", "16", "--report")
    done = mesocosm.run(busybox_root, "sh", "-c", script, options=options)
    assert done.status == 3
    assert "can't fork: Resource temporarily unavailable" in done.err
    assert re.search(r"cgroups/pids +process limit: 16", done.err)
    refused = re.search(r"processes +peak 16 of 16, a new one refused ([0-9]+) times?", done.err)
    assert refused, done.err
    assert int(refused[1]) > 0
    benign = mesocosm.run(busybox_root, "sh", "-c", "true | true | true", options=options)
    assert benign.status == 0
    assert "refused" not in benign.err


# --- processor ---


@pytest.fixture
def burner(mesocosm: CommandLine, busybox_root: Path) -> Iterator[str]:
    """A container that burns a processor, held at a tenth of one."""
    container = mesocosm.start(busybox_root, "/payload/burn-cpu.sh", options=("--cpus", "0.1"))
    yield container
    mesocosm("rm", "-f", container).accepted()


def spent(mesocosm: CommandLine, container: str, periods: int) -> tuple[float, float]:
    """Processor seconds, and seconds of the limit's periods (0.1 each), over at least so many of them.

    The kernel's own clock: how long the measuring takes does not matter.
    """
    first = last = stats(mesocosm, container)
    while last["cpu_periods"] - first["cpu_periods"] < periods:
        last = stats(mesocosm, container)
    return last["cpu_seconds"] - first["cpu_seconds"], (last["cpu_periods"] - first["cpu_periods"]) / 10


def test_a_cpu_burner_is_held(mesocosm: CommandLine, burner: str) -> None:
    used, over = spent(mesocosm, burner, 10)
    assert used / over < 0.2
    usage = stats(mesocosm, burner)
    assert usage["cpu_limit"] == 0.1
    assert usage["cpu_throttled_periods"] > 5
    assert usage["cpu_throttled_seconds"] > 0


def test_a_cpu_burner_is_told_of(mesocosm: CommandLine, busybox_root: Path) -> None:
    script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    done = mesocosm.run(busybox_root, "sh", "-c", script, options=("--cpus", "0.1", "--report"))
    assert done.status == 0
    assert re.search(r"cgroups/cpu +cpu: 0\.1 processors", done.err)
    pattern = (
        r"processor +.* \([0-9]+ % of a processor\), limit 0\.1 processors, "
        r"held back in ([0-9]+) of [0-9]+ periods for "
    )
    held = re.search(pattern, done.err)
    assert held, done.err
    assert int(held[1]) > 0


# --- live update ---


def test_memory_grows_and_shrinks_while_it_runs(mesocosm: CommandLine, busybox_root: Path) -> None:
    container = mesocosm.start(busybox_root, "sleep", "1000", options=("-m", "16m"))
    eat = ("/payload/eat-memory.sh", "40")
    mesocosm("update", "-m", "64m", container).accepted()
    assert stats(mesocosm, container)["memory_limit"] == 64 << 20
    assert mesocosm.exec(container, *eat).accepted() == "ate 40 MiB\n"
    mesocosm("update", "-m", "16m", container).accepted()
    assert stats(mesocosm, container)["memory_limit"] == 16 << 20
    assert "ate" not in mesocosm.exec(container, *eat).out
    assert mesocosm("wait", container).accepted() == "137\n"
    assert "the limit of 16 MiB was reached" in mesocosm("ps", "-a", "--no-trunc").accepted()


def test_processes_grow_and_shrink_while_it_runs(mesocosm: CommandLine, debian_root: Path) -> None:
    container = mesocosm.start(debian_root, "sleep", "1000", options=("--pids-limit", "8"))

    def forked() -> int:
        done = mesocosm.exec(container, "python3", "/payload/fork_bomb.py", "20")
        return int(json.loads(done.accepted())["forked"])

    assert forked() == 6
    mesocosm("update", "--pids-limit", "40", container).accepted()
    assert forked() == 20
    mesocosm("update", "--pids-limit", "8", container).accepted()
    assert forked() == 6
    usage = stats(mesocosm, container)
    assert (usage["pids_limit"], usage["pids_peak"] >= 22, usage["pids_refused"] >= 2) == (8, True, True)


def test_no_further_process_enters_a_full_container(mesocosm: CommandLine, busybox_root: Path) -> None:
    container = mesocosm.start(busybox_root, "sleep", "1000", options=("--pids-limit", "1"))
    refused = mesocosm.exec(container, "true")
    assert refused.status == 125
    assert "the limit of processes is reached" in refused.refused("--pids-limit")
    mesocosm("update", "--pids-limit", "4", container).accepted()
    assert mesocosm.exec(container, "true").status == 0


def test_the_processor_limit_grows_and_shrinks_while_it_runs(mesocosm: CommandLine, burner: str) -> None:
    mesocosm("update", "--cpus", "0.5", burner).accepted()
    assert stats(mesocosm, burner)["cpu_limit"] == 0.5
    mesocosm("update", "--cpus", "0.05", burner).accepted()
    used, over = spent(mesocosm, burner, 10)
    assert used / over < 0.12
    mesocosm("update", "--cpus", "-1", burner).accepted()
    assert stats(mesocosm, burner)["cpu_limit"] is None


def test_an_update_below_what_is_in_use_is_refused_and_changes_nothing(
    mesocosm: CommandLine, busybox_root: Path
) -> None:
    """Locked pages cannot be given up; either the kernel refuses, or it must end the container in words."""
    script = "dd if=/dev/zero of=/dev/shm/full bs=1M count=24 2>/dev/null; echo full; exec sleep 1000"
    container = mesocosm.start(busybox_root, "sh", "-c", script, options=("-m", "64m"))
    follow = subprocess.Popen(
        mesocosm.words("logs", "-f", container), stdout=subprocess.PIPE, text=True, env=mesocosm.environment
    )
    with follow:
        assert follow.stdout is not None
        assert follow.stdout.readline() == "full\n"
        follow.kill()
    done = mesocosm("update", "-m", "8m", container)
    if done.status == 0:
        assert mesocosm("wait", container).accepted() == "137\n"
        assert "the limit of 8 MiB was reached" in mesocosm("ps", "-a", "--no-trunc").accepted()
    else:
        done.refused("memory limit cannot become 8 MiB: more is in use")
        assert stats(mesocosm, container)["memory_limit"] == 64 << 20
