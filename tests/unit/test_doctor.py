"""Findings as values and as text; the exit status says whether containers can be run."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mesocosm.doctor.finding import Finding, Status, in_child, missing, ok, tried, warning
from mesocosm.errors import Unsupported
from mesocosm.frontends.cli.verbs.doctor import render
from mesocosm.linux.cgroups.layout import Hierarchy, Layout


def fail(error: BaseException) -> object:
    raise error


def test_a_feature_that_works_is_ok() -> None:
    assert tried("n", lambda: None, good="there", without="lost", fix="do") == ok("n", "there")


@pytest.mark.parametrize(("required", "status"), [(True, "missing"), (False, "warning")])
def test_a_feature_that_fails_says_why_and_what_to_do(required: bool, status: Status) -> None:
    finding = tried(
        "n",
        lambda: fail(PermissionError(errno.EPERM, "Operation not permitted")),
        good="there",
        without="nothing runs",
        fix="be root",
        required=required,
    )
    assert finding == Finding(
        name="n", status=status, message="nothing runs: operation not permitted", fix="be root"
    )


def test_an_errors_own_hint_is_the_better_fix() -> None:
    finding = tried(
        "n",
        lambda: fail(Unsupported("no overlay", hint="modprobe overlay")),
        good="",
        without="copies",
        fix="x",
    )
    assert (finding.message, finding.fix) == ("copies: no overlay", "modprobe overlay")


def test_a_trial_in_a_child_ends_with_it() -> None:
    """What the child does to itself stays there, and its error is raised here."""
    before = os.getcwd()
    in_child(lambda: os.chdir("/"))
    assert os.getcwd() == before
    with pytest.raises(OSError, match="No such file"):
        in_child(lambda: os.chdir("/does/not/exist"))
    with pytest.raises(OSError, match="the trial ended with 255"):
        in_child(lambda: fail(ValueError()))


def test_text_with_a_verdict() -> None:
    found = [
        ("kernel", ok("a", "fine")),
        ("kernel", warning("bcd", "less", "more")),
        ("storage", missing("e", "gone", "mount it")),
    ]
    text = render(found)
    assert "  ok       a    fine\n  warning  bcd  less\n                fix: more\n" in text
    assert "  MISSING  e    gone\n                fix: mount it\n" in text
    assert text.endswith("Containers cannot be run here: 1 thing missing.")
    assert render(found[:2]).endswith("Containers can be run here, with 1 warning.")
    assert render(found[:1]).endswith("Containers can be run here.")


def test_a_controller_that_is_not_served_is_missing_with_its_fix(tmp_path: Path) -> None:
    from mesocosm.doctor import control_groups  # noqa: PLC0415

    layout = Layout("v2", (Hierarchy(2, str(tmp_path), str(tmp_path), ("cpu",)),))
    there = control_groups._controller(layout, "cpu", "limits")
    assert (there.status, there.message) == ("ok", "limits: version 2")
    absent = control_groups._controller(layout, "memory", "memory limits")
    assert absent.status == "missing"
    assert "cgroup_enable=memory" in absent.fix
    assert control_groups._swap(layout).status == "warning"
