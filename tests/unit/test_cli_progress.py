"""Progress: lines where nobody looks, one bar for each phase on a terminal, nothing with --quiet."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest

from mesocosm.frontends.cli.progress import progress
from mesocosm.images.progress import Phase, Progress

BLOB = "sha256:" + "0123456789ab" * 6

STORY = [
    Progress(Phase.RESOLVE, "debian:12"),
    Progress(Phase.RESOLVE, "debian:12", finished=True),
    Progress(Phase.RESOLVE, "debian:11", already=True, finished=True),
    Progress(Phase.DOWNLOAD, BLOB, 0, 2048),
    Progress(Phase.DOWNLOAD, BLOB, 1024, 2048, resumed=1024),
    Progress(Phase.DOWNLOAD, BLOB, 2048, 2048, resumed=1024, finished=True),
    Progress(Phase.DOWNLOAD, "sha256:" + "f" * 64, 5, 5, already=True, finished=True),
    Progress(Phase.UNPACK, BLOB, 2048, 2048, finished=True),
]


def test_lines_one_for_each_subject_that_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=False) as told:
        for one in STORY:
            told(one)
    said = capsys.readouterr()
    assert said.out == ""
    assert [re.sub(r"in [0-9.]+ ms", "in T", line) for line in said.err.splitlines()] == [
        "mesocosm: resolved debian:12 in T",
        "mesocosm: fetched 0123456789ab 2 KiB in T (1 KiB from an earlier attempt)",
        "mesocosm: unpacked 0123456789ab 2 KiB in T",
        "mesocosm: debian:11 is unchanged",
        "mesocosm: 1 blob there already",
    ]


def test_what_was_collected_is_told_with_its_size_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=False) as told:
        told(
            Progress(Phase.COLLECT, "x:1: unused and images take more than 1 KiB", 2048, 2048, finished=True)
        )
    assert capsys.readouterr().err == (
        "mesocosm: collected x:1: unused and images take more than 1 KiB (2 KiB)\n"
    )


def test_nothing_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True) as told:
        for one in STORY:
            told(one)
    assert capsys.readouterr() == ("", "")


def test_hostile_subjects_are_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=False) as told:
        told(Progress(Phase.RESOLVE, "\x1b[2J", finished=True))
    assert "\x1b" not in capsys.readouterr().err


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_by_phase_that_leave_only_what_was_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress(quiet=False) as told:
        for one in STORY:
            told(one)
        told(Progress(Phase.UNPACK, "[bold]x[/bold]", 1, None))
        told.close()
        told(STORY[0])
    shown = screen.getvalue()
    for phase in ("resolve", "download", "unpack"):
        assert phase in shown
    assert shown.endswith("mesocosm: debian:11 is unchanged\nmesocosm: 1 blob there already\n")
    before = shown.removesuffix("mesocosm: debian:11 is unchanged\nmesocosm: 1 blob there already\n")
    assert before.rstrip().endswith(("\x1b[2K", "\x1b[?25h", "\x1b[1A"))


def on_screen(monkeypatch: pytest.MonkeyPatch, columns: int, *story: Progress) -> str:
    """What bars leave on a terminal's screen while they are there, escape sequences taken out."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    with progress(quiet=False) as told:
        for one in story:
            told(one)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())


def test_what_is_printed_between_two_images_has_the_screen_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress(quiet=False) as told:
        told(STORY[0])
        told.rest()
        assert screen.getvalue().endswith("\x1b[2K")
        screen.write("sha256:…\n")
        told(Progress(Phase.RESOLVE, "debian:13"))
        told.rest()
    again = screen.getvalue().partition("sha256:…\n")[2]
    assert "debian:13" in again
    assert "debian:12" not in again


def test_only_what_is_about_bytes_counts_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving = on_screen(monkeypatch, 100, STORY[0], STORY[1])
    assert "debian:12" in resolving
    assert "byte" not in resolving and "%" not in resolving
    fetching = on_screen(monkeypatch, 100, Progress(Phase.DOWNLOAD, BLOB, 1 << 20, 4 << 20))
    assert "25 % of 4 MiB" in fetching


@pytest.mark.parametrize("columns", [30, 60, 80])
def test_a_phase_is_one_line_on_a_narrow_terminal_too(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    name = "registry.example.org/team/application/with/a/long/name:1.2.3"
    shown = on_screen(
        monkeypatch, columns, Progress(Phase.DOWNLOAD, name, 1 << 30, 4 << 30), Progress(Phase.UNPACK, BLOB)
    )
    lines = [line.strip() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    assert all(line.startswith(("download", "unpack")) for line in lines), lines
    assert max(map(len, lines)) <= columns


def test_lines_where_the_cursor_cannot_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    with progress(quiet=False) as told:
        told(STORY[0])
        told(STORY[1])
    assert screen.getvalue().startswith("mesocosm: resolved debian:12 in ")
    assert "\x1b" not in screen.getvalue()


def test_rich_is_imported_with_the_first_report_on_a_terminal_only() -> None:
    program = """
import sys
from mesocosm.frontends.cli.progress import progress
from mesocosm.images.progress import Phase, Progress
with progress(quiet=False) as told:
    assert "rich" not in sys.modules
    told(Progress(Phase.RESOLVE, "x", finished=True))
assert "rich" not in sys.modules
"""
    subprocess.run([sys.executable, "-I", "-c", program], check=True, stderr=subprocess.DEVNULL)
