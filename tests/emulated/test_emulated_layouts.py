"""Pure cgroup v2 and pure cgroup v1, on Debian's kernel, in emulated machines: fixtures/machine.py.

Each machine boots once and runs parts of the test suite; here is looked at what became of each part.  Nothing
may be skipped there but for what the other layout alone has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from fixtures.machine import Answer, CgroupLayout, Machine

LAYOUTS: tuple[CgroupLayout, ...] = ("v2", "v1")

EVERYWHERE = (
    "tests/kernel/test_container_limits.py",
    "tests/kernel/test_cgroups.py",
    "tests/conformance/test_isolators_conform.py::TestCpu",
    "tests/conformance/test_isolators_conform.py::TestMemory",
    "tests/conformance/test_isolators_conform.py::TestPids",
    "tests/conformance/test_isolators_conform.py::TestDevices",
)
OLD_KERNEL = (
    "tests/kernel/test_mounts.py::test_detached_mounts_are_layers",
    "tests/kernel/test_mounts.py::test_detached_mounts_are_layers_in_one_string",
    "tests/kernel/test_mounts.py::test_a_writable_view_of_the_whole_root",
    "tests/kernel/test_mounts.py::test_overlay_of_many_layers",
    "tests/kernel/test_mounts.py::test_no_character_of_a_path_means_anything",
)
"""What an old kernel does another way, whatever its cgroups; run on one of the machines."""

PARTS: dict[CgroupLayout, tuple[str, ...]] = {"v2": (*EVERYWHERE, *OLD_KERNEL), "v1": EVERYWHERE}

LACKING = {
    "v2": re.compile(
        r"this host has no (v1 [a-z ]+|freezer\.state)|one hierarchy only: nothing to leave for"
    ),
    "v1": re.compile(r"this host has no (v2 [a-z0-9 ]+|cgroup\.freeze)"),
}
"""Why a test may be skipped on each."""

OPTIONS = ("-q", "--color=no", "--durations=20")

POWER_OFF = 720
"""Seconds until a machine that has not answered is switched off; it takes one or two minutes."""

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(3 * POWER_OFF)]


class Case(NamedTuple):
    """One test as the guest's report has it; ``place`` is its dotted module, class and name."""

    place: str
    failure: str
    skipped: str


class Report:
    """What one machine said."""

    def __init__(self, answer: Answer) -> None:
        self.console = answer.console
        self.cases = list(_cases(answer.text)) if answer.text else []

    def of(self, part: str) -> list[Case]:
        """The tests of a module, a class in one, or one test with all its parameters."""
        dotted = part.replace(".py", "").replace("/", ".").replace("::", ".")
        return [
            case
            for case in self.cases
            if re.match(re.escape(dotted) + r"[.\[]|" + re.escape(dotted) + r"\Z", case.place)
        ]

    @property
    def last_words(self) -> str:
        """The end of what was printed."""
        return self.console[-3000:]


def _cases(text: str) -> Iterator[Case]:
    for case in ElementTree.fromstring(text).iter("testcase"):
        failures = [found for kind in ("failure", "error") for found in case.findall(kind)]
        skipped = case.find("skipped")
        yield Case(
            place=f"{case.get('classname')}.{case.get('name')}",
            failure="\n".join(found.text or "" for found in failures),
            skipped="" if skipped is None else skipped.get("message", "?"),
        )


@pytest.fixture(scope="session")
def reports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[CgroupLayout, Report]:
    """The reports of the machines that any selected test asks for; they run side by side."""
    names = [item.name for item in request.session.items if "reports" in getattr(item, "fixturenames", ())]
    folder = tmp_path_factory.mktemp("emulated")
    with ExitStack() as stack:
        running = {
            layout: stack.enter_context(Machine(layout, folder / layout, (*OPTIONS, *PARTS[layout])))
            for layout in LAYOUTS
            if any(f"[{layout}" in name for name in names)
        }
        return {layout: Report(machine.wait(POWER_OFF)) for layout, machine in running.items()}


@pytest.mark.parametrize(("layout", "part"), [(layout, part) for layout in LAYOUTS for part in PARTS[layout]])
def test_passes_there(layout: CgroupLayout, part: str, reports: dict[CgroupLayout, Report]) -> None:
    """Every test of the part passed in the machine, or was about the other layout."""
    report = reports[layout]
    cases = report.of(part)
    assert cases, f"no report of {part}; the machine's last words:\n{report.last_words}"
    failed = [case for case in cases if case.failure]
    listed = "\n\n".join(f"{case.place}\n{case.failure}" for case in failed)
    assert not failed, f"{len(failed)} of {len(cases)} failed on cgroup {layout}:\n{listed}"
    skipped = [case.skipped for case in cases if case.skipped]
    assert [why for why in skipped if not LACKING[layout].fullmatch(why)] == []
    assert len(skipped) < len(cases)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_machine_was_what_it_was_to_be(layout: CgroupLayout, reports: dict[CgroupLayout, Report]) -> None:
    """Its kernel and layout, as it told them itself."""
    assert re.search(rf"guest: Linux 6\.1\.\S+, cgroup {layout}, ", reports[layout].console)
    assert "Kernel panic" not in reports[layout].console
    assert "BUG:" not in reports[layout].console
