"""Changes to a root that outlive their container: whose they are, what they fit, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesocosm.errors import Busy, Corrupt, InvalidConfig, NotFound, Unsupported, WrongState
from mesocosm.images import root_changes
from mesocosm.images.provisioner import Provision, Provisioner
from mesocosm.model import ContainerConfig, ContainerID, RootChanges
from mesocosm.plan.operations import OverlayRoot
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import file

ONE = image_of([[file(b"a", b"one")], [file(b"b", b"one")]])
TWO = image_of([[file(b"a", b"two")], [file(b"b", b"two")]])


@pytest.fixture
def one(tmp_path: Path) -> str:
    return f"oci:{write_layout(ONE, tmp_path / 'layout-1')}"


@pytest.fixture
def two(tmp_path: Path) -> str:
    return f"oci:{write_layout(TWO, tmp_path / 'layout-2')}"


async def begin(
    provisioner: Provisioner, image: str, where: Path, container: ContainerID, **wish: bool | str
) -> Provision:
    """A container with its changes in ``where/kept``."""
    changes = RootChanges(str(where / "kept"), rebase=bool(wish.get("rebase", False)))
    scratch = where / f"scratch-{container}"
    backend = str(wish.get("backend", "erofs"))
    return await provisioner.provision(container, image, backend=backend, changes=changes, scratch=scratch)


async def end(provisioner: Provisioner, where: Path, container: ContainerID) -> None:
    """As a destroy does: the scratch directory goes last."""
    await provisioner.release(container)
    (where / f"scratch-{container}").rmdir()


@pytest.mark.parametrize("backend", ["erofs", "overlay"])
async def test_changes_are_there_for_the_next_container(backend: str, one: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        first, second = new_id(), new_id()
        root = (await begin(provisioner, one, tmp_path, first, backend=backend)).root
        assert isinstance(root, OverlayRoot) and not root.volatile
        assert root.upper == str(tmp_path / "kept/upper")
        with shown(root, tmp_path / "r1") as seen:
            (seen / "a").write_text("changed")
            (seen / "b").unlink()
            (seen / "new").write_text("new")
            seen.chmod(0o711)
        await end(provisioner, tmp_path, first)
        root = (await begin(provisioner, one, tmp_path, second, backend=backend)).root
        with shown(root, tmp_path / "r2") as seen:
            assert {path.name: path.read_text() for path in seen.iterdir()} == {"a": "changed", "new": "new"}
            assert seen.stat().st_mode & 0o777 == 0o711
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


async def test_one_container_has_them_at_a_time(one: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        first = new_id()
        await begin(provisioner, one, tmp_path, first)
        await begin(provisioner, one, tmp_path, first)  # the same one, beginning again
        with pytest.raises(Busy, match=str(first)):
            await begin(provisioner, one, tmp_path, new_id())
        await end(provisioner, tmp_path, first)
        await begin(provisioner, one, tmp_path, new_id())


async def test_a_holder_of_another_boot_is_none(one: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        await begin(provisioner, one, tmp_path, new_id())
        holder = tmp_path / "kept/holder.json"
        holder.write_text(json.dumps({**json.loads(holder.read_text()), "boot_id": "another"}))
        await begin(provisioner, one, tmp_path, new_id())


async def test_another_lower_is_refused_unless_rebased(one: str, two: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        first, second = new_id(), new_id()
        await provisioner.pull(two)
        with shown((await begin(provisioner, one, tmp_path, first)).root, tmp_path / "r1") as seen:
            (seen / "a").write_text("changed")
        await end(provisioner, tmp_path, first)
        kept = RootChanges(str(tmp_path / "kept"))
        with pytest.raises(WrongState, match=f"were made to image {one}"):
            await begin(provisioner, two, tmp_path, new_id())
        with pytest.raises(WrongState, match=f"were made to image {one}"):
            await provisioner.preview(two, changes=kept, scratch=tmp_path / "s")
        root = (await begin(provisioner, two, tmp_path, second, rebase=True)).root
        with shown(root, tmp_path / "r2") as seen:
            assert ((seen / "a").read_text(), (seen / "b").read_text()) == ("changed", "two")
        base = json.loads((tmp_path / "kept/base.json").read_text())
        assert base["digest"] == TWO.digest and base["reference"] == two


@pytest.mark.parametrize("backend", ["copy", "bind"])
async def test_backends_that_copy_or_bind_keep_nothing(backend: str, one: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        with pytest.raises(Unsupported, match=f"the {backend} backend cannot keep"):
            await begin(provisioner, one, tmp_path, new_id(), backend=backend)
        with pytest.raises(InvalidConfig, match="host is no image of layers"):
            await begin(provisioner, "host", tmp_path, new_id())
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("kind", ["file", "link", "full", "stranger", "damaged"])
async def test_a_directory_that_is_something_else(kind: str, one: str, tmp_path: Path) -> None:
    kept, elsewhere = tmp_path / "kept", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        kept.symlink_to(elsewhere)
    elif kind == "file":
        kept.write_text("x")
    else:
        kept.mkdir()
        (kept / {"full": "mine", "damaged": "base.json"}.get(kind, "lock")).write_text("")
    if kind == "stranger":
        kept.chmod(0o777)
        import os

        os.chown(kept, 1000, 1000)
    async with opened(tmp_path) as provisioner:
        with pytest.raises((InvalidConfig, Corrupt, FileExistsError)):
            await begin(provisioner, one, tmp_path, new_id())
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    "wish", [{"read_only": True, "image": "x"}, {"image": None}, {"image": "x", "path": "kept"}]
)
def test_requests_that_make_no_sense(wish: dict[str, object]) -> None:
    path = str(wish.pop("path", "/kept"))
    with pytest.raises(InvalidConfig):
        ContainerConfig(root_changes=RootChanges(path), **wish)  # type: ignore[arg-type]


async def test_what_an_ended_container_left_is_its_own(one: str, tmp_path: Path) -> None:
    """For a commit: as long as no other container has gone on with it, and it is what it was."""
    kept = tmp_path / "kept"
    async with opened(tmp_path) as provisioner:
        first, second = new_id(), new_id()
        with pytest.raises(NotFound, match="no root changes"):
            root_changes.kept_for(kept, str(first))
        await begin(provisioner, one, tmp_path, first)
        await end(provisioner, tmp_path, first)
        assert root_changes.kept_for(kept, str(first)).digest == ONE.digest
        await begin(provisioner, one, tmp_path, second)
        with pytest.raises(WrongState, match=f"not those of container {first} any more"):
            root_changes.kept_for(kept, str(first))
        (kept / "upper").rename(kept / "elsewhere")
        (kept / "upper").symlink_to("elsewhere")
        with pytest.raises(InvalidConfig, match="is not a directory"):
            root_changes.kept_for(kept, str(second))
