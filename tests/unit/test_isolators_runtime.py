"""What image/runtime makes of an image's words and a request's (parity §4.5, GAP-22)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from fixtures.isolation import NAME, container, host, isolator, prepare
from mesocosm.errors import InvalidConfig
from mesocosm.isolators.image.runtime import stop_signal
from mesocosm.model import ContainerConfig, ImageRuntime
from mesocosm.plan import LaunchPlan
from mesocosm.plan.operations import ChangeDirectory, Execute, LookUpUser, SetUser

NOTHING = ImageRuntime()
COMMAND = ImageRuntime(command=("c", "d"))
ENTRYPOINT = ImageRuntime(entrypoint=("e", "f"))
BOTH = ImageRuntime(entrypoint=("e", "f"), command=("c", "d"))


def executed(image: ImageRuntime, **config: object) -> Execute:
    config.setdefault("command", ())
    plan = LaunchPlan.compose("x", [("r", prepare("image/runtime", host(Path("/h")), image=image, **config))])
    return plan.execute


@pytest.mark.parametrize(
    ("image", "entrypoint", "command", "expected"),
    [
        (COMMAND, None, (), ("c", "d")),
        (ENTRYPOINT, None, (), ("e", "f")),
        (BOTH, None, (), ("e", "f", "c", "d")),
        (NOTHING, None, ("x", "y"), ("x", "y")),
        (COMMAND, None, ("x", "y"), ("x", "y")),
        (ENTRYPOINT, None, ("x", "y"), ("e", "f", "x", "y")),
        (BOTH, None, ("x", "y"), ("e", "f", "x", "y")),
        (BOTH, ("z",), (), ("z",)),
        (BOTH, ("z",), ("x",), ("z", "x")),
        (BOTH, (), ("x",), ("x",)),
    ],
)
def test_arguments_by_the_table(
    image: ImageRuntime,
    entrypoint: tuple[str, ...] | None,
    command: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    assert executed(image, entrypoint=entrypoint, command=command).arguments == expected


@pytest.mark.parametrize(
    ("image", "entrypoint"), [(NOTHING, None), (BOTH, ()), (ImageRuntime(command=("",)), None)]
)
def test_nothing_to_execute_is_an_error(image: ImageRuntime, entrypoint: tuple[str, ...] | None) -> None:
    with pytest.raises(InvalidConfig, match=r"image host has no command \(say what to execute\)"):
        executed(image, entrypoint=entrypoint)


def test_without_an_image_the_sandbox_is_the_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no command is given"):
        prepare("image/runtime", host(tmp_path), root=None, command=())
    found = prepare("image/runtime", host(tmp_path), root=None)
    assert ChangeDirectory(target=f"{tmp_path}/root/containers/{NAME}/sandbox") in found.steps


@pytest.mark.parametrize(
    ("image", "asked", "expected"),
    [("", None, "/"), ("/srv", None, "/srv"), ("srv/x", None, "/srv/x"), ("/srv", "/tmp", "/tmp")],
)
def test_the_working_directory(image: str, asked: str | None, expected: str) -> None:
    found = prepare("image/runtime", host(Path("/h")), image=ImageRuntime(workdir=image), workdir=asked)
    assert ChangeDirectory(target=expected) in found.steps


@pytest.mark.parametrize(
    ("image", "asked", "expected"),
    [("", None, "0"), ("worker", None, "worker"), ("worker", "7:8", "7:8"), ("1000:1000", None, "1000:1000")],
)
def test_the_user_is_the_images_unless_asked_gap_22(image: str, asked: str | None, expected: str) -> None:
    found = prepare("image/runtime", host(Path("/h")), image=ImageRuntime(user=image), user=asked)
    assert found.steps[0] == LookUpUser(user=expected)
    assert SetUser() in found.steps


def test_groups_of_the_image_go_with_its_user() -> None:
    """Who says another user says all that this one is; what is asked for comes on top of either."""
    image = ImageRuntime(user="worker", groups=(7, 8))
    for user, asked, expected in ((None, (), "7 8"), (None, ("audio",), "7 8 audio"), ("5", ("9",), "9")):
        found = prepare("image/runtime", host(Path("/h")), image=image, user=user, groups=asked)
        assert found.steps[0] == LookUpUser(user=user or "worker", groups=tuple(expected.split()))
        assert f"groups: {', '.join(expected.split())} too" in found.notes
    with pytest.raises(InvalidConfig, match="zero byte"):
        ContainerConfig(groups=("a\0b",))


def test_the_environment_each_winning_over_the_former() -> None:
    image = ImageRuntime(env=("A=image", "B=image", "PATH=/image"))
    assert executed(image, env=("B=request",), command=("x",)).environment == (
        "PATH=/image",
        f"HOSTNAME={NAME[:12]}",
        "A=image",
        "B=request",
    )


def test_a_default_path_r_33() -> None:
    assert executed(NOTHING, command=("x",)).environment == (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"HOSTNAME={NAME[:12]}",
    )


def test_an_images_odd_environment_is_left_out_and_told() -> None:
    image = ImageRuntime(env=("GOOD=1", "novalue", "=x", "Z=\0"))
    found = prepare("image/runtime", host(Path("/h")), image=image)
    assert [entry for entry in found.steps[-1].environment] == ["GOOD=1"]  # type: ignore[union-attr]
    assert len(found.warnings) == 3


def test_an_images_directory_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="zero byte"):
        prepare("image/runtime", host(Path("/h")), image=ImageRuntime(workdir="/a\0b"))


def test_an_init_stays_if_asked() -> None:
    assert executed(COMMAND, init=True).init
    assert not executed(COMMAND).init


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("", signal.SIGTERM),
        ("TERM", signal.SIGTERM),
        ("SIGQUIT", signal.SIGQUIT),
        ("sigusr1", signal.SIGUSR1),
        ("9", 9),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMIN", signal.SIGRTMIN),
    ],
)
def test_the_stop_signal(word: str, number: int) -> None:
    assert stop_signal(ContainerConfig(), ImageRuntime(stop_signal=word)) == number
    assert stop_signal(ContainerConfig(stop_signal="INT"), ImageRuntime(stop_signal=word)) == signal.SIGINT


@pytest.mark.parametrize(
    "word", ["SIGTREM", "0", "65", "-1", "\u0663", "RTMIN+99", "RTMIN+", "1e1", "TERM\n"]
)
def test_a_word_that_is_no_signal_is_refused(word: str) -> None:
    with pytest.raises(InvalidConfig, match="no signal is called"):
        prepare("image/runtime", host(Path("/h")), image=ImageRuntime(stop_signal=word))


def test_it_needs_no_companion(tmp_path: Path) -> None:
    plan = LaunchPlan.compose(
        NAME, [("image/runtime", isolator("image/runtime", host(tmp_path)).prepare(container()))]
    )
    assert plan.execute.arguments == ("true",)
