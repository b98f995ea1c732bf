"""The store and the backend of docs/stores.md: installed through real entry points, used as ours are."""

from __future__ import annotations

import json
import os
import re
import shutil
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.commandline import PROGRAM, CommandLine
from e2e.conftest import leave
from fixtures.host import tool
from tarballs import archive, directory, file, symlink

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/thirdparty/acme_images.py"
PAGE = (ROOT / "docs/stores.md").read_text()
_BLOCK = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {found[1]: found[2] for found in reversed(list(_BLOCK.finditer(PAGE)))}
"""The page's first piece of each language."""


def install(site: Path, name: str, module: str, points: dict[str, dict[str, str]]) -> None:
    """What pip makes of a module and of its pyproject.toml."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name.replace('-', '_')}.py").write_text(module)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = []
    for group, ones in points.items():
        lines += [f"[{group}]\n", *(f"{point} = {where}\n" for point, where in ones.items())]
    (info / "entry_points.txt").write_text("".join(lines))


def put(shelf: Path, word: str) -> None:
    """Make the shelf's root one with that word in it."""
    busybox = file(b"bin/busybox", Path(tool("busybox")).read_bytes(), 0o755)
    shell = symlink(b"bin/sh", b"busybox")
    (shelf / "new").write_bytes(archive(directory(b"bin"), busybox, shell, file(b"word", word.encode())))
    (shelf / "new").rename(shelf / "web.tar")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """The directory that the example serves, with one root in it."""
    found = tmp_path / "golden"
    found.mkdir()
    put(found, "first\n")
    return found


class Installation(CommandLine):
    """The command in an environment of its own, where packages can be installed beside it."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        environment = base.parent / "environment"
        venv.create(environment, symlinks=True, with_pip=False)
        self.site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
        ours = sysconfig.get_path("purelib")
        (self.site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        self.program = environment / "bin/mesocosm"
        shutil.copy(PROGRAM, self.program)

    def words(self, *words: str | Path) -> list[str]:
        """As `CommandLine.words`."""
        return [str(self.program), *super().words(*words)[1:]]


@pytest.fixture
def mesocosm(tmp_path: Path, shelf: Path) -> Iterator[Installation]:
    """The command where the example is installed; afterwards nothing of its containers may be left."""
    commands = Installation(tmp_path / "mesocosm")
    project = tomllib.loads(BLOCKS["toml"])["project"]
    module = BLOCKS["python"].replace('Path("/srv/golden")', f"Path({str(shelf)!r})")
    install(commands.site, project["name"], module, project["entry-points"])
    yield commands
    leave(commands)


WORD = ("run", "--rm", "-q", "golden://web", "/bin/busybox", "cat", "/word")


def test_the_page_shows_the_file_that_is_checked() -> None:
    assert BLOCKS["python"] == SOURCE.read_text()


def test_a_family_of_others_is_had_as_ours_are(mesocosm: Installation, shelf: Path) -> None:
    digest = mesocosm("pull", "-q", "golden://web").accepted().strip()
    assert mesocosm(*WORD).accepted() == "first\n"
    listed = mesocosm("images", "--format", "{{.Name}} {{.Digest}}").accepted()
    assert listed == f"golden://web {digest}\n"
    [told] = json.loads(mesocosm("image", "inspect", "golden://web").accepted())
    assert (told["Source"], told["Digest"]) == (str(shelf / "web.tar"), digest)
    assert mesocosm("pull", "-q", f"golden://web@{digest}").accepted().strip() == digest
    mesocosm("tag", "golden://web", "example.org/web:1").accepted()
    mesocosm("image", "verify", "example.org/web:1").accepted()


def test_it_is_asked_as_the_pull_policy_says(mesocosm: Installation, shelf: Path) -> None:
    mesocosm("run", "--rm", "-q", "--pull", "never", "golden://web").refused("not on this host")
    assert mesocosm(*WORD).accepted() == "first\n"
    assert "unchanged" in mesocosm("pull", "golden://web").err
    put(shelf, "second\n")
    assert mesocosm(*WORD).accepted() == "first\n"
    assert mesocosm(WORD[0], "--pull", "always", *WORD[1:]).accepted() == "second\n"
    (shelf / "web.tar").unlink()
    mesocosm(WORD[0], "--pull", "always", *WORD[1:]).refused("no golden root web")
    assert mesocosm(*WORD).accepted() == "second\n"


def test_what_it_gives_is_held_to_the_pin(mesocosm: Installation) -> None:
    pin = "sha256:" + "a" * 64
    mesocosm("pull", "-q", f"golden://web@{pin}").refused("not to the digest it is pinned to")
    assert mesocosm("images", "-q").accepted() == ""


def test_a_backend_of_others_makes_roots(mesocosm: Installation) -> None:
    script = "echo no > /new || echo read-only"
    run = ("run", "--rm", "-q", "--backend", "frozen", "golden://web", "/bin/sh", "-c", script)
    assert mesocosm(*run).accepted() == "read-only\n"
    kept = (
        "run",
        "--backend",
        "frozen",
        "--root-changes",
        str(mesocosm.root.parent / "kept"),
        "golden://web",
    )
    mesocosm(*kept).refused("frozen backend cannot keep changes")
    mesocosm("run", "--backend", "frosen", "golden://web").refused(
        r"known are bind, .*erofs, frozen, overlay"
    )


def test_without_its_package_a_family_is_unknown(mesocosm: Installation) -> None:
    mesocosm("pull", "-q", "golden://web").accepted()
    shutil.rmtree(mesocosm.site / "acme_images-1.0.dist-info")
    assert "docker:" in mesocosm("pull", "-q", "golden://web").refused("no store serves golden://")
    assert "golden://web" in mesocosm("images", "--format", "{{.Name}}").accepted()
    mesocosm("rmi", "golden://web").accepted()


BROKEN = {
    "no such module": ("raise ImportError('needs libacme')", "Thing", "cannot be loaded from acme-broken"),
    "no such class": ("", "Thing", "cannot be loaded from acme-broken"),
    "no store": ("class Thing: ...", "Thing", "is no Store"),
    "another family's": (
        "from mesocosm.images.stores.base import Store\n"
        "class Thing(Store):\n    name = 'other'\n    transports = frozenset({'other'})\n",
        "Thing",
        "does not serve broken://",
    ),
}


@pytest.mark.parametrize(("module", "name", "said"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_package_is_told_by_name(module: str, name: str, said: str, mesocosm: Installation) -> None:
    install(mesocosm.site, "acme-broken", module, {"mesocosm.stores": {"broken": f"acme_broken:{name}"}})
    mesocosm("pull", "-q", "broken://x").refused(said)
    assert mesocosm(*WORD).accepted() == "first\n"


def test_two_packages_with_one_family_are_refused(mesocosm: Installation) -> None:
    install(mesocosm.site, "acme-double", "", {"mesocosm.stores": {"golden": "acme_double:Golden"}})
    line = mesocosm("pull", "-q", "golden://web").refused("comes from acme-double and acme-images")
    assert "uninstall one" in line and os.linesep not in line
