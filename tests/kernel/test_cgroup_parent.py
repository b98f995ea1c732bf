"""Our parent cgroup comes with the first container and goes with the last, whoever makes one just then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesocosm.linux.cgroups import CgroupTree

CONTROLLERS = ("cpu", "memory", "pids")


async def gone(tree: CgroupTree) -> None:
    """Remove what a test has made."""
    for container in tree.list():
        await tree.remove(container)
    tree.remove_parent()


async def test_a_parent_that_goes_before_its_child_is_made_again(
    cgroup_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every hierarchy once: between making the parent and the container's cgroup in it (ENOENT)."""
    tree, mkdir, removed = CgroupTree.detect(cgroup_root), os.mkdir, list[str]()

    def late(path: str, mode: int = 0o777) -> None:
        above = os.path.dirname(path)  # noqa: PTH120
        if os.path.basename(above) == cgroup_root and above not in removed:  # noqa: PTH119
            removed.append(above)
            _remove(above)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", late)
    try:
        tree.create("a", CONTROLLERS)
        assert removed and tree.list() == ("a",)
    finally:
        await gone(tree)


async def test_a_parent_that_goes_as_it_is_looked_at_is_made_again(
    cgroup_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there for mkdir(2) (EEXIST), and not for the look that follows."""
    tree, mkdir, removed = CgroupTree.detect(cgroup_root), os.mkdir, list[str]()

    def there(path: str, mode: int = 0o777) -> None:
        try:
            mkdir(path, mode)
        except FileExistsError:
            if path not in removed:
                removed.append(path)
                _remove(path)
            raise
        if os.path.basename(path) == cgroup_root and path not in removed:  # noqa: PTH119
            there(path, mode)

    monkeypatch.setattr(os, "mkdir", there)
    try:
        tree.create("a", CONTROLLERS)
        assert removed and tree.list() == ("a",)
    finally:
        await gone(tree)


def test_a_parent_that_never_stays_is_an_error(cgroup_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, mkdir = CgroupTree.detect(cgroup_root), os.mkdir

    def late(path: str, mode: int = 0o777) -> None:
        if Path(path).parent.name == cgroup_root:
            _remove(str(Path(path).parent))
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", late)
    try:
        with pytest.raises(FileNotFoundError):
            tree.create("a", CONTROLLERS)
    finally:
        tree.remove_parent()


def _remove(path: str) -> None:
    for below in Path(path).iterdir():
        if below.is_dir():
            below.rmdir()
    Path(path).rmdir()
