"""What every backend must hold to, as tests; tests/conformance/test_backends_held.py holds ours to it.

Subclass it in a module that pytest collects, as root:

    from mesocosm.images.conformance import BackendConformance

    class TestFrozen(BackendConformance):
        backend = FrozenBackend
        writable = False

The directory for temporary files (``TMPDIR``) has to lie on ext4, xfs or btrfs.  Overlays with mapped owners
are looked at where the kernel has them (Linux 5.19), and held to be refused elsewhere.  A backend is asked as
a container's start asks it; the root that its step stands for is assembled, looked through, and compared with
what a plain model makes of the same layers.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mesocosm.errors import Denied, InvalidConfig, MesocosmError, Unsupported
from mesocosm.images.conformance.adversity import counted, dying, in_memory, on_overlay, without_mounting
from mesocosm.images.conformance.assembled import assembled, differences, seen
from mesocosm.images.conformance.changes import change, hold_changed, hold_refused
from mesocosm.images.conformance.facts import hold, hold_told, mounted
from mesocosm.images.conformance.given import GivenBackend
from mesocosm.images.conformance.layers import ONE, THEIRS, deep, mapped, stacked
from mesocosm.images.conformance.world import World
from mesocosm.images.documents import LAYER_LIMIT
from mesocosm.images.layers.store import Form
from mesocosm.images.store_faults import is_full
from mesocosm.images.wish import Wish
from mesocosm.model.idmap import parse_idmap
from mesocosm.plan import Contribution, LaunchPlan, RootStep
from mesocosm.plan.operations import Execute

MAP: Final = parse_idmap("uids=0:100000:65536;gids=0:200000:65536")
OTHER: Final = parse_idmap("0:300000:70000")
NARROW: Final = parse_idmap("0:100000:5")
CRASHES: Final = 8


class BackendConformance(GivenBackend):
    """The suite.  ``backend`` must be given, the rest where it is another."""

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────

    def test_it_says_what_it_is(self) -> None:
        """A name that can be written after ``--backend``, and how layers are to be kept."""
        name, form = self.backend.name, self.backend.form
        hold(name.isprintable() and name.split() == [name], f"{name!r} cannot be a word of a command line")
        hold(form in (Form.EROFS, Form.TREE), f"layers are not kept as {form!r}")
        hold(self.writable or not self.backend.keeps, "what cannot be changed has no changes to keep")

    # ── probing ─────────────────────────────────────────────────────────────────────────────────────────

    def test_this_host_can_and_probing_leaves_nothing(self) -> None:
        """But in the directory to try things in, which goes; by any number of commands."""
        before = self.observed()
        for number in range(2):
            with self.trial(f"trial-{number}") as trial:
                self.backend(self.world.context(trial)).probe()
        self.hold_as(before)

    def test_who_may_not_mount_is_told_in_words(self) -> None:
        """As Denied, in one line and with a hint: another process may, so the host can."""
        before = self.observed()
        with self.trial("trial") as trial, without_mounting():
            try:
                self.backend(self.world.context(trial)).probe()
            except Denied as error:
                hold_told(error)
        self.hold_as(before)

    def test_what_this_host_cannot_is_told_in_words(self) -> None:
        """As Unsupported, in one line and with a hint: here, what cannot be had in somebody's container."""
        before = self.observed()
        with self.trial("outer") as outer, on_overlay(outer) as trial:
            try:
                self.backend(self.world.context(trial)).probe()
            except Unsupported as error:
                hold_told(error)
        self.hold_as(before)

    def test_a_full_disk_is_nothing_that_this_host_cannot(self) -> None:
        """What probing finds is believed until the next boot; the disk may have room again in a minute."""
        with in_memory(self.world.folder / "memory", files=0) as trial:
            try:
                self.backend(self.world.context(trial)).probe()
            except Unsupported as error:
                raise AssertionError("a full disk is taken for a host that cannot") from error
            except (OSError, MesocosmError) as error:
                hold(is_full(error), f"{error!s:.200} does not come from the full disk")

    # ── the step ────────────────────────────────────────────────────────────────────────────────────────

    def test_a_preview_changes_nothing_and_says_what_root_will(self) -> None:
        """Also another instance, as ``explain`` in another process has."""
        for read_only in (False, True):
            for idmap in (None, MAP):
                image = self.world.image(self.layers(), self.backend.form)
                wish = self.wish(f"{read_only}-{idmap is None}", read_only=read_only, idmap=idmap)
                before = self.observed()
                preview = self.world.preview(self.fresh(), image, wish)
                self.hold_as(before)
                hold(not wish.scratch.exists(), "the preview made the container's directory")
                hold(self.world.preview(self.fresh(), image, wish) == preview, "two previews differ")
                step = self.world.root(self.fresh(), image, wish)
                hold(step == preview, f"root: {step}, preview: {preview}")

    def test_the_step_is_a_plans_first(self) -> None:
        """A value that survives JSON, and nothing that only the host's own root has."""
        step = self.root(self.layers())
        parts = [
            ("filesystem/linux", Contribution(namespaces=("mnt",), steps=(step,))),
            ("image/runtime", Contribution(steps=(Execute(arguments=("true",)),))),
        ]
        plan = LaunchPlan.compose("conformance", parts)
        hold(LaunchPlan.from_json(plan.to_json()) == plan, "the plan is another one after JSON")
        with assembled(step):
            pass

    # ── what is shown ───────────────────────────────────────────────────────────────────────────────────

    def test_it_shows_what_the_layers_say(self) -> None:
        """Whatever they do to each other, in roots of both kinds."""
        for what, layers in self.stacks():
            for read_only in (False, True):
                step = self.root(layers, read_only=read_only, name=f"{what}, {read_only}")
                self.hold_shown(step, stacked(layers), f"{what}, {read_only=}")

    def test_no_character_of_a_path_means_anything(self) -> None:
        """Neither to overlayfs nor to mount(8): ``:``, ``,``, ``\\`` and a space (I-15)."""
        self.world.close()
        self.world = World(self.folder / "a:b,c\\d e=f%")
        self.hold_shown(self.root(self.layers()), stacked(self.layers()), "odd paths")

    def test_the_containers_directory_may_lie_on_another_file_system(self) -> None:
        """Neither links nor shared blocks lead from the layers there."""
        image = self.world.image(deep(1), self.backend.form)
        with in_memory(self.world.folder / "memory", files=100, pages=100) as scratch:
            step = self.world.root(self.fresh(), image, Wish(scratch, read_only=False, changes=None))
            self.hold_shown(step, stacked(deep(1)), "in memory")

    def test_the_root_directory_is_open_to_everybody(self) -> None:
        """It is 0755 and belongs to root, or to whom root is mapped: no layer's describes it."""
        for name, idmap, owner in (("plain", None, (0, 0)), ("mapped", MAP, MAP.owner)):
            for read_only in (False, True):
                step = self.root(self.layers(), read_only=read_only, idmap=idmap, name=f"{name}-{read_only}")
                if not self.shows(step):
                    continue
                with assembled(step) as root:
                    found = root.stat()
                hold(found.st_mode & 0o7777 == 0o755, f"/ has mode {found.st_mode & 0o7777:o}, {read_only=}")
                hold((found.st_uid, found.st_gid) == owner, f"/ is {found.st_uid}'s, {name}, {read_only=}")

    def test_stacks_that_it_cannot_are_refused_in_words(self) -> None:
        """As Unsupported, before anything is done; by the preview, too."""
        for count in {self.takes.start - 1, self.takes.stop} & set(range(LAYER_LIMIT + 1)):
            image = self.world.image(deep(count), self.backend.form)
            wish = self.wish(str(count), read_only=True)
            before = self.observed()
            for ask in (self.world.preview, self.world.root):
                try:
                    ask(self.fresh(), image, wish)
                except Unsupported as error:
                    hold_told(error)
                else:
                    raise AssertionError(f"{count} layers were not refused")
            self.hold_as(before)

    # ── owners ──────────────────────────────────────────────────────────────────────────────────────────

    def test_mapped_owners_are_shown_and_layers_keep_theirs(self) -> None:
        """The next container has another mapping, or none."""
        for what, layers in self.stacks():
            for number, idmap in enumerate((MAP, OTHER, None)):
                step = self.root(layers, idmap=idmap, name=f"{number}-{what}", read_only=number > 0)
                expected = stacked(layers) if idmap is None else mapped(stacked(layers), idmap)
                self.hold_shown(step, expected, f"{what}, mapping {idmap and idmap.describe()}")

    def test_owners_that_the_mapping_lacks_are_nobody(self) -> None:
        """Or the root is refused as InvalidConfig, by a backend that has to write owners down."""
        try:
            step = self.root(THEIRS, idmap=NARROW)
        except InvalidConfig as error:
            hold_told(error)
            self.world.end(self.world.scratch())
            return
        self.hold_shown(step, mapped(stacked(THEIRS), NARROW), "a narrow mapping")

    # ── changes ─────────────────────────────────────────────────────────────────────────────────────────

    def test_a_root_takes_changes_and_puts_them_below_scratch(self) -> None:
        """Nowhere else: the layers are everybody's.  A backend without a place for changes refuses them."""
        step, scratch = self.root(ONE), self.world.scratch()
        with assembled(step) as root:
            if not self.writable:
                hold_refused(root)
                return
            self.hold_below(scratch, lambda: change(root))
            hold_changed(root)

    def test_a_read_only_root_takes_none(self) -> None:
        """Nor is there a directory for them; a copy's may be written to until the plan says otherwise."""
        step, scratch = self.root(ONE, read_only=True), self.world.scratch()
        hold(self.copies or not scratch.exists(), f"{scratch} is there for a read-only root")
        with assembled(step) as root:
            if self.copies:
                self.hold_below(scratch, lambda: change(root))
            else:
                hold_refused(root)

    def test_what_one_container_changes_no_other_sees(self) -> None:
        """Neither one that was there before, nor one that comes after."""
        with contextlib.ExitStack() as held:
            one, two = (held.enter_context(assembled(self.root(ONE, name=name))) for name in ("one", "two"))
            if not self.writable:
                hold_refused(one)
                return
            change(one)
            three = held.enter_context(assembled(self.root(ONE, name="three")))
            for root in (two, three):
                said = differences(seen(root), stacked(ONE))
                hold(not said, f"another root has changed:\n{said}")
            (two / "own").write_bytes(b"x")
            hold_changed(one)

    def test_kept_changes_are_there_again(self) -> None:
        """Where it ``keeps``: after the container's end, also with every layer mounted anew."""
        if not self.backend.keeps:
            return
        step = self.root(ONE, keep=True)
        with assembled(step) as root:
            change(root)
            left = seen(root)
        self.world.trim()
        self.world.restart()
        again = self.root(ONE, keep=True)
        hold(again == step, f"again: {again}, first: {step}")
        self.hold_shown(again, left, "again")

    # ── more than once ──────────────────────────────────────────────────────────────────────────────────

    def test_a_root_may_be_asked_for_again(self) -> None:
        """With the same directory, before anything was changed: whoever asked first may have died."""
        for read_only in (False, True):
            first, second = (self.root(ONE, read_only=read_only, name=str(read_only)) for _ in range(2))
            hold(first == second, f"first: {first}, second: {second}")
            self.hold_shown(second, stacked(ONE), f"the second time, {read_only=}")

    def test_an_interrupted_root_is_made_anew(self) -> None:
        """A process that dies anywhere on the way is no hindrance to the next one."""
        layers = self.layers()
        image = self.world.image(layers, self.backend.form)

        def make(name: str) -> RootStep:
            return self.world.root(self.fresh(), image, self.wish(name))

        steps = counted(lambda: make("whole"))
        for number in range(CRASHES):
            self.world.trim()
            self.world.restart()
            at = 1 + number * steps // CRASHES
            dying(at, lambda: make("interrupted"))
            self.hold_shown(make("interrupted"), stacked(layers), f"interrupted after {at} of {steps} calls")
            self.world.end(self.world.scratch("interrupted"))

    def test_a_full_disk_is_told_as_such_and_leaves_nothing(self) -> None:
        """Wherever the room ends."""
        image = self.world.image(self.layers(), self.backend.form)
        self.root(self.layers(), name="first")
        before = self.observed()
        for room in range(0, 12, 3):
            with in_memory(self.world.folder / "memory", room) as scratch:
                try:
                    self.world.root(self.fresh(), image, Wish(scratch, read_only=False, changes=None))
                except (OSError, MesocosmError) as error:
                    hold(is_full(error), f"{error!s:.200} does not come from the full disk")
            self.hold_as(before)

    def test_roots_are_made_side_by_side(self) -> None:
        """One instance serves every container of its process, in threads."""
        layers, backend = self.layers(), self.fresh()
        image = self.world.image(layers, backend.form)
        wishes = [self.wish(str(number)) for number in range(6)]
        with ThreadPoolExecutor(len(wishes)) as threads:
            steps = list(threads.map(lambda wish: self.world.root(backend, image, wish), wishes))
        for step, wish in zip(steps, wishes, strict=True):
            hold(step == self.world.preview(self.fresh(), image, wish), f"{step} is another container's")
            self.hold_shown(step, stacked(layers), "side by side")

    # ── what is left ────────────────────────────────────────────────────────────────────────────────────

    def test_nobody_else_reaches_what_it_prepares(self) -> None:
        """An image's set-user-ID programs are no way to become root for users of the host."""
        for read_only in (False, True):
            self.root(self.layers(), read_only=read_only, name=str(read_only))
            scratch = self.world.scratch(str(read_only))
            hold(not scratch.exists() or not scratch.stat().st_mode & 0o077, f"{scratch} is open to others")

    def test_all_goes_with_the_containers_directory(self) -> None:
        """No mount, loop device, descriptor, process or file is left: there is nobody to remove it."""
        self.root(self.layers(), name="first")
        self.root(self.layers(), name="second", read_only=True)
        self.put_away("first", "second")
        before = self.observed()
        for name, read_only, idmap in (("one", False, None), ("two", True, None), ("three", False, MAP)):
            step = self.root(self.layers(), read_only=read_only, idmap=idmap, name=name)
            here = [place for place in mounted() - before.mounts if str(self.world.paths.layers) not in place]
            hold(not here, f"in the host's mount table while the container lives: {here}")
            if self.shows(step):
                with assembled(step):
                    pass
        for _ in range(2):
            self.put_away("one", "two", "three")
            self.hold_as(before)
