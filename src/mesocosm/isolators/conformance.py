"""What every isolator must hold to, as tests: shipped, so that yours can be held to it too.

Subclass it in a module that pytest collects, as root on a machine with cgroups:

    from mesocosm import host_steps
    from mesocosm.isolators.conformance import IsolatorConformance

    class TestScratch(IsolatorConformance):
        isolator = Scratch
        apply = staticmethod(host_steps.apply)

``config`` says what to prepare for, ``updates`` which limits to move between, ``refusal`` how to make the
kernel refuse one.  The kernel is observed before and after; calls are not counted.

Cgroups made by ``MakeCgroup`` steps and files in the container's own directories are the containerizer's to
remove.  Everything else that an isolator made is its own to give back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from mesocosm.errors import MesocosmError
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.host import Host
from mesocosm.linux.cgroups import CgroupTree
from mesocosm.model import ContainerConfig, ContainerID, Resources, Usage
from mesocosm.paths import Paths
from mesocosm.plan import Contribution, HostAction, LaunchPlan, RootStep, WriteHostFile
from mesocosm.plan.operations import Execute, OverlayRoot

PAYLOAD = Contribution(steps=(Execute(arguments=("true",)),))
TURNS = 20  # of the event loop, in which a watch gets to its wait


class IsolatorConformance:
    """The suite.  ``isolator`` and ``apply`` must be given, the rest may be."""

    isolator: ClassVar[type[Isolator]]

    config: ClassVar[ContainerConfig] = ContainerConfig(image="host", command=("true",))
    """The request to prepare for; its image decides whether there is a root."""

    refused: ClassVar[ContainerConfig | None] = None
    """A request that ``prepare`` must refuse."""

    updates: ClassVar[tuple[Resources, Resources] | None] = None
    """Lower and higher limits that ``usage`` shows; None for an isolator without limits."""

    host: Host

    def setup_method(self) -> None:
        """A host of the test's own: directories and a parent cgroup that nobody else uses."""
        self._directory = Path(tempfile.mkdtemp(prefix="mesocosm-conformance-"))
        paths = Paths(self._directory / "root", self._directory / "run")
        self.host = msgspec.structs.replace(Host.probe(paths), cgroups=CgroupTree.detect(self.parent()))
        self._before = self.observe()

    def teardown_method(self) -> None:
        """Remove what a failed test left."""
        for container in self.host.cgroups.list():
            asyncio.run(self.host.cgroups.remove(container))
        self.host.cgroups.remove_parent()
        shutil.rmtree(self._directory)

    @staticmethod
    def apply(steps: Iterable[HostAction], container: ContainerID, host: Host, /) -> None:
        """``mesocosm.host_steps.apply``: what the containerizer does between prepare and fork."""
        raise NotImplementedError("set apply = staticmethod(mesocosm.host_steps.apply)")

    # ── for subclasses ──────────────────────────────────────────────────────────────────────────────────

    def parent(self) -> str:
        """The name of the cgroup below which this test's containers live."""
        return f"mesocosm-test-{os.getpid():x}"

    def root(self) -> RootStep:
        """How the root is assembled, for requests with an image; nothing is mounted here."""
        return OverlayRoot(layers=("/",), upper="/upper", work="/work")

    def refusal(self, container: ContainerID) -> Resources | None:
        """Bring ``container`` into a state where the kernel refuses the limits returned; None when it never
        does.
        """
        del container
        return None

    def limits(self, container: ContainerID) -> Mapping[str, Any]:
        """The limits in force, as the kernel shows them."""
        usage = msgspec.to_builtins(asyncio.run(self.fresh().usage(container)))
        return {key: value for key, value in usage.items() if key.endswith(("_limit", "_shares"))}

    def observe(self) -> frozenset[str]:
        """Everything an isolator could leave behind here, one printable fact each."""
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        cgroups = (f"cgroup {name}" for name in self.host.cgroups.list())
        files = (str(path) for path in self._directory.rglob("*"))
        return frozenset((*mounts, *cgroups, *files, *_descriptors()))

    # ── prepare ─────────────────────────────────────────────────────────────────────────────────────────

    def test_it_has_a_name_of_two_parts(self) -> None:
        """As in ``cgroups/cpu``: the first groups, the second names."""
        _hold(len(self.isolator.name.split("/")) == 2, f"{self.isolator.name!r} has not two parts")
        _hold(self.isolator.name not in self.isolator.requires, "it requires itself")

    def test_creating_touches_nothing(self) -> None:
        """An instance is made at agent start, for containers yet unknown."""
        self.fresh()
        self.assert_as_found()

    def test_prepare_changes_nothing_on_the_host(self) -> None:
        """``explain`` calls it too, for containers that will never be."""
        self.fresh().prepare(self.container())
        self.assert_as_found()

    def test_prepare_twice_is_equal(self) -> None:
        """Also from another instance, as after a restart: there is nothing random in it."""
        isolator, container = self.fresh(), self.container()
        first = isolator.prepare(container)
        _hold(isolator.prepare(container) == first, "the same instance prepared something else")
        _hold(self.fresh().prepare(container) == first, "another instance prepared something else")

    def test_prepare_names_things_by_the_id(self) -> None:
        """Two containers never share what is written on the host's side."""
        isolator = self.fresh()
        one, other = (isolator.prepare(self.container(name)) for name in ("one", "other"))
        named = [_written_files(found) for found in (one, other)]
        _hold(not named[0] & named[1], f"two containers write the same files: {named[0] & named[1]}")

    def test_the_contribution_composes_and_survives_json(self) -> None:
        """Values only: what was recorded is what was prepared."""
        plan = self.plan(self.fresh().prepare(self.container()))
        _hold(LaunchPlan.from_json(plan.to_json()) == plan, "the plan is another one after JSON")
        _hold(all(step.describe() for step in (*plan.host, *plan.steps)), "a step does not describe itself")

    def test_notes_are_a_subject_and_a_value(self) -> None:
        """One short line each, for the table that people see."""
        found = self.fresh().prepare(self.container())
        for note in found.notes:
            subject, colon, value = note.partition(": ")
            _hold(bool(subject and colon and value) and "\n" not in note, f"note {note!r}")
        _hold(not any("\n" in warning for warning in found.warnings), "a warning has several lines")

    def test_a_refused_request_is_refused_in_one_line_and_leaves_nothing(self) -> None:
        """Cleanup comes after a failed prepare too."""
        if self.refused is None:
            return
        try:
            self.fresh().prepare(self.container(config=self.refused))
        except MesocosmError as error:
            _hold(bool(str(error)) and "\n" not in str(error), f"{error!s:.200} is not one line")
        else:
            raise AssertionError(f"{self.isolator.name} did not refuse {self.refused}")
        asyncio.run(self.fresh().cleanup(self.container().id))
        self.assert_as_found()

    # ── the whole way ───────────────────────────────────────────────────────────────────────────────────

    def test_what_was_applied_is_given_back(self) -> None:
        """prepare, host steps, cleanup: the host is as found."""
        container = self.applied()
        self.give_back(container)
        self.assert_as_found()

    def test_host_steps_may_be_applied_twice(self) -> None:
        """A crash between applying and recording leaves that to recovery."""
        container = self.applied()
        once = self.observe()
        self.applied()
        _hold(self.observe() == once, "the second time made something else")
        self.give_back(container)
        self.assert_as_found()

    def test_cleanup_twice(self) -> None:
        """The second one has nothing to do."""
        container = self.applied()
        self.give_back(container)
        self.give_back(container)
        self.assert_as_found()

    def test_cleanup_of_a_half_prepared_container(self) -> None:
        """Interrupted before, between and after the host steps."""
        steps = self.plan(self.fresh().prepare(self.container())).host
        for count in range(len(steps) + 1):
            container = self.container().id
            self.apply(steps[:count], container, self.host)
            self.give_back(container)
        self.assert_as_found()

    def test_cleanup_of_a_container_never_seen(self) -> None:
        """After a crash nobody knows how far a launch had come."""
        asyncio.run(self.fresh().cleanup(ContainerID.parse("never-seen")))
        self.assert_as_found()

    def test_recover_changes_nothing_on_healthy_containers(self) -> None:
        """An agent restart is not noticed."""
        container = self.applied()
        before, limits = self.observe(), self.limits(container)
        asyncio.run(self.fresh().recover([self.container()], []))
        _hold(self.observe() == before, "it left something open or made something")
        _hold(self.limits(container) == limits, "recover changed limits")
        self.give_back(container)

    # ── while it runs ───────────────────────────────────────────────────────────────────────────────────

    def test_readings_of_a_container_that_is_gone(self) -> None:
        """Statistics are asked for while containers end."""
        gone = ContainerID.parse("gone")
        _hold(asyncio.run(self.fresh().usage(gone)) == Usage(), "usage of nothing")
        _hold(not asyncio.run(self.fresh().status(gone)), "a status of nothing")

    def test_readings_leave_nothing_open(self) -> None:
        """They are asked for every second."""
        container = self.applied()
        before = self.observe()
        asyncio.run(self.fresh().usage(container))
        asyncio.run(self.fresh().status(container))
        _hold(self.observe() == before, "it left something open or made something")
        self.give_back(container)

    def test_a_watch_waits_and_survives_being_cancelled(self) -> None:
        """Nothing was reached, so it does not return; cancelled and called again it still waits."""
        container = self.applied()
        before = self.observe()
        asyncio.run(self._watch_twice(self.fresh(), container))
        _hold(self.observe() == before, "it left something open or made something")
        self.give_back(container)

    def test_a_watch_of_a_container_that_is_gone_waits_too(self) -> None:
        """Its end is somebody else's to tell."""
        asyncio.run(self._watch_twice(self.fresh(), ContainerID.parse("gone")))
        self.assert_as_found()

    def test_nothing_was_reached_by_a_container_that_did_nothing(self) -> None:
        """Nor by one that is gone; the answer comes at once."""
        container = self.applied()
        for asked in (container, ContainerID.parse("gone")):
            found = asyncio.run(self.fresh().reached(asked))
            _hold(found is None, f"{asked}: {found}")
        self.give_back(container)

    def test_updates_go_up_and_down(self) -> None:
        """The kernel shows each limit after it was set, and none after it was lifted (GAP-4)."""
        if self.updates is None:
            return
        lower, higher = self.updates
        container = self.applied(msgspec.structs.replace(self.config, resources=lower))
        low = self.limits(container)
        high = self._updated(container, higher)
        _hold(high != low, "a higher limit does not show")
        _hold(self._updated(container, lower) == low, "the lower limit is not back")
        _hold(self._updated(container, Resources()) not in (low, high), "a limit was not lifted")
        self.give_back(container)

    def test_a_refused_update_keeps_the_old_limits(self) -> None:
        """All or nothing."""
        if self.updates is None:
            return
        container = self.applied(msgspec.structs.replace(self.config, resources=self.updates[0]))
        resources = self.refusal(container)
        if resources is not None:
            before = self.limits(container)
            try:
                asyncio.run(self.fresh().update(container, resources))
            except MesocosmError as error:
                _hold("\n" not in str(error), f"{error!s:.200} is not one line")
            else:
                raise AssertionError("the kernel did not refuse")
            _hold(self.limits(container) == before, "a refused update changed limits")
        self.give_back(container)

    def test_an_update_of_a_container_that_is_gone_makes_nothing(self) -> None:
        """It says so, or has nothing to do."""
        try:
            asyncio.run(self.fresh().update(ContainerID.parse("gone"), Resources(memory=1 << 30, pids=9)))
        except MesocosmError as error:
            _hold("gone" in str(error), f"{error} does not name the container")
        self.assert_as_found()

    # ── what the tests are made of ──────────────────────────────────────────────────────────────────────

    def fresh(self) -> Isolator:
        """A new instance, which remembers nothing."""
        return self.isolator.create(self.host)

    def container(self, name: str = "conformance", config: ContainerConfig | None = None) -> Container:
        """A container with the suite's request."""
        config = config or self.config
        root = self.root() if config.image is not None else None
        return Container(id=ContainerID.parse(name), config=config, root=root)

    def plan(self, contribution: Contribution) -> LaunchPlan:
        """The launch plan with this contribution in it."""
        executes = any(isinstance(step, Execute) for step in contribution.steps)
        payload = [] if executes else [("payload", PAYLOAD)]
        return LaunchPlan.compose("conformance", [(self.isolator.name, contribution), *payload])

    def applied(self, config: ContainerConfig | None = None) -> ContainerID:
        """A container whose host steps are done: what the kernel sees of it before the fork."""
        container = self.container(config=config)
        for directory in (self.host.paths.container(container.id).state, self.host.paths.running):
            directory.mkdir(parents=True, exist_ok=True)
        plan = self.plan(self.fresh().prepare(container))
        self.apply(plan.host, container.id, self.host)
        return container.id

    def give_back(self, container: ContainerID) -> None:
        """The isolator's cleanup, then the containerizer's."""
        asyncio.run(self.fresh().cleanup(container))
        asyncio.run(self.host.cgroups.remove(str(container)))
        for directory in (self.host.paths.root, self.host.paths.runtime):
            shutil.rmtree(directory, ignore_errors=True)

    def assert_as_found(self) -> None:
        """Nothing is there that was not there, and nothing is gone."""
        now = self.observe()
        _hold(now == self._before, f"left: {now - self._before}, gone: {self._before - now}")

    def _updated(self, container: ContainerID, resources: Resources) -> Mapping[str, Any]:
        asyncio.run(self.fresh().update(container, resources))
        return self.limits(container)

    async def _watch_twice(self, isolator: Isolator, container: ContainerID) -> None:
        for _ in range(2):
            task = asyncio.ensure_future(_whole(isolator.watch(container)))
            for _ in range(TURNS):
                await asyncio.sleep(0)
            _hold(not task.done(), f"the watch returned: {task}")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            _hold(task.cancelled(), "the watch swallowed its cancellation")


def _hold(fact: bool, otherwise: str) -> None:
    """An assertion that ``python -O`` leaves in."""
    if not fact:
        raise AssertionError(otherwise)


async def _whole(watch: Coroutine[Any, Any, object]) -> object:
    return await watch


def _written_files(contribution: Contribution) -> set[str]:
    return {step.path for step in contribution.host if isinstance(step, WriteHostFile)}


def _descriptors() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own descriptor
            found.append(f"descriptor {path.name} -> {path.readlink()}")
    return found
