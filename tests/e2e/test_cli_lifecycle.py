"""Every verb of a container's life, as a user goes through it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from attacks.commandline import CommandLine

WAITS = ("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 1000 & wait $!; done")


@pytest.fixture
def container(mesocosm: CommandLine, busybox_root: Path) -> str:
    """One that runs, called ``one``, whose payload ends with 9 when it is asked to."""
    mesocosm.start(busybox_root, *WAITS, options=("--name", "one", "-m", "64m", "--label", "team=a"))
    return "one"


def test_create_start_wait(mesocosm: CommandLine, busybox_root: Path) -> None:
    made = mesocosm("create", "--name", "held", f"dir:{busybox_root}", "sh", "-c", "echo ran; exit 5")
    identity = made.accepted().strip()
    assert "created, not started" in mesocosm("ps").accepted()
    assert mesocosm("logs", "held").accepted() == ""
    assert mesocosm("start", "held").accepted() == "held\n"
    assert mesocosm("wait", identity[:6]).accepted() == "5\n"
    assert mesocosm("logs", "held").accepted() == "ran\n"
    mesocosm("start", "held").refused("has ended, it cannot be started")


def test_ps_shows_what_runs_and_with_all_what_ended(mesocosm: CommandLine, container: str) -> None:
    listed = mesocosm("ps", "--filter", "label=team=a", "--filter", "status=running").accepted()
    assert re.search(r"sh -c .*running .*one", listed)
    assert mesocosm("ps", "-q", "--filter", "name=two").accepted() == ""
    mesocosm("stop", container).accepted()
    assert mesocosm("ps", "-q").accepted() == ""
    assert "exited (9)" in mesocosm("ps", "--all").accepted()
    (report,) = json.loads(mesocosm("ps", "-a", "--format", "json").accepted())
    assert report["termination"]["exit"]["code"] == 9


def test_what_ended_unwatched_is_seen_by_the_next_command(mesocosm: CommandLine, busybox_root: Path) -> None:
    """GAP-45: nobody was there when it ended, and its status is not lost."""
    mesocosm.start(busybox_root, "sh", "-c", "exit 6", options=("--name", "quick"))
    assert mesocosm("wait", "quick").accepted() == "6\n"
    assert mesocosm("ps", "-q").accepted() == ""
    assert "exited (6)" in mesocosm("ps", "-a").accepted()


def test_exec_joins_it(mesocosm: CommandLine, container: str) -> None:
    shown = mesocosm(
        "exec", "-e", "A=1", "-w", "/tmp", "-u", "1000", container, "sh", "-c", "echo $A; pwd; id -u"
    )
    assert shown.accepted() == "1\n/tmp\n1000\n"
    done = mesocosm("exec", container, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert done == (7, "out\n", "err\n")
    hostnames = {mesocosm("exec", container, "hostname").accepted() for _ in range(2)}
    assert len(hostnames) == 1
    assert mesocosm("exec", container, "nope").status == 127
    mesocosm("exec", container, "nope").refused("nope")
    words = mesocosm.words("exec", "-i", container, "cat")
    assert subprocess.run(words, input="in", capture_output=True, text=True, check=True).stdout == "in"


def test_exec_needs_a_running_container(mesocosm: CommandLine, container: str) -> None:
    mesocosm("stop", container).accepted()
    done = mesocosm("exec", container, "true")
    done.refused("must be running")
    assert done.status == 125
    mesocosm("exec", "nobody", "true").refused("no container 'nobody' .*ps -a")


def test_logs(mesocosm: CommandLine, busybox_root: Path) -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2; printf end"
    mesocosm("run", "--name", "said", f"dir:{busybox_root}", "sh", "-c", script)
    done = mesocosm("logs", "said")
    assert done.out == "line 1\nline 2\nline 3\nline 4\nline 5\nend"
    assert done.err == "oops\n"
    assert mesocosm("logs", "-f", "said").out == done.out
    stamped = mesocosm("logs", "-t", "said").out.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z (line|end)", line) for line in stamped)
    assert mesocosm("logs", "--since", "1h", "said").out == done.out
    assert mesocosm("logs", "--since", "2999-01-01T00:00:00", "said").out == ""
    mesocosm("logs", "--tail", "many", "said").refused("--tail: 'many'")
    mesocosm("logs", "--since", "yesterday", "said").refused("--since: 'yesterday'")


def test_logs_follow_to_the_end(mesocosm: CommandLine, container: str) -> None:
    words = mesocosm.words("logs", "-f", container)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        mesocosm("stop", container).accepted()
        assert process.stdout.read() == ""
        assert process.wait(60) == 0


def test_inspect_tells_everything_and_the_plan(mesocosm: CommandLine, container: str) -> None:
    (told,) = json.loads(mesocosm("inspect", "--plan", container).accepted())
    assert told["name"] == "one"
    assert told["resources"]["memory"] == 64 << 20
    assert told["plan"]["container"] == told["id"]
    assert "cgroups/mem" in told["isolation"]
    both = json.loads(mesocosm("inspect", container, told["id"]).accepted())
    assert [one["id"] for one in both] == [told["id"]] * 2
    mesocosm("inspect", "nobody").refused("no container 'nobody'")


def test_stats_and_update(mesocosm: CommandLine, container: str) -> None:
    (before,) = json.loads(mesocosm("stats", "--no-stream", "--format", "json").accepted())
    assert before["usage"]["memory_limit"] == 64 << 20
    assert before["usage"]["pids"] >= 1
    assert mesocosm("update", "-m", "48m", "--pids-limit", "17", container).accepted() == "one\n"
    shown = mesocosm("stats", "--no-stream", container).accepted()
    assert "48 MiB" in shown
    assert "of 17" in shown
    (told,) = json.loads(mesocosm("inspect", container).accepted())
    assert told["resources"]["memory"] == 48 << 20
    assert told["config"]["resources"]["memory"] == 64 << 20
    mesocosm("update", container).refused("nothing to change")
    mesocosm("update", "-m", "12q", container).refused("--memory: '12q'")


def test_an_update_that_no_isolator_would_honour(mesocosm: CommandLine, busybox_root: Path) -> None:
    mesocosm.start(busybox_root, *WAITS, options=("--name", "bare", "--isolation", "namespaces/pid"))
    mesocosm("update", "-m", "64m", "bare").refused("isolator cgroups/mem is not chosen")


def test_kill_and_stop(mesocosm: CommandLine, container: str) -> None:
    mesocosm("kill", "-s", "NOPE", container).refused("'NOPE' is not a signal")
    assert mesocosm("kill", "-s", "SIGTERM", container).accepted() == "one\n"
    assert mesocosm("wait", container).accepted() == "9\n"
    mesocosm("kill", container).refused("must be running")
    assert mesocosm("stop", container).accepted() == "one\n"


def test_stop_by_force_when_it_does_not_listen(mesocosm: CommandLine, busybox_root: Path) -> None:
    mesocosm.start(busybox_root, "sh", "-c", "trap '' TERM; sleep 1000", options=("--name", "deaf"))
    mesocosm("stop", "-t", "0.2", "deaf").accepted()
    assert mesocosm("wait", "deaf").accepted() == "137\n"


def test_several_at_once_the_good_are_done_and_the_bad_told(
    mesocosm: CommandLine, busybox_root: Path, container: str
) -> None:
    mesocosm.start(busybox_root, *WAITS, options=("--name", "two"))
    done = mesocosm("stop", container, "nobody", "two")
    assert done.status == 1
    assert done.out == "one\ntwo\n"
    assert done.err == "mesocosm: no container 'nobody' (mesocosm ps -a lists them)\n"


def test_rm(mesocosm: CommandLine, container: str) -> None:
    mesocosm("rm", container).refused("is running .*stop it")
    mesocosm("rm").refused("which container")
    assert mesocosm("rm", "-f", container).accepted() == "one\n"
    mesocosm("inspect", container).refused("no container")
    assert mesocosm("rm", "--all").accepted() == ""


def test_without_arguments_there_is_help(mesocosm: CommandLine) -> None:
    shown = mesocosm().accepted()
    assert shown == mesocosm("--help").accepted()
    for words in ("run ", "doctor ", "_MESOCOSM_COMPLETE=bash_source", "mesocosm run host echo hello"):
        assert words in shown
    assert "--memory" in mesocosm("run", "--help").accepted()


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["rnu"], 2, "no command 'rnu', did you mean run?"),
        (["ls"], 2, "no command 'ls', did you mean ps?"),
        (["xyzzy"], 2, "no command 'xyzzy' "),
        (["--rot", "/x", "ps"], 2, "no such option '--rot'"),
        (["ps", "--format", "yaml"], 2, "'yaml' is not one of"),
        (["ps", "--filter", "colour=red"], 1, "--filter: 'colour=red'"),
        (["logs"], 2, "missing argument 'CONTAINER'"),
        (["rmi"], 1, "which image?"),
        (["rmi", "nothing-here"], 1, "nothing-here"),
        (["pull", "dir:/tmp"], 1, "nothing to pull"),
        (["pull", "oci:/does/not/exist"], 1, "/does/not/exist"),
    ],
)
def test_what_is_wrong_with_a_command_line_is_one_line(
    mesocosm: CommandLine, words: list[str], status: int, line: str
) -> None:
    done = mesocosm(*words)
    assert line in done.refused()
    assert done.status == status


def test_a_fault_of_ours_is_one_line_and_with_debug_the_whole_story(
    mesocosm: CommandLine, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    mesocosm.root = blocked / "below"
    mesocosm("images").refused("Not a directory")
    shown = mesocosm("images", env={"MESOCOSM_DEBUG": "1"})
    assert "Traceback" in shown.err
    mesocosm.root = tmp_path / "mesocosm" / "state"


def test_explain_says_what_a_run_would_do_and_does_nothing(mesocosm: CommandLine, busybox_root: Path) -> None:
    words = ("-d", "--rm", "-m", "64m", "--cap-drop", "ALL", f"dir:{busybox_root}", "sh", "-c", "exit 1")
    shown = mesocosm("explain", *words).accepted()
    for line in (
        r"cgroups/mem +memory limit: 64 MiB",
        r"\d+  write 67108864 to memory:",
        r"\d+  filesystem +filesystem/linux +mount proc on /proc",
        r"\d+  exec +image/runtime +execute sh",
        r"with the capabilities none",
        r"^  PATH=",
        r"sh -c 'exit 1'",
        r"WHAT WILL NOT BE HAD HERE",
    ):
        assert re.search(line, shown, re.MULTILINE), line
    told = json.loads(mesocosm("explain", "--format", "json", *words).accepted())
    assert told["plan"]["steps"][-1]["arguments"] == ["sh", "-c", "exit 1"]
    assert mesocosm("ps", "-aq").accepted() == ""
    mesocosm("explain", "dir:/nope", "true").refused("no such directory")


def test_the_plan_that_ran_is_the_plan_that_was_explained(mesocosm: CommandLine, busybox_root: Path) -> None:
    words = ("-m", "64m", "--tmpfs", "/scratch", "-h", "box", f"dir:{busybox_root}", *WAITS)
    explained = json.loads(mesocosm("explain", "--format", "json", *words).accepted())["plan"]
    mesocosm("run", "-d", "--name", "one", *words).accepted()
    (told,) = json.loads(mesocosm("inspect", "--plan", "one").accepted())
    as_of = json.dumps(told["plan"]).replace(told["id"], "ID")
    assert as_of == json.dumps(explained).replace(explained["container"], "ID")


def test_doctor_finds_this_host_fit_and_leaves_nothing(mesocosm: CommandLine) -> None:
    shown = mesocosm("doctor").accepted()
    for name in ("clone3", "openat2", "mount interface", "cgroup layout", "overlay", "state directory"):
        assert re.search(rf"^  ok +{name}", shown, re.MULTILINE), name
    found = json.loads(mesocosm("doctor", "--format", "json").accepted())
    assert {one["status"] for one in found} <= {"ok", "warning"}
    assert all(one["fix"] for one in found if one["status"] != "ok")
    assert not mesocosm.root.exists()
    assert not mesocosm.runtime.exists()


def test_doctor_without_privileges_says_what_is_missing(mesocosm: CommandLine) -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *mesocosm.words("doctor", "--format", "json")],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 1, done.stderr
    missing = {one["name"]: one["fix"] for one in json.loads(done.stdout) if one["status"] == "missing"}
    assert {"CAP_SYS_ADMIN", "CAP_SETUID", "pid namespace", "mount interface"} <= set(missing)
    assert all(missing.values())
