"""Tables and words: what ps, stats, images and the report of a run print, without colour and in full."""

from __future__ import annotations

import dataclasses
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import layout, report
from mesocosm.frontends.cli.colour import painter, safe
from mesocosm.frontends.cli.ending import how_it_ended, status_of
from mesocosm.frontends.cli.listing import Filter
from mesocosm.frontends.cli.verbs import ps, stats
from mesocosm.frontends.cli.verbs.image import ls as images
from mesocosm.images.image import Image, Layer
from mesocosm.lifecycle import State
from mesocosm.model import (
    ContainerConfig,
    Exit,
    ImageIdentity,
    ImageRuntime,
    Limitation,
    Resources,
    Termination,
    Usage,
)
from mesocosm.plan import Contribution, LaunchPlan
from mesocosm.plan import operations as op
from mesocosm.reports import Report

NOW = 1_000_000.0
RUNNING = Report(
    id="0123456789abcdef",
    name="web",
    state=State.RUNNING,
    config=ContainerConfig(image="debian:12", command=("sleep", "100"), labels={"team": "a", "flag": ""}),
    resources=Resources(memory=64 << 20),
    created_at=NOW - 190,
    started_at=NOW - 185,
    image=ImageIdentity(reference="docker://docker.io/library/debian:12"),
    phases={"image": 0.0123, "launch": 0.004},
)
EXITED = Exit(code=3, finished_at=NOW - 7200)
ENDED = msgspec.structs.replace(
    RUNNING,
    id="fedcba9876543210",
    name=None,
    state=State.DESTROYED,
    config=ContainerConfig(image="host", command=("sh", "-c", "a long command that nobody wants to read")),
    termination=Termination(reason="exited", exit=EXITED, finished_at=NOW - 7200),
    created_at=NOW - 90000,
)


def test_ps() -> None:
    assert ps.table([RUNNING, ENDED], now=NOW) == (
        "ID             IMAGE       COMMAND                    CREATED         STATUS                   "
        "NAME\n"
        "0123456789ab   debian:12   sleep 100                  3 minutes ago   running 3 minutes        web\n"
        "fedcba987654   host        sh -c a long command th…   1 day ago       exited (3) 2 hours ago"
    )
    assert "a long command that nobody wants to read" in ps.table([ENDED], now=NOW, whole=True)
    assert ps.table([], now=NOW).split() == list(ps.TITLES)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "running 3 minutes"),
        ({"started_at": NOW - 0.5}, "running less than a second"),
        ({"state": State.CREATED}, "created, not started"),
        ({"state": State.PREPARED}, "being set up (prepared)"),
        ({"state": State.DESTROYING}, "being cleaned up"),
        (
            {"state": State.DESTROYING, "failures": ("cgroups: busy", "x")},
            "being cleaned up: cgroups: busy; x",
        ),
    ],
)
def test_status_in_words(changes: dict[str, object], status: str) -> None:
    assert status_of(msgspec.structs.replace(RUNNING, **changes), NOW) == status


@pytest.mark.parametrize(
    ("termination", "words"),
    [
        (Termination(reason="exited", exit=Exit(code=0)), "exited (0)"),
        (
            Termination(reason="exited", exit=Exit(signal=11, core_dumped=True)),
            "killed by SIGSEGV, core dumped",
        ),
        (Termination(reason="exited", exit=Exit(signal=40)), "killed by signal 40"),
        (Termination(reason="asked", exit=Exit(code=143)), "stopped (143)"),
        (Termination(reason="asked"), "stopped"),
        (
            Termination(reason="limited", message="memory", limitation=Limitation(resource="m", message="x")),
            "limited: memory",
        ),
        (Termination(reason="lost", message="the host was restarted"), "lost: the host was restarted"),
        (Termination(reason="failed", message="a\x1b[31m\n"), "failed: a\\x1b[31m\\n"),
    ],
)
def test_endings_in_words(termination: Termination, words: str) -> None:
    assert how_it_ended(termination) == words


@pytest.mark.parametrize(
    ("words", "admitted"),
    [
        ([], True),
        (["name=we"], True),
        (["name=db"], False),
        (["name=db", "name=web"], True),
        (["status=running", "label=team=a"], True),
        (["status=exited"], False),
        (["label=team=b"], False),
        (["label=flag"], True),
        (["label=missing"], False),
        (["id=0123"], True),
        (["image=debian:12", "name=x"], False),
    ],
)
def test_filters(words: list[str], admitted: bool) -> None:
    assert Filter(words).admits(RUNNING) is admitted


@pytest.mark.parametrize("word", ["name", "colour=red", "status=sleeping", "="])
def test_filters_that_are_not_known(word: str) -> None:
    with pytest.raises(InvalidConfig, match="--filter"):
        Filter([word])


USAGE = Usage(
    timestamp=NOW,
    cpu_seconds=1.25,
    cpu_limit=0.5,
    cpu_periods=40,
    cpu_throttled_periods=30,
    cpu_throttled_seconds=1.5,
    memory=20 << 20,
    memory_peak=32 << 20,
    memory_limit=64 << 20,
    oom_kills=1,
    pids=2,
    pids_peak=4,
    pids_limit=10,
    pids_refused=3,
)


def test_stats() -> None:
    before = Usage(timestamp=NOW - 0.5, cpu_seconds=1.0)
    full = stats.Reading(
        id="0123456789abcdef", name="web", cpu_percent=stats.busy(before, USAGE), usage=USAGE
    )
    bare = stats.Reading(id="fedcba9876543210", name=None, cpu_percent=None, usage=Usage())
    assert stats.table([full, bare]) == (
        "ID             NAME   CPU      CPU TIME   MEMORY   LIMIT    MEMORY %   PROCESSES\n"
        "0123456789ab   web    50.0 %   1.25 s     20 MiB   64 MiB   31 %       2 of 10\n"
        "fedcba987654   -      -        -          -        -        -          -"
    )


def test_what_no_kernel_told_is_not_called_a_peak() -> None:
    """cgroup v2 keeps that of memory from Linux 5.19 on, that of processes from 6.1 on."""
    rows = dict(report.used(USAGE, None))
    assert rows["memory"] == "peak 32 MiB of 64 MiB (50 %), 1 killed for want of memory"
    assert rows["processes"] == "peak 4 of 10, a new one refused 3 times"
    older = dict(report.used(msgspec.structs.replace(USAGE, memory_peak=None, pids_peak=None), None))
    assert older["memory"] == "at the end 20 MiB of 64 MiB (31 %), 1 killed for want of memory"
    assert older["processes"] == "at the end 2 of 10, a new one refused 3 times"


@pytest.mark.parametrize(("before", "now"), [(Usage(), USAGE), (USAGE, Usage()), (USAGE, USAGE)])
def test_no_share_of_a_processor_without_two_readings(before: Usage, now: Usage) -> None:
    assert stats.busy(before, now) is None


def test_images_have_a_row_for_each_name() -> None:
    image = Image(
        references=("docker://docker.io/library/debian:12", "docker://localhost:5000/x:y"),
        digest="sha256:" + "a" * 64,
        image_id="sha256:" + "b" * 64,
        platform="linux/amd64",
        size=3 << 20,
        created="",
        pulled_at=NOW - 61,
        last_used=NOW,
        checked_at=NOW,
        layers=(Layer(diff_id="d", digest="e", size=1, media_type="m"),),
        runtime=ImageRuntime(),
        source="s",
        in_use=("c",),
    )
    nameless = msgspec.structs.replace(image, references=(), complete=False, in_use=())
    assert images.table([image, nameless], now=NOW).splitlines()[1:] == [
        "debian:12            aaaaaaaaaaaa   linux/amd64   3 MiB                1        1 minute ago   1",
        "localhost:5000/x:y   aaaaaaaaaaaa   linux/amd64   3 MiB                1        1 minute ago   1",
        "<none>               aaaaaaaaaaaa   linux/amd64   3 MiB (incomplete)   1        1 minute ago   0",
    ]


PLAN = LaunchPlan.compose(
    "c",
    [
        ("launch", Contribution()),
        ("cgroups/mem", Contribution(notes=("memory limit: 64 MiB",))),
        ("volume/host_path", Contribution()),
        ("image/runtime", Contribution(steps=(op.Execute(arguments=("true",)),), notes=("user: 0", "x: y"))),
    ],
)


def test_the_report_of_a_run() -> None:
    ended = Termination(
        reason="exited", exit=Exit(code=0, finished_at=NOW - 182.5), usage=USAGE, finished_at=NOW - 182
    )
    created = msgspec.structs.replace(RUNNING, warnings=("limit core is clamped",))
    assert report.render(created, PLAN, ended).splitlines() == [
        "web  docker://docker.io/library/debian:12  exited (0)",
        "ISOLATION  cgroups/mem       memory limit: 64 MiB",
        "           volume/host_path  nothing asked for",
        "           image/runtime     user: 0; x: y",
        "USED       processor         1.25 s in 2.50 s (50 % of a processor), limit 0.5 processors, held back"
        " in 30 of 40 periods for 1.50 s",
        "           memory            peak 32 MiB of 64 MiB (50 %), 1 killed for want of memory",
        "           processes         peak 4 of 10, a new one refused 3 times",
        "TIME       to start          16.3 ms: image 12.3 ms, launch 4.00 ms",
        "           to run            2.50 s",
        "WARNINGS                     limit core is clamped",
    ]


def test_the_report_of_what_nobody_measured_and_nobody_started() -> None:
    created = msgspec.structs.replace(RUNNING, started_at=None, phases={}, image=None, name=None)
    text = report.render(created, PLAN, Termination(reason="failed", message="no"))
    assert text.startswith("0123456789abcdef  no image  failed: no\n")
    assert "USED       nothing           was measured" in text
    assert "TIME" not in text


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1))
def test_columns_line_up_whatever_is_in_them(rows: list[tuple[str, str]]) -> None:
    rows = [(safe(left).replace(" ", "") or "-", safe(right).replace(" ", "") or "-") for left, right in rows]
    lines = layout.columns(rows).splitlines()
    assert len(lines) == len(rows)
    starts = {layout.width(line) - layout.width(right) for line, (_, right) in zip(lines, rows, strict=True)}
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 ms"), (0.00042, "0.42 ms"), (0.0123, "12.3 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s")]
    + [(59.94, "59.9 s"), (59.96, "1 min 0 s"), (250, "4 min 10 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert layout.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "less than a second"), (1, "1 second"), (59.9, "59 seconds"), (3600, "1 hour"), (10**9, "31 years")],
)
def test_ages(seconds: float, text: str) -> None:
    assert layout.age(seconds) == text


@dataclasses.dataclass
class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    terminal: bool = True

    def isatty(self) -> bool:
        return self.terminal


def test_colour_only_where_a_person_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert painter(Screen())("x", "title") == "\x1b[1mx\x1b[0m"
    assert painter(Screen(terminal=False))("x", "title") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painter(Screen())("x", "title") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert painter(Screen())("x", "title") == "x"


@given(st.text())
def test_nothing_foreign_moves_the_cursor(text: str) -> None:
    """R-26: names and messages from outside reach a terminal without control characters."""
    assert safe(text).isprintable()
