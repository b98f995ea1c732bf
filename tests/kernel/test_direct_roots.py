"""Roots of directories of the host, made by the backend that was asked for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attacks.commandline import exchanging
from mesocosm.errors import InvalidConfig, MesocosmError, Unavailable, Unsupported
from mesocosm.images.backends.copy import copy_layer
from mesocosm.linux import mounts
from mesocosm.model import parse_idmap
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot, HostRoot, OverlayRoot
from provisions import new_id, opened, shown

MAP = parse_idmap("0:100000:65536", "idmap")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a file under two names, a link, and somebody else's directory."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/file").write_text("first\n")
    os.setxattr(tree / "etc/file", "user.word", b"kept")
    (tree / "again").hardlink_to(tree / "etc/file")
    (tree / "link").symlink_to("etc/file")
    (tree / "theirs").mkdir(mode=0o2750)
    (tree / "theirs").chmod(0o2750)
    os.chown(tree / "theirs", 1000, 1001)
    return tree


@contextmanager
def attached(mount: int, place: Path) -> Iterator[None]:
    """A detached mount on a directory of the host; its descriptor is closed."""
    mounts.attach_at(mount, str(place))
    os.close(mount)
    try:
        yield
    finally:
        mounts.detach(str(place))


@contextmanager
def mounted(place: Path) -> Iterator[None]:
    """Memory on a directory of the host."""
    with attached(mounts.tmpfs(size=1 << 20), place):
        yield


async def root_of(tmp_path: Path, reference: str, backend: str, **wishes: object) -> RootStep:
    """The root of a new container, which is what was foretold."""
    scratch = tmp_path / "scratch"
    async with opened(tmp_path) as provisioner:
        told = await provisioner.preview(reference, backend=backend, scratch=scratch, **wishes)  # type: ignore[arg-type]
        assert not scratch.exists()
        made = await provisioner.provision(new_id(), reference, backend=backend, scratch=scratch, **wishes)  # type: ignore[arg-type]
        assert told.root == made.root
        return made.root


async def test_a_copy_is_the_containers_own(tree: Path, tmp_path: Path) -> None:
    step = await root_of(tmp_path, f"dir:{tree}", "copy")
    assert step == BindRoot(source=str(tmp_path / "scratch/root"), read_only=False)
    (tree / "etc/file").write_text("second\n")
    (tree / "later").touch()
    with shown(step, tmp_path / "root") as root:
        assert sorted(path.name for path in root.iterdir()) == ["again", "etc", "link", "theirs"]
        assert (root / "link").read_text() == "first\n"
        assert os.getxattr(root / "etc/file", "user.word") == b"kept"
        assert (root / "again").samefile(root / "etc/file")
        theirs = (root / "theirs").stat()
        assert (stat.S_IMODE(theirs.st_mode), theirs.st_uid, theirs.st_gid) == (0o2750, 1000, 1001)
        (root / "etc/file").write_text("the container's\n")
    assert (tree / "etc/file").read_text() == "second\n"


async def test_a_copy_has_mapped_owners(tree: Path, tmp_path: Path) -> None:
    step = await root_of(tmp_path, f"dir:{tree}", "copy", idmap=MAP)
    assert isinstance(step, BindRoot)
    theirs = (Path(step.source) / "theirs").stat()
    assert (theirs.st_uid, theirs.st_gid) == (101000, 101001)
    assert (tree / "theirs").stat().st_uid == 1000


async def test_bind_and_overlay_show_it_as_it_is(tree: Path, tmp_path: Path) -> None:
    bound = await root_of(tmp_path, f"dir:{tree}", "bind", idmap=MAP)
    assert bound == BindRoot(source=str(tree), read_only=True, idmap=MAP)
    overlay = await root_of(tmp_path, f"dir:{tree}", "overlay")
    assert isinstance(overlay, OverlayRoot) and overlay.layers == (str(tree),) and overlay.upper is not None
    (tmp_path / "scratch/upper").rmdir()
    (tmp_path / "scratch/work").rmdir()
    (tmp_path / "scratch").rmdir()
    fixed = await root_of(tmp_path, f"dir:{tree}", "overlay", read_only=True)
    assert isinstance(fixed, OverlayRoot) and fixed.layers[1:] == (str(tree),) and fixed.upper is None


async def test_what_is_mounted_in_the_directory_is_not_copied(tree: Path, tmp_path: Path) -> None:
    """As an overlay shows it: what lies below the mount."""
    (tree / "theirs/below").touch()
    with mounted(tree / "theirs"):
        (tree / "theirs/above").touch()
        step = await root_of(tmp_path, f"dir:{tree}", "copy")
        with shown(step, tmp_path / "root") as root:
            assert [path.name for path in (root / "theirs").iterdir()] == ["below"]


async def test_no_directory_is_copied_into_itself(tmp_path: Path) -> None:
    """Not by its own name, by that of a bind mount of it, nor where the container's place is such a mount."""
    outer, alias = tmp_path / "outer", tmp_path / "alias"
    for path in (outer / "state", alias):
        path.mkdir(parents=True)
    (outer / "word").touch()
    async with opened(tmp_path) as provisioner:
        with pytest.raises(InvalidConfig, match="the place that it is to be copied to"):
            await provisioner.provision(
                new_id(), f"dir:{outer}", backend="copy", scratch=outer / "state/c/root"
            )
        assert not (outer / "state/c").exists()
        aliases = {
            (outer, outer / "state/c/root"): (alias, "the place that it is to be copied to .leave"),
            (outer / "state", alias / "c/root"): (outer, "directory holds the place that it is"),
        }
        for (source, scratch), (directory, words) in aliases.items():
            with attached(mounts.clone_tree(str(source)), alias), pytest.raises(InvalidConfig, match=words):
                await provisioner.provision(new_id(), f"dir:{directory}", backend="copy", scratch=scratch)
        found = await provisioner.provision(
            new_id(), f"dir:{outer}", backend="bind", scratch=outer / "state/d/root"
        )
        assert found.root == BindRoot(source=str(outer), read_only=True)


def test_a_directory_that_changes_is_copied_whole_or_refused(tmp_path: Path) -> None:
    """Whoever owns it may put anything in a file's place: a copy neither waits for a FIFO, nor has one
    file's mode with another's content.
    """
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_text("one")
    (source / "one").chmod(0o4755)
    (source / "two").write_text("two")
    (source / "two").chmod(0o600)
    os.mkfifo(source / "pipe")
    seen = set()
    for pair in (("one", "two"), ("one", "pipe")):
        with exchanging(source, *pair):
            for turn in range(150):
                target = tmp_path / f"{pair[1]}-{turn}"
                target.mkdir()
                try:
                    copy_layer(source, target)
                except Unavailable as error:
                    assert "changed while it was copied" in str(error)
                    continue
                for path in target.iterdir():
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        seen.add((path.read_text(), stat.S_IMODE(status.st_mode)))
    assert seen == {("one", 0o4755), ("two", 0o600)}


async def test_other_backends_are_refused_by_name(tree: Path, tmp_path: Path) -> None:
    refusals: dict[tuple[str, str], tuple[type[MesocosmError], str]] = {
        (f"dir:{tree}", "erofs"): (Unsupported, "is a directory .*overlay, copy or bind"),
        ("host", "copy"): (Unsupported, "the copy backend makes no root of host.*say overlay"),
        ("host", "bind"): (Unsupported, "the bind backend makes no root of host.*say overlay"),
        ("host", "erofs"): (Unsupported, "the erofs backend makes no root of host.*say overlay"),
        ("host", "copi"): (InvalidConfig, "no backend 'copi'.*known are bind, copy, erofs, overlay"),
        (f"dir:{tree}", "copi"): (InvalidConfig, "no backend 'copi'"),
    }
    async with opened(tmp_path) as provisioner:
        for (reference, backend), (kind, words) in refusals.items():
            with pytest.raises(kind, match=words):
                await provisioner.preview(reference, backend=backend, scratch=tmp_path / "s")
            with pytest.raises(kind, match=words):
                await provisioner.provision(new_id(), reference, backend=backend, scratch=tmp_path / "s")
        assert not (tmp_path / "s").exists()
        host = await provisioner.provision(new_id(), "host", backend="overlay", scratch=tmp_path / "s")
        assert isinstance(host.root, HostRoot)
