"""``run`` as a user: what it prints, how it ends, what it refuses, and that a refusal leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attacks.commandline import PROGRAM, CommandLine
from mesocosm.version import VERSION


def nothing_left(mesocosm: CommandLine) -> bool:
    """No container, no file of one, no name."""
    listed = mesocosm("ps", "-aq").accepted()
    places = [mesocosm.root / "containers", mesocosm.runtime / "containers", mesocosm.root / "names"]
    files = [
        entry for place in places if place.exists() for entry in place.iterdir() if entry.name != ".lock"
    ]
    return listed == "" and files == []


def test_output_on_both_streams_and_the_payloads_own_status(
    mesocosm: CommandLine, busybox_root: Path
) -> None:
    done = mesocosm.shell(busybox_root, "echo out; echo err >&2; exit 3")
    assert done == (3, "out\n", "err\n")
    assert nothing_left(mesocosm)


@pytest.mark.parametrize(("command", "status"), [("exit 1", 1), ("exit 125", 125), ("exit 255", 255)])
def test_no_status_of_the_payload_is_ours(
    mesocosm: CommandLine, busybox_root: Path, command: str, status: int
) -> None:
    assert mesocosm.shell(busybox_root, command) == (status, "", "")


def test_a_payload_killed_by_a_signal(mesocosm: CommandLine, busybox_root: Path) -> None:
    done = mesocosm.shell(busybox_root, "kill -KILL $$", "--init")
    assert done.status == 128 + signal.SIGKILL


def test_nothing_after_the_image_is_ours(mesocosm: CommandLine, busybox_root: Path) -> None:
    words = ("echo", "--rm", "-m", "--help", "--", "--version")
    assert mesocosm.run(busybox_root, *words).accepted() == "--rm -m --help -- --version\n"


def test_the_hosts_environment_stays_outside(mesocosm: CommandLine, busybox_root: Path) -> None:
    caller = {"SECRET": "x", "TAKEN": "y", "PYTHONPATH": "/nowhere"}
    done = mesocosm(
        *("run", "--rm", "-e", "TAKEN", "-e", "OWN=z", "-e", "PYTHONPATH", f"dir:{busybox_root}", "env"),
        env=caller,
    )
    seen = dict(line.split("=", 1) for line in done.accepted().splitlines())
    assert seen["TAKEN"] == "y"
    assert seen["OWN"] == "z"
    assert seen["PYTHONPATH"] == "/nowhere"
    assert set(seen) == {"TAKEN", "OWN", "PYTHONPATH", "PATH", "HOSTNAME", "HOME"}


REFUSALS = {
    "missing executable": (["dir:{image}", "nope"], 127, "cannot execute nope: no such file"),
    "not executable": (["dir:{image}", "/etc"], 126, "cannot execute /etc: permission denied"),
    "no image there": (["dir:/does/not/exist", "true"], 125, "no such directory"),
    "unknown isolator": (["--isolation", "cgrops/mem", "dir:{image}", "true"], 125, "mean cgroups/mem"),
    "bad memory": (["-m", "12q", "dir:{image}", "true"], 125, "--memory: '12q' is not a size"),
    "unknown user": (["-u", "nobody-here", "dir:{image}", "true"], 125, "nobody-here"),
    "missing source": (["--mount", "type=bind,src=/nope,dst=/x", "dir:{image}", "true"], 125, "/nope"),
    "bad flag": (["--rmm", "dir:{image}", "true"], 125, r"no such option '?--rmm"),
    "missing image": ([], 125, "missing argument 'IMAGE'"),
    "bad choice": (["--pull", "sometimes", "dir:{image}"], 125, "'--pull': 'sometimes' is not one of"),
    "nothing to do": (["dir:{image}"], 125, "has no command"),
    "bad name": (["--name", "a/b", "dir:{image}", "true"], 125, "container name 'a/b' is not allowed"),
    "bad env file": (["--env-file", "/nope", "dir:{image}", "true"], 125, "--env-file: /nope"),
    "cidfile in nowhere": (["--cidfile", "/nope/x", "dir:{image}", "true"], 125, "/nope/x"),
}


@pytest.mark.parametrize("row", REFUSALS)
def test_a_refusal_is_one_line_with_its_status_and_leaves_nothing(
    mesocosm: CommandLine, busybox_root: Path, row: str
) -> None:
    words, status, pattern = REFUSALS[row]
    done = mesocosm("run", *(word.format(image=busybox_root) for word in words))
    done.refused(pattern)
    assert done.status == status
    assert nothing_left(mesocosm)


def test_a_name_that_is_taken(mesocosm: CommandLine, busybox_root: Path) -> None:
    first = mesocosm.start(busybox_root, "sleep", "1000", options=("--name", "one"))
    line = mesocosm("run", "--name", "one", f"dir:{busybox_root}", "true").refused("'one' is used")
    assert first in line
    assert mesocosm("ps", "-q").accepted().split() == [first]


def test_the_id_in_a_file(mesocosm: CommandLine, busybox_root: Path, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    container = mesocosm.start(busybox_root, "sleep", "1000", options=("--cidfile", file))
    assert file.read_text() == container
    assert file.stat().st_mode & 0o777 == 0o644
    again = mesocosm("run", "--cidfile", file, f"dir:{busybox_root}", "true")
    again.refused("--cidfile: .* exists")
    assert file.read_text() == container
    other = tmp_path / "other"
    mesocosm("run", "--cidfile", other, f"dir:{busybox_root}", "nope").refused()
    assert not other.exists()


def test_standard_input_from_a_pipe(mesocosm: CommandLine, busybox_root: Path) -> None:
    """A megabyte through ``-i``; without it the payload reads nothing."""
    data = os.urandom(1 << 19).hex()
    words = mesocosm.words("run", "--rm", "-i", f"dir:{busybox_root}", "md5sum")
    done = subprocess.run(words, input=data, capture_output=True, text=True, timeout=60, check=True)
    expected = subprocess.run(["md5sum"], input=data, capture_output=True, text=True, check=True)
    assert done.stdout == expected.stdout
    words.remove("-i")
    none = subprocess.run(words, input=data, capture_output=True, text=True, timeout=60, check=True)
    assert none.stdout.split()[0] == "d41d8cd98f00b204e9800998ecf8427e"


def test_a_payload_that_ends_while_its_input_stays_open(mesocosm: CommandLine, busybox_root: Path) -> None:
    words = mesocosm.words("run", "--rm", "-i", f"dir:{busybox_root}", "head", "-n1")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("first\nsecond\n")
        process.stdin.flush()
        assert process.stdout.read() == "first\n"
        assert process.wait(60) == 0


def test_a_reader_that_goes_away_ends_the_payload(mesocosm: CommandLine, busybox_root: Path) -> None:
    """As ``yes | head -n1``: status 141, no complaint, nothing left running."""
    words = mesocosm.words("run", "--rm", f"dir:{busybox_root}", "yes")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "y\n"
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""
    assert nothing_left(mesocosm)


def test_a_reader_that_goes_away_after_the_end(mesocosm: CommandLine, busybox_root: Path) -> None:
    """What it wrote is still being shown when it has ended and is forgotten."""
    words = mesocosm.words("run", "--rm", f"dir:{busybox_root}", "seq", "1", "100000")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1\n"
        while mesocosm("ps", "-aq").accepted():
            pass
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""
    assert nothing_left(mesocosm)


def test_big_output_arrives_whole(mesocosm: CommandLine, busybox_root: Path) -> None:
    done = mesocosm.shell(busybox_root, "seq 1 200000; seq 1 1000 >&2")
    assert done.accepted() == "".join(f"{number}\n" for number in range(1, 200001))
    assert done.err.splitlines() == [str(number) for number in range(1, 1001)]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(mesocosm: CommandLine, busybox_root: Path, closed: str) -> None:
    """No file of ours takes the number of a closed stream; the payload's status is told all the same."""
    line = " ".join(mesocosm.words("run", "--rm", f"dir:{busybox_root}", "sh", "-c", "'echo x; exit 7'"))
    done = subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7
    assert done.stdout == ("" if ">&- " in f"{closed} " and "2" not in closed[:1] else "x\n")
    assert done.stderr == ""


def test_a_full_disk_behind_standard_output(mesocosm: CommandLine, busybox_root: Path) -> None:
    words = mesocosm.words("run", "--rm", f"dir:{busybox_root}", "echo", "x")
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 125
    assert done.stderr == "mesocosm: standard output: No space left on device\n"
    assert nothing_left(mesocosm)


def test_detached_it_goes_on_without_us(mesocosm: CommandLine, busybox_root: Path) -> None:
    container = mesocosm.start(busybox_root, "sh", "-c", "echo up; sleep 1000", options=("--name", "one"))
    assert re.fullmatch(r"[0-9a-f]{16}", container)
    assert mesocosm("ps", "--format", "json").accepted()
    (report,) = json.loads(mesocosm("ps", "--format", "json").out)
    assert (report["id"], report["name"], report["state"]) == (container, "one", "running")


def test_without_rm_the_ended_container_stays_with_its_story(
    mesocosm: CommandLine, busybox_root: Path
) -> None:
    mesocosm("run", "--name", "done", f"dir:{busybox_root}", "sh", "-c", "echo kept; exit 4")
    assert mesocosm("logs", "done").accepted() == "kept\n"
    assert mesocosm("wait", "done").accepted() == "4\n"
    assert "exited (4)" in mesocosm("ps", "-a").accepted()
    assert mesocosm("rm", "done").accepted() == "done\n"
    assert nothing_left(mesocosm)


def test_the_report_at_the_end(mesocosm: CommandLine, busybox_root: Path) -> None:
    done = mesocosm(
        *("run", "--rm", "--report", "-m", "64m", "--cpus", "0.5", "--pids-limit", "20"),
        *(f"dir:{busybox_root}", "echo", "payload"),
    )
    assert done.accepted() == "payload\n"
    for words in ("cgroups/mem", "memory limit: 64 MiB", "peak", "of 64 MiB", "of 20", "to start", "launch"):
        assert words in done.err, words
    assert "\x1b" not in done.err


def test_a_limit_that_ends_it_is_told(mesocosm: CommandLine, busybox_root: Path) -> None:
    done = mesocosm(
        *("run", "--rm", "-m", "16m", f"dir:{busybox_root}", "sh", "/payload/eat-memory.sh", "64")
    )
    assert done.status == 137
    assert re.fullmatch(r"mesocosm: [^\n]*memory[^\n]*\n", done.err), done.err


@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONHOME"])
def test_the_callers_python_variables_have_no_effect(
    mesocosm: CommandLine, busybox_root: Path, tmp_path: Path, variable: str
) -> None:
    """P-02: modules of our names in the working directory and on PYTHONPATH are not imported."""
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("json", "click", "msgspec", "asyncio", "signal", "re", "encodings", "sitecustomize"):
        (trap / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'a').write({name!r})\n")
    done = mesocosm(
        *("run", "--rm", f"dir:{busybox_root}", "echo", "x"),
        env={variable: str(trap) if variable != "PYTHONINSPECT" else "1"},
        cwd=trap,
    )
    assert done.accepted() == "x\n"
    assert not (tmp_path / "sprung").exists()


def test_started_as_a_module_it_is_as_safe(busybox_root: Path, tmp_path: Path) -> None:
    """P-02: ``python -m`` puts the working directory first on the path."""
    (tmp_path / "click.py").write_text("raise SystemExit('sprung')\n")
    done = subprocess.run(
        [sys.executable, "-m", "mesocosm.frontends.cli.main", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mesocosm ")


def test_our_umask_is_ours_and_the_payloads_its_own(mesocosm: CommandLine, busybox_root: Path) -> None:
    done = mesocosm.shell(busybox_root, "umask; stat -c %a /; touch /new; stat -c %a /new")
    assert done.accepted() == "0022\n755\n644\n"
    assert all(not path.stat().st_mode & 0o077 for path in (mesocosm.root, mesocosm.runtime))


def test_the_program_works_through_a_link_and_by_its_bare_name(tmp_path: Path) -> None:
    """Linked into a directory of the path, as people do, and handed to a shell as a file."""
    link = tmp_path / "linked"
    link.symlink_to(PROGRAM)
    for words, folder in (((link,), tmp_path), (("sh", "mesocosm"), Path(PROGRAM).parent)):
        done = subprocess.run([*map(str, words), "--version"], cwd=folder, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (f"mesocosm {VERSION}\n", "")


def test_the_program_is_the_one_that_was_installed() -> None:
    assert Path(PROGRAM).exists()
