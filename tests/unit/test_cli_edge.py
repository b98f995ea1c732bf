"""The command line's edge: every way to end is a status and at most one line; no early imports."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mesocosm import durable, errors
from mesocosm.frontends.cli import completion, edge
from mesocosm.frontends.cli.commands import RUNNING, VERBS, cli, nearest_verb
from mesocosm.frontends.cli.settings import Interrupted, ReaderGone, Settings
from mesocosm.frontends.faults import status_of

LAUNCH = errors.LaunchError("cannot execute x: no such file", step="execute x", errno=2, status=127)


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_fault_table(kind: type[Exception]) -> None:
    """Each error of the tree: 125 from a verb that runs a payload, so that 1 is the payload's own; else 1."""
    if not issubclass(kind, errors.MesocosmError) or kind in (errors.LaunchError, errors.PlanConflict):
        return
    error = kind("m", ["f"]) if kind is errors.CleanupError else kind("m")
    assert status_of(error, running=True) == 125
    assert status_of(error, running=False) == 1


@pytest.mark.parametrize("status", [125, 126, 127])
def test_a_launch_that_failed_has_the_status_of_a_shell(status: int) -> None:
    error = errors.LaunchError("m", step="s", status=status)
    assert status_of(error, running=True) == status_of(error, running=False) == status


def answer(error: BaseException, capsys: pytest.CaptureFixture[str], verb: str = "run") -> tuple[int, str]:
    """The status and what was said."""
    settings = Settings()
    settings.verb = verb
    status = edge._answer(error, settings)
    said = capsys.readouterr()
    assert said.out == ""
    return status, said.err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (errors.NotFound("no x", hint="make it"), 125, "mesocosm: no x (make it)\n"),
        (LAUNCH, 127, "mesocosm: cannot execute x: no such file\n"),
        (Interrupted(2), 130, ""),
        (Interrupted(15), 143, ""),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (ReaderGone(), 141, ""),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (
            OSError(errno.ENOSPC, "No space left on device", "/f"),
            125,
            "mesocosm: /f: No space left on device\n",
        ),
        (OSError("odd"), 125, "mesocosm: odd\n"),
        (click.UsageError("Missing option '--x'."), 125, "mesocosm: missing option '--x'\n"),
        (ExceptionGroup("", [ValueError(), errors.Busy("held")]), 125, "mesocosm: held\n"),
    ],
)
def test_every_failure_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(error, capsys) == (status, line)


def test_what_nobody_expected_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, line = answer(TypeError("a\nb"), capsys)
    assert status == 125
    assert line == "mesocosm: unexpected TypeError: a b (a fault of ours; --debug shows where)\n"


def test_a_verb_without_a_payload_fails_with_1_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(errors.NotFound("x"), capsys, "ps")[0] == 1
    assert answer(click.UsageError("X"), capsys, "ps")[0] == 2


@pytest.mark.parametrize(
    ("word", "verb"),
    [("rnu", "run"), ("list", "ps"), ("pss", "ps"), ("inspet", "inspect"), ("delete", "rm"), ("xyzzy", None)],
)
def test_the_verb_that_was_meant(word: str, verb: str | None) -> None:
    assert nearest_verb(word) == verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_module_and_says_what_it_does(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert command.help
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help or option.hidden, option.name


def test_verbs_that_run_a_payload_exist() -> None:
    assert set(VERBS) > RUNNING


def loaded(*arguments: str) -> set[str]:
    """The modules that a command line has imported by its end."""
    program = (
        "import sys; from mesocosm.frontends.cli.main import main; main(sys.argv[1:]);"
        "sys.stdout.flush(); print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


HEAVY = {"msgspec", "asyncio", "aiohttp", "rich", "ssl", "mesocosm.containerizer", "mesocosm.images"}


@pytest.mark.parametrize("words", [(), ("--help",), ("--version",)])
def test_help_and_version_import_nothing_heavy(words: tuple[str, ...]) -> None:
    assert loaded(*words) & HEAVY == set()


def test_ps_needs_neither_images_nor_a_launcher(tmp_path: Path) -> None:
    found = loaded("--root", str(tmp_path / "state"), "--runtime", str(tmp_path / "run"), "ps")
    assert found & {"aiohttp", "rich", "mesocosm.containerizer", "mesocosm.launch.launcher"} == set()
    assert not (tmp_path / "state").exists()


def test_no_verb_imports_the_registry_client_or_rich_before_it_is_used(tmp_path: Path) -> None:
    for verb in VERBS:
        assert loaded(verb, "--help") & {"aiohttp", "rich", "mesocosm.containerizer"} == set(), verb


def test_completion_offers_verbs(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "_MESOCOSM_COMPLETE": "bash_complete",
        "COMP_LINE": "mesocosm in",
    }
    program = Path(sys.executable).with_name("mesocosm")
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain,inspect"]


def test_completion_offers_containers_by_name_then_by_id(tmp_path: Path) -> None:
    for name in ("names/web", "names/worker", "containers/0123abcd", "containers/.removed-x"):
        (tmp_path / name).mkdir(parents=True)
    context = click.Context(cli)
    context.params["root"] = str(tmp_path)
    offered = [
        completion.containers(context, click.Argument(["x"]), text) for text in ("", "wo", "01", ".", "zz")
    ]
    assert offered == [["web", "worker"], ["worker"], ["0123abcd"], [], []]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_that_no_shell_asks_for_says_so(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("COMP_LINE", "COMP_WORDS", "COMP_CWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("_MESOCOSM_COMPLETE", f"{shell}_complete")
    assert edge.run([]) == 1
    said = capsys.readouterr().err
    assert "is for the shell's script, which sets COMP_" in said
    assert f"_MESOCOSM_COMPLETE={shell}_source mesocosm" in said
    monkeypatch.setenv("_MESOCOSM_COMPLETE", f"{shell}_source")
    assert edge.run([]) == 0
    assert "COMP_" in capsys.readouterr().out


@pytest.mark.parametrize("instruction", ["tcsh_source", "bash", "bash_sauce", ""])
def test_a_shell_that_is_not_known_is_told_which_are(
    instruction: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_MESOCOSM_COMPLETE", instruction)
    assert edge.run([]) == 1
    told = f"mesocosm: _MESOCOSM_COMPLETE={instruction} is not known (bash_source, zsh_source"
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(("user", "hint"), [(1000, " (run as root)"), (0, "")])
def test_who_is_not_root_is_told_to_be(
    user: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(durable, "private_directory", refuse)
    assert edge.run(["--root", str(tmp_path), "--runtime", str(tmp_path), "images"]) == 1
    assert capsys.readouterr().err == f"mesocosm: {tmp_path}: Permission denied{hint}\n"


def test_a_command_whose_interpreter_is_gone_says_so(tmp_path: Path) -> None:
    """The shell's part of it falls back to Debian's, which has no mesocosm."""
    program = tmp_path / "mesocosm"
    shutil.copy(Path(__file__).parents[2] / "scripts/mesocosm", program)
    done = subprocess.run([program, "images"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"mesocosm: /usr/bin/python3 has no mesocosm installed \(.*\)\n", done.stderr)
