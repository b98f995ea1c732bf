"""Pure cgroup v2 and pure cgroup v1, and images, on the kernel of Debian 12 or on another one that is named.

fixtures/machine.py is the machine, fixtures/guest_kernel.py tells how to name a kernel.

Each machine boots once and runs parts of the test suite; here is looked at what became of each part.  Nothing
may be skipped there but for what the other layout alone has, and where no tool is there to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from fixtures.guest_kernel import GuestKernel
from fixtures.machine import Answer, CgroupLayout, Machine
from layer_table import ROWS

LAYOUTS: tuple[CgroupLayout, ...] = ("v2", "v1")

EVERYWHERE = (
    "tests/kernel/test_container_limits.py",
    "tests/kernel/test_cgroups.py",
    "tests/conformance/test_isolators_conform.py::TestCpu",
    "tests/conformance/test_isolators_conform.py::TestMemory",
    "tests/conformance/test_isolators_conform.py::TestPids",
    "tests/conformance/test_isolators_conform.py::TestDevices",
)
MOUNTS = (
    "tests/kernel/test_mounts.py::test_detached_mounts_are_layers",
    "tests/kernel/test_mounts.py::test_detached_mounts_are_layers_in_one_string",
    "tests/kernel/test_mounts.py::test_a_writable_view_of_the_whole_root",
    "tests/kernel/test_mounts.py::test_overlay_of_many_layers",
    "tests/kernel/test_mounts.py::test_no_character_of_a_path_means_anything",
    "tests/kernel/test_overlay_options.py",
)
UNTOLD = ("holes", "more than 4 GiB")
"""Rows that are about holes, of which EROFS tells nothing there: lseek(2) says that all is data."""

IMAGES = (
    *(
        f"tests/kernel/test_backend_table.py::test_every_backend_shows_what_the_table_says[here-{row}]"
        for row in ROWS
        if row not in UNTOLD and "huge" not in row  # which takes a minute even without emulation
    ),
    "tests/kernel/test_erofs.py::test_same_tree_as_gnu_tar[--format=posix-erofs-a]",
    "tests/kernel/test_erofs.py::test_torn_file_cannot_be_mounted",
    "tests/kernel/test_erofs.py::test_merged_is_what_a_stack_shows",
    "tests/kernel/test_layer_ways.py",
    "tests/kernel/test_merged_images.py",
    "tests/kernel/test_mapped_images.py::test_everybody_is_shifted_and_nothing_else[erofs-6]",
    "tests/kernel/test_mapped_images.py::test_two_mappings_share_each_layers_only_mount",
    "tests/kernel/test_owner_steps.py::test_mount_points_of_a_read_only_root_belong_to_the_mapped_root",
    "tests/kernel/test_provisioner.py::test_two_processes_worth_of_provisioners_share_a_store",
    "tests/kernel/test_provisioner.py::test_layers_stay_mounted_as_long_as_a_container_needs_them",
)
BACKENDS = (
    "tests/conformance/test_backends_held.py::TestErofs",
    "tests/conformance/test_backends_held.py::TestMerged",
    "tests/conformance/test_backends_held.py::TestOverlay",
    # Its others need a tmpfs that keeps user attributes (Linux 6.6).
    "tests/conformance/test_backends_held.py::TestCopy::test_it_shows_what_the_layers_say",
    "tests/conformance/test_backends_held.py::TestCopy::test_mapped_owners_are_shown_and_layers_keep_theirs",
    "tests/conformance/test_backends_held.py::TestCopy::test_what_one_container_changes_no_other_sees",
)
ROOTS = (
    "tests/conformance/test_backends_conform.py::test_a_read_only_root_is_the_same_tree_and_has_nowhere_for_changes",
    "tests/conformance/test_backends_conform.py::test_as_many_layers_as_overlayfs_takes_are_read_only_too[499]",
    "tests/conformance/test_backends_conform.py::test_i15_any_character_in_the_store_path",
    "tests/conformance/test_backends_conform.py::test_the_choice_is_made_by_trying_and_remembered",
    "tests/e2e/test_cli_lifecycle.py::test_doctor_finds_this_host_fit_and_leaves_nothing",
    "tests/e2e/test_host_view.py::test_every_place_of_the_exclusion_list_is_hidden",
    "tests/e2e/test_idmap_cli.py::test_every_backend[erofs-writable]",
    "tests/e2e/test_idmap_cli.py::test_every_backend[overlay-read-only]",
    "tests/e2e/test_read_only_cli.py::test_the_same_with_every_backend[erofs]",
    "tests/kernel/test_beneath.py::test_a_directory_gets_its_mode_without_proc",
    "tests/kernel/test_doctor_kernel.py",
    "tests/kernel/test_launch_attacks.py::test_r03_a_working_directory_of_a_further_process",
    "tests/kernel/test_doctor_storage.py::test_a_host_that_can_do_better_by_now_is_told_so",
    "tests/kernel/test_doctor_storage.py::test_loop_devices_are_told_of",
    "tests/kernel/test_read_only_roots.py::test_nothing_can_be_written_and_there_is_nowhere_to",
    "tests/kernel/test_read_only_roots.py::test_missing_mount_points_are_supplied",
    "tests/kernel/test_root_changes.py",
    "tests/kernel/test_scrub.py::test_every_flipped_bit_is_found_and_brought_back",
)
"""What an old kernel does another way, whatever its cgroups; run on one of the machines."""

PARTS: dict[CgroupLayout, tuple[str, ...]] = {
    "v2": (*EVERYWHERE, *IMAGES, *BACKENDS),
    "v1": (*EVERYWHERE, *MOUNTS, *ROOTS),
}

TOOLS = r"(fsck\.erofs|mkfs\.btrfs) is not installed: run scripts/install-test-tools"
"""Judges that the guest, Debian's base system, lacks; the rest of their tests' modules does without."""

LACKING = {
    "v2": re.compile(
        r"this host has no (v1 [a-z ]+|freezer\.state)|one hierarchy only: nothing to leave for|" + TOOLS
    ),
    "v1": re.compile(r"this host has no (v2 [a-z0-9 ]+|cgroup\.freeze)"),
}
"""Why a test may be skipped on each."""

OLDER = re.compile(
    r"this kernel (mounts no EROFS image of several files|overlays no layers with mapped owners)"
)
"""Why one may be skipped on a kernel that was named (fixtures/kernel.py), and be all of its part."""

OPTIONS = ("-q", "--color=no", "--durations=20")

POWER_OFF = 720
"""Seconds until a machine that has not answered is switched off; it takes two or three minutes."""

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(3 * POWER_OFF)]


class Case(NamedTuple):
    """One test as the guest's report has it; ``place`` is its dotted module, class and name."""

    place: str
    failure: str
    skipped: str


class Report:
    """What one machine said."""

    def __init__(self, kernel: GuestKernel, answer: Answer) -> None:
        self.kernel = kernel
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
        return {
            layout: Report(machine.kernel, machine.wait(POWER_OFF)) for layout, machine in running.items()
        }


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
    older = [why for why in skipped if report.kernel.chosen and OLDER.fullmatch(why)]
    assert [why for why in skipped if not LACKING[layout].fullmatch(why) and why not in older] == []
    assert len(skipped) < len(cases) or len(older) == len(cases)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_machine_was_what_it_was_to_be(layout: CgroupLayout, reports: dict[CgroupLayout, Report]) -> None:
    """Its kernel and layout, as it told them itself."""
    report = reports[layout]
    assert report.kernel.chosen or report.kernel.release.startswith("6.1.")
    assert f"guest: Linux {report.kernel.release}, cgroup {layout}, " in report.console
    assert "Kernel panic" not in report.console
    assert "BUG:" not in report.console
