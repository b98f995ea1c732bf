"""What the tests of a backend are made of: the backend in a world of the test's own, and roots by it."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from mesocosm.errors import Unsupported
from mesocosm.images.backends.base import Backend
from mesocosm.images.conformance.assembled import assembled, differences, seen
from mesocosm.images.conformance.facts import Observed, changed, files, hold
from mesocosm.images.conformance.layers import LAYERS, ONE, STACKS, Layer, Tree
from mesocosm.images.conformance.world import World
from mesocosm.images.documents import LAYER_LIMIT
from mesocosm.images.mapped_layers import try_layers
from mesocosm.images.wish import Wish
from mesocosm.model import RootChanges
from mesocosm.model.idmap import IDMap
from mesocosm.plan import RootStep
from mesocosm.plan.operations import OverlayRoot


class GivenBackend:
    """One backend, in an empty store.  ``backend`` must be given, the rest where it is another."""

    backend: ClassVar[type[Backend]]

    takes: ClassVar[range] = range(LAYER_LIMIT + 1)
    """How many layers it makes a root of; it has to refuse all others."""

    writable: ClassVar[bool] = True
    """Whether a container may change its root, where that is not to be read-only."""

    copies: ClassVar[bool] = False
    """Whether each root is a tree of its own: also one that is to be read-only takes mount points then, until
    the plan makes it read-only.
    """

    folder: Path
    """A directory of the test's own, gone afterwards."""

    world: World

    def setup_method(self) -> None:
        """A store of the test's own, with nothing in it."""
        self.folder = Path(tempfile.mkdtemp(prefix="mesocosm-conformance-")).resolve()
        self.world = World(self.folder / "world")

    def teardown_method(self) -> None:
        """Remove it, and what a failed test left."""
        self.world.close()
        shutil.rmtree(self.folder)

    def fresh(self) -> Backend:
        """A new instance."""
        return self.backend(self.world.context())

    def layers(self) -> tuple[Layer, ...]:
        """As many of `LAYERS` as it takes."""
        return LAYERS if len(LAYERS) in self.takes else ONE

    def stacks(self) -> Iterator[tuple[str, tuple[Layer, ...]]]:
        """Of `STACKS` those that it takes."""
        yield from ((what, layers) for what, layers in STACKS.items() if len(layers) in self.takes)

    def root(
        self,
        layers: tuple[Layer, ...],
        *,
        read_only: bool = False,
        idmap: IDMap | None = None,
        name: str = "one",
        keep: bool = False,
    ) -> RootStep:
        """The root of a container called ``name``, by a new instance."""
        image = self.world.image(layers, self.backend.form)
        wish = self.wish(name, read_only=read_only, idmap=idmap, keep=keep)
        return self.world.root(self.fresh(), image, wish)

    def wish(
        self, name: str, *, read_only: bool = False, idmap: IDMap | None = None, keep: bool = False
    ) -> Wish:
        """What is asked for a container called ``name``, beside its image."""
        scratch = self.world.scratch(name)
        return Wish(scratch, read_only, RootChanges(str(scratch)) if keep else None, idmap)

    def put_away(self, *names: str) -> None:
        """These containers have ended, and nobody needs a layer."""
        for name in names:
            self.world.end(self.world.scratch(name))
        self.world.trim()
        self.world.restart()
        left = [str(path) for path in self.world.containers.iterdir()]
        hold(not left, f"left beside the container's directory: {left}")

    @contextlib.contextmanager
    def trial(self, name: str) -> Iterator[Path]:
        """A directory to try things in."""
        place = self.world.folder / name
        place.mkdir(mode=0o700)
        try:
            yield place
        finally:
            self.world.end(place)

    def observed(self) -> Observed:
        """Everything that a backend could leave behind or change here."""
        return Observed.now(self.world.folder, (self.world.paths.root, self.world.paths.runtime))

    def hold_as(self, before: Observed) -> None:
        """Everything is as it was."""
        hold(not (said := before.changes(self.observed())), "\n".join(["it left something behind:", *said]))

    def shows(self, step: RootStep) -> bool:
        """Whether this host shows such a root: before Linux 5.19 no overlay of layers with mapped owners."""
        if not isinstance(step, OverlayRoot) or step.idmap is None or self._maps_layers():
            return True
        try:
            with assembled(step):
                raise AssertionError(f"{step.describe()}: this host has no such layers, and shows them")
        except OSError as error:
            hold(error.errno == errno.EINVAL, f"{step.describe()}: {error}")
        return False

    def _maps_layers(self) -> bool:
        with self.trial("mapping") as trial:
            try:
                try_layers(trial)
            except Unsupported:
                return False
        return True

    def hold_shown(self, step: RootStep, expected: Tree, what: str) -> None:
        """The root that a step stands for is that tree, where this host shows such roots."""
        if not self.shows(step):
            return
        with assembled(step) as root:
            hold(not (said := differences(seen(root), expected)), f"{what}:\n{said}")

    def hold_below(self, scratch: Path, act: Callable[[], object]) -> None:
        """Whatever is written meanwhile, it is written there."""
        before = files(self.world.folder)
        act()
        found = changed(before, files(self.world.folder))
        elsewhere = [path for path in found if Path(path) != scratch and scratch not in Path(path).parents]
        hold(not elsewhere, f"written to, outside of {scratch}: {elsewhere}")
