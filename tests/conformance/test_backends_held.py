"""Our own backends, held to the suite that is shipped for those of others; the suite, to finding faults."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from mesocosm.errors import Denied, Unsupported
from mesocosm.images.backends.base import Backend, StackedLayer
from mesocosm.images.backends.bind import BindBackend
from mesocosm.images.backends.copy import CopyBackend
from mesocosm.images.backends.erofs import ErofsBackend
from mesocosm.images.backends.overlay import OverlayBackend
from mesocosm.images.conformance import BackendConformance
from mesocosm.linux import mounts
from mesocosm.model.idmap import IDMap, parse_idmap
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot, HostRoot, OverlayRoot


class TestErofs(BackendConformance):
    backend = ErofsBackend


class TestErofsByLoop(BackendConformance):
    """On a kernel that mounts block devices only."""

    backend = ErofsBackend

    @pytest.fixture(autouse=True)
    def _block_devices_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> int:
            raise OSError(errno.ENOTBLK, "Block device required")

        monkeypatch.setattr("mesocosm.images.layers.mounts.mount_files", refuse)


class TestMerged(BackendConformance):
    """Two layers are a deep stack: one file, with theirs as its devices."""

    backend = ErofsBackend

    @pytest.fixture(autouse=True)
    def _early(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mesocosm.images.image.DEEP", 1)


class TestOverlay(BackendConformance):
    backend = OverlayBackend


class TestCopy(BackendConformance):
    backend = CopyBackend
    copies = True


class TestBind(BackendConformance):
    """BK-3."""

    backend = BindBackend
    takes = range(1, 2)
    writable = False


class LeavesAMount(OverlayBackend):
    """Assembles the root itself, on the host."""

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        step = super().root(layers, scratch, read_only=False, idmap=None)
        if not isinstance(step, OverlayRoot):
            return step
        (scratch / "mounted").mkdir()
        fd = mounts.overlay(step.layers, upper=step.upper, work=step.work)
        mounts.attach_at(fd, str(scratch / "mounted"))
        os.close(fd)
        return BindRoot(source=str(scratch / "mounted"), read_only=read_only, idmap=idmap)


class LeavesAFile(OverlayBackend):
    """Puts it beside the container's directory, which is all that goes."""

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        scratch.with_name(f"{scratch.name}.lock").touch()
        return super().root(layers, scratch, read_only=read_only, idmap=idmap)


class LeavesADescriptor(OverlayBackend):
    open: ClassVar[list[int]] = []

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        self.open.extend(os.open(layer.content, os.O_PATH) for layer in layers)
        return super().root(layers, scratch, read_only=read_only, idmap=idmap)


class LeavesADescriptorWhenItFails(CopyBackend):
    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        LeavesADescriptor.open.append(os.open(scratch.parent, os.O_PATH))
        step = super().root(layers, scratch, read_only=read_only, idmap=idmap)
        os.close(LeavesADescriptor.open.pop())
        return step


class LinksFiles(CopyBackend):
    """Instead of copying them."""

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        step = super().root(layers, scratch, read_only=read_only, idmap=idmap)
        (scratch / "root/each").unlink()
        os.link(layers[0].content / "each", scratch / "root/each")
        return step


class ShowsWhiteouts(CopyBackend):
    """Copies every layer over the one before, and takes the overlay's signs for files."""

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mesocosm.images.backends.copy.is_whiteout", lambda status: False)
            return super().root(layers, scratch, read_only=read_only, idmap=idmap)


class ForgetsOpaqueDirectories(CopyBackend):
    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mesocosm.images.backends.copy.OPAQUE", "trusted.nothing")
            return super().root(layers, scratch, read_only=read_only, idmap=idmap)


class StacksUpsideDown(OverlayBackend):
    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        return super().preview(layers[::-1], scratch, read_only=read_only, idmap=idmap)


class TakesChangesAnyway(OverlayBackend):
    """Whatever was asked for."""

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        return super().preview(layers, scratch, read_only=False, idmap=idmap)


class LetsWriteToLayers(OverlayBackend):
    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        return BindRoot(source=str(layers[-1].content), read_only=read_only, idmap=idmap)


class SharesChanges(CopyBackend):
    """All containers have one copy."""

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        shared = scratch.with_name("shared")
        return super().preview(layers, shared, read_only=read_only, idmap=idmap)

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        shared = scratch.with_name("shared")
        if shared.exists():
            return self.preview(layers, scratch, read_only=read_only, idmap=idmap)
        return super().root(layers, shared, read_only=read_only, idmap=idmap)


class WorksOnce(OverlayBackend):
    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        if not read_only:
            (scratch / "mine").mkdir()
        return super().root(layers, scratch, read_only=read_only, idmap=idmap)


class BelievesWhatItFinds(CopyBackend):
    """A copy that is there is taken for a whole one."""

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        if (scratch / "root").exists():
            return self.preview(layers, scratch, read_only=read_only, idmap=idmap)
        return super().root(layers, scratch, read_only=read_only, idmap=idmap)


class OneAtATime(OverlayBackend):
    """Keeps in the instance what belongs to a call."""

    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        self._scratch = scratch
        self.all_here.wait()
        return super().root(layers, self._scratch, read_only=read_only, idmap=idmap)

    all_here: ClassVar[threading.Barrier] = threading.Barrier(6)


class ForgetsChanges(CopyBackend):
    keeps = True


class ChangesInAPreview(OverlayBackend):
    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        scratch.mkdir(parents=True, exist_ok=True)
        return super().preview(layers, scratch, read_only=read_only, idmap=idmap)


class PreviewsAnother(OverlayBackend):
    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        step = super().root(layers, scratch, read_only=read_only, idmap=idmap)
        return msgspec.structs.replace(step, volatile=False)


class ForgetsTheMapping(OverlayBackend):
    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        return super().preview(layers, scratch, read_only=read_only, idmap=None)


class MapsTheLayersThemselves(OverlayBackend):
    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        if idmap is not None and idmap.owner is not None:
            for path in (path for layer in layers for path in layer.content.glob("*e")):
                os.chown(path, *idmap.owner, follow_symlinks=False)
        return super().root(layers, scratch, read_only=read_only, idmap=idmap)


class WidensTheMapping(OverlayBackend):
    """Gives those whom the mapping lacks IDs that are nobody's to give."""

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        wide = None if idmap is None else parse_idmap("0:100000:65536")
        return super().preview(layers, scratch, read_only=read_only, idmap=wide)


class ClosesTheRoot(OverlayBackend):
    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        step = super().root(layers, scratch, read_only=read_only, idmap=idmap)
        if not read_only:
            (scratch / "upper").chmod(0o700)
        return step


class OpensTheDirectory(OverlayBackend):
    def root(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        step = super().root(layers, scratch, read_only=read_only, idmap=idmap)
        if not read_only:
            scratch.chmod(0o755)
        return step


class SplitsPaths(OverlayBackend):
    """As whoever writes mount options without escaping them."""

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        step = super().preview(layers, scratch, read_only=read_only, idmap=idmap)
        parts = tuple(part for path in getattr(step, "layers", ()) for part in path.split(":"))
        return msgspec.structs.replace(step, layers=parts)


class TakesAnyNumber(BindBackend):
    """Shows the uppermost of several layers, and says nothing."""

    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        return super().preview(layers[:1], scratch, read_only=read_only, idmap=idmap)


class LeavesAMountOfProbing(OverlayBackend):
    def probe(self) -> None:
        super().probe()
        fd = mounts.tmpfs(size=4096)
        mounts.attach_at(fd, str(self.context.trial))
        os.close(fd)


class SpeaksInNumbers(OverlayBackend):
    """Lets the kernel's answer through."""

    def probe(self) -> None:
        os.close(mounts.tmpfs(size=4096))


class TakesItsRightsForTheHosts(OverlayBackend):
    def probe(self) -> None:
        try:
            super().probe()
        except Denied as error:
            raise Unsupported(error.message, hint=error.hint) from error


class SaysNotWhatToDo(OverlayBackend):
    def probe(self) -> None:
        try:
            super().probe()
        except Unsupported as error:
            raise Unsupported(error.message) from error


class TakesAFullDiskForTheHost(OverlayBackend):
    def probe(self) -> None:
        try:
            super().probe()
        except OSError as error:
            raise Unsupported("there is no overlayfs here", hint="use another backend") from error


class HasANameOfTwoWords(OverlayBackend):
    name = "over lay"


class IsTheHostsRoot(OverlayBackend):
    def preview(
        self, layers: Sequence[StackedLayer], scratch: Path, *, read_only: bool, idmap: IDMap | None = None
    ) -> RootStep:
        place = str(scratch)
        return HostRoot(hidden=(), submounts=(), upper=place, work=place, idmap=idmap)


CHANGED = "test_a_root_takes_changes_and_puts_them_below_scratch"
LEFT = "test_all_goes_with_the_containers_directory"
SHOWN = "test_it_shows_what_the_layers_say"
OTHERS = "test_what_one_container_changes_no_other_sees"

FAULTS: dict[type[Backend], tuple[str, str]] = {
    LeavesAMount: (LEFT, "is mounted in .*/first: .*/first/mounted"),
    LeavesAFile: (LEFT, r"left beside .*first\.lock"),
    LeavesADescriptor: (LEFT, "left something behind:\ndescriptor"),
    LeavesADescriptorWhenItFails: (
        "test_a_full_disk_is_told_as_such_and_leaves_nothing",
        "left something behind:\ndescriptor",
    ),
    LinksFiles: ("test_the_containers_directory_may_lie_on_another_file_system", "cross-device"),
    ShowsWhiteouts: (SHOWN, "shown too: b'd/removed'"),
    ForgetsOpaqueDirectories: (SHOWN, "shown too: b'opaque/deep/hidden'"),
    StacksUpsideDown: (SHOWN, "b'd/replaced': .*b'old'"),
    TakesChangesAnyway: ("test_a_read_only_root_takes_none", "is there for a read-only root|was taken"),
    LetsWriteToLayers: (CHANGED, r"written to, outside of .*/trees/"),
    SharesChanges: (OTHERS, "another root has changed:"),
    WorksOnce: ("test_a_root_may_be_asked_for_again", "File exists"),
    BelievesWhatItFinds: (
        "test_an_interrupted_root_is_made_anew",
        r"interrupted after \d+ of \d+ calls:\nnot",
    ),
    OneAtATime: ("test_roots_are_made_side_by_side", "is another container's"),
    ForgetsChanges: ("test_kept_changes_are_there_again", "not shown: b'moved'"),
    ChangesInAPreview: ("test_a_preview_changes_nothing_and_says_what_root_will", "made the container's"),
    PreviewsAnother: ("test_a_preview_changes_nothing_and_says_what_root_will", "volatile=True"),
    ForgetsTheMapping: ("test_mapped_owners_are_shown_and_layers_keep_theirs", "uid 0, not 100000"),
    MapsTheLayersThemselves: ("test_mapped_owners_are_shown_and_layers_keep_theirs", "uid 65534, not"),
    WidensTheMapping: ("test_owners_that_the_mapping_lacks_are_nobody", "uid 100005, not 65534"),
    ClosesTheRoot: ("test_the_root_directory_is_open_to_everybody", "/ has mode 700"),
    OpensTheDirectory: ("test_nobody_else_reaches_what_it_prepares", "is open to others"),
    SplitsPaths: ("test_no_character_of_a_path_means_anything", "No such file"),
    TakesAnyNumber: ("test_stacks_that_it_cannot_are_refused_in_words", "2 layers were not refused"),
    LeavesAMountOfProbing: ("test_this_host_can_and_probing_leaves_nothing", "is mounted in .*/trial-0"),
    SpeaksInNumbers: ("test_who_may_not_mount_is_told_in_words", "not permitted: 'tmpfs'"),
    TakesItsRightsForTheHosts: ("test_who_may_not_mount_is_told_in_words", "mounting is not permitted"),
    SaysNotWhatToDo: ("test_what_this_host_cannot_is_told_in_words", "what to do is not told"),
    TakesAFullDiskForTheHost: ("test_a_full_disk_is_nothing_that_this_host_cannot", "a full disk is taken"),
    HasANameOfTwoWords: ("test_it_says_what_it_is", "'over lay' cannot be a word"),
    IsTheHostsRoot: ("test_the_step_is_a_plans_first", "no root of layers"),
}


@pytest.mark.parametrize("backend", FAULTS)
def test_each_fault_is_found(backend: type[Backend]) -> None:
    class Held(BackendConformance):
        takes = range(1, 2) if issubclass(backend, BindBackend) else BackendConformance.takes
        writable = not issubclass(backend, BindBackend)
        copies = issubclass(backend, CopyBackend)

    Held.backend = backend
    test, said = FAULTS[backend]
    held = Held()
    held.setup_method()
    try:
        with pytest.raises((AssertionError, OSError, Unsupported), match=said):
            getattr(held, test)()
    finally:
        held.teardown_method()
        while LeavesADescriptor.open:
            os.close(LeavesADescriptor.open.pop())


def test_every_test_finds_something() -> None:
    """None that cannot fail."""
    ours = {name for name in vars(BackendConformance) if name.startswith("test_")}
    found = {test for test, _ in FAULTS.values()}
    assert ours == found
