"""``--backend`` for images that are no layers, as a user asks for it: a directory, the host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attacks.commandline import CommandLine

CHANGES = "cat /word; echo other > /word 2>/dev/null && cat /word; true"


@pytest.fixture
def tree(busybox_root: Path, tmp_path: Path) -> Path:
    """A root that may be changed, with every mount point of a container."""
    tree = Path(shutil.copytree(busybox_root, tmp_path / "tree", symlinks=True))
    (tree / "word").write_text("first\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        (tree / "etc" / name).touch()
    return tree


def test_a_root_is_what_was_asked_for(mesocosm: CommandLine, tree: Path) -> None:
    """A copy and an overlay take changes, a bind mount none; the directory has none in any case."""
    expected = {"overlay": "first other", "copy": "first other", "bind": "first"}
    script = f"{CHANGES}; awk '$5 == \"/\" {{ print $4, $(NF-2) }}' /proc/self/mountinfo"
    for backend, words in expected.items():
        done = mesocosm("run", "--rm", "--backend", backend, f"dir:{tree}", "sh", "-c", script).accepted()
        *said, source, kind = done.split()
        assert said == words.split(), backend
        assert (kind == "overlay") == (backend == "overlay")
        assert (source == str(tree) or source.endswith(str(tree))) == (backend == "bind"), source
        assert (tree / "word").read_text() == "first\n"
    fixed = mesocosm("run", "--rm", "--read-only", "--backend", "copy", f"dir:{tree}", "sh", "-c", CHANGES)
    assert fixed.accepted() == "first\n"


def test_a_copy_shows_nothing_of_what_comes_later(mesocosm: CommandLine, tree: Path) -> None:
    found = {}
    for backend in ("copy", "bind"):
        (tree / "word").write_text("first\n")
        container = mesocosm("run", "-d", "-q", "--backend", backend, f"dir:{tree}", "sleep", "600")
        (tree / "word").write_text("second\n")
        found[backend] = mesocosm("exec", container.accepted().strip(), "cat", "/word").accepted()
        mesocosm("rm", "--force", container.out.strip()).accepted()
    assert found == {"copy": "first\n", "bind": "second\n"}


def test_nothing_is_ignored(mesocosm: CommandLine, tree: Path) -> None:
    """What cannot be had is refused, by ``explain`` as by ``run``, with what can."""
    for verb in (("run", "--rm"), ("explain",)):
        for backend in ("copy", "bind", "erofs"):
            mesocosm(*verb, "--backend", backend, "host", "true").refused("makes no root of host.*overlay")
        mesocosm(*verb, "--backend", "erofs", f"dir:{tree}", "true").refused("overlay, copy or bind")
        mesocosm(*verb, "--backend", "copy", "none", "true").refused("no backend makes it")
    assert mesocosm("run", "--rm", "--backend", "overlay", "host", "echo", "on").accepted() == "on\n"
