"""The explanation of a fixed plan, as text to the last character: made from the plan and nothing else."""

from __future__ import annotations

import base64
import time

import msgspec
import pytest

from mesocosm.explanation import Explanation, Refusal
from mesocosm.frontends.cli.plan_text import render
from mesocosm.linux.capabilities import mask
from mesocosm.model import ImageIdentity
from mesocosm.plan import AllowDevices, Contribution, LaunchPlan, MakeCgroup, WriteCgroup
from mesocosm.plan import operations as op

CAPABILITIES = mask(["CHOWN", "KILL"])
PLAN = LaunchPlan.compose(
    "c0ffee",
    [
        ("launch", Contribution(host=(MakeCgroup(controller="tree"),))),
        (
            "filesystem/linux",
            Contribution(
                namespaces=("mnt",),
                steps=(
                    op.OverlayRoot(layers=("/l",), upper="/u", work="/w"),
                    op.MountFilesystem(fstype="proc", target="/proc", flags=("nosuid", "nodev", "noexec")),
                    op.MaskPath(target="/proc/kcore"),
                    op.EnterRoot(),
                ),
                notes=("root: 1 layer, writable",),
            ),
        ),
        (
            "cgroups/mem",
            Contribution(
                host=(
                    MakeCgroup(controller="memory"),
                    WriteCgroup(controller="memory", file="memory.max", value="67108864"),
                    AllowDevices(rules=("c 1:3 rwm", "c 1:5 rwm")),
                ),
                notes=("memory limit: 64 MiB",),
            ),
        ),
        (
            "linux/capabilities",
            Contribution(
                steps=(op.SetCapabilities(bounding=CAPABILITIES, permitted=0, effective=0),),
                notes=("capabilities: 2 of 41",),
            ),
        ),
        (
            "linux/seccomp",
            Contribution(
                steps=(
                    op.NoNewPrivileges(),
                    op.LoadFilter(
                        program=base64.b64encode(bytes(24)).decode(), summary="3 allowed, 1 denied"
                    ),
                ),
            ),
        ),
        (
            "image/runtime",
            Contribution(
                steps=(
                    op.Execute(arguments=("sh", "-c", "echo \x1b[1m"), environment=("PATH=/bin", "A=b c")),
                ),
                notes=("user: 0",),
            ),
        ),
    ],
)
IMAGE = ImageIdentity(
    reference="docker://docker.io/library/debian:12",
    digest="sha256:abc",
    platform="linux/amd64",
    layers=("sha256:1", "sha256:2"),
)

GOLDEN = """\
IMAGE
  reference   docker://docker.io/library/debian:12
  digest      sha256:abc
  platform    linux/amd64
  layers      2

ISOLATION
  filesystem/linux     root: 1 layer, writable
  cgroups/mem          memory limit: 64 MiB
  linux/capabilities   capabilities: 2 of 41
  linux/seccomp        nothing asked for
  image/runtime        user: 0

NAMESPACES
  made together with the first process: mnt

ON THE HOST, before the first process is made
  1  make the container's tree cgroup
  2  make the container's memory cgroup
  3  write 67108864 to memory:memory.max
  4  refuse all devices but 2 rule(s): c 1:3 rwm, c 1:5 rwm

IN THE FIRST PROCESS, in this order
  1  root        filesystem/linux    mount the root: a writable overlay of 1 layer(s)
  2  filesystem  filesystem/linux    mount proc on /proc (nosuid, nodev, noexec)
  3  mask        filesystem/linux    hide /proc/kcore
  4  enter       filesystem/linux    make the root this process' root and let the host's go
  5  identity    linux/capabilities  keep 2 capabilities (bounding set 0000000000000021)
  6  identity    linux/seccomp       give up gaining privileges through set-user-ID programs
  7  gate        launch              wait for the start
  8  filter      linux/seccomp       load the system call filter: 3 allowed, 1 denied
  9  exec        image/runtime       execute sh

SYSTEM CALL FILTER
  with the capabilities chown, kill
  3 allowed, 1 denied; 3 instructions, loaded last

COMMAND
  sh -c 'echo \\x1b[1m'

ENVIRONMENT
  PATH=/bin
  A=b c

WHAT WILL NOT BE HAD HERE
  cgroups/pids  this host has no pids controller (boot with it)"""


def test_a_fixed_plan_as_text() -> None:
    refusals = (Refusal("cgroups/pids", "this host has no pids controller (boot with it)"),)
    assert render(Explanation(image=IMAGE, plan=PLAN, refusals=refusals)) == GOLDEN


def test_the_age_of_what_a_name_means() -> None:
    """Of an image; a directory is looked at when the container starts."""
    image = msgspec.structs.replace(IMAGE, checked_at=time.time() - 3 * 86400 - 60)
    assert "  checked     3 days ago" in render(Explanation(image=image, plan=PLAN)).splitlines()
    directory = msgspec.structs.replace(image, digest=None)
    assert "checked" not in render(Explanation(image=directory, plan=PLAN))


def test_colour_adds_nothing_but_colour() -> None:
    import re  # noqa: PLC0415

    painted = render(Explanation(image=IMAGE, plan=PLAN), lambda text, _: f"\x1b[1m{text}\x1b[0m")
    plain = render(Explanation(image=IMAGE, plan=PLAN))
    assert re.sub(r"\x1b\[[01]m", "", painted) == plain


def test_every_step_of_the_plan_is_a_line_of_its_own() -> None:
    lines = render(Explanation(image=None, plan=PLAN)).splitlines()
    for step, origin in zip(PLAN.steps, PLAN.origins, strict=True):
        phase = step.phase.name.lower().replace("_", " ")
        assert any(step.describe() in line and origin in line and phase in line for line in lines)


@pytest.mark.parametrize("words", ["none: the host's own file system", "nothing is missing"])
def test_no_image_and_no_refusal_are_said(words: str) -> None:
    assert words in render(Explanation(image=None, plan=PLAN))
