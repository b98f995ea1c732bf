"""The example of docs/isolators.md: installed through a real entry point, and held to the suite."""

from __future__ import annotations

import re
import secrets
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import leaks
from fixtures.canary import Canary
from fixtures.containers import Yard
from mesocosm.isolators import registry
from mesocosm.isolators.base import Isolator
from mesocosm.isolators.conformance import IsolatorConformance
from mesocosm.model import ContainerConfig
from mesocosm.plan import Contribution

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests/thirdparty/acme_scratch.py"
NAME = "acme/scratch"

_BLOCK = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """The page's pieces of code."""
    text = (ROOT / "docs/isolators.md").read_text()
    return [found[2] for found in _BLOCK.finditer(text) if found[1] == language]


def install(site: Path) -> None:
    """What pip makes of the page's module and of its pyproject.toml."""
    (site / "acme_scratch.py").write_text(blocks("python")[0])
    project = tomllib.loads(blocks("toml")[0])["project"]
    info = site / "acme_isolators-1.0.dist-info"
    info.mkdir()
    name, version = project["name"], project["version"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{group}]\n" for group in project["entry-points"]]
    for points in project["entry-points"].values():
        lines += [f"{point} = {where}\n" for point, where in points.items()]
    (info / "entry_points.txt").write_text("".join(lines))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Isolator]]:
    """The example, as the registry finds it, with its base moved into the test's own directory."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(site))
    install(site)
    found = registry.load(NAME)
    monkeypatch.setattr(sys.modules["acme_scratch"], "BASE", tmp_path / "run" / "acme-scratch")
    (tmp_path / "run").mkdir()
    yield found
    del sys.modules["acme_scratch"]


def test_the_page_shows_the_file_that_is_tested() -> None:
    assert blocks("python")[0] == SOURCE.read_text()


def test_it_can_be_chosen_beside_the_default_set(scratch: type[Isolator]) -> None:
    chosen = registry.choose(ContainerConfig(image="host", command=("x",), isolation=("default", NAME)))
    assert chosen[-1] == NAME and chosen[:-1] == registry.WITH_IMAGE
    assert NAME in registry.names()
    assert scratch.__module__ == "acme_scratch"


TESTS = [name for name in vars(IsolatorConformance) if name.startswith("test_")]


@pytest.mark.parametrize("name", TESTS)
def test_the_example_passes_the_suite(name: str, scratch: type[Isolator]) -> None:
    page: dict[str, Any] = {}
    exec(compile(blocks("python")[1], "docs/isolators.md", "exec"), page)
    suite: IsolatorConformance = page["TestScratch"]()
    assert suite.isolator is scratch
    run(suite, name)


def run(suite: IsolatorConformance, name: str) -> None:
    """One test of a suite, as pytest would run it."""
    setattr(suite, "parent", lambda: leaks.RUN)  # noqa: B010
    suite.setup_method()
    try:
        getattr(suite, name)()
    finally:
        suite.teardown_method()


def _broken(change: Callable[[type[Isolator]], None], scratch: type[Isolator]) -> IsolatorConformance:
    page: dict[str, Any] = {}
    exec(compile(blocks("python")[1], "docs/isolators.md", "exec"), page)
    suite: IsolatorConformance = page["TestScratch"]()
    change(scratch)
    return suite


def _leaves(isolator: type[Isolator]) -> None:
    async def cleanup(self: Isolator, container: object) -> None: ...

    isolator.cleanup = cleanup  # type: ignore[method-assign]


def _acts_in_prepare(isolator: type[Isolator]) -> None:
    original = isolator.prepare

    def prepare(self: Isolator, container: Any) -> Any:
        self.paths.containers.mkdir(parents=True)
        return original(self, container)

    isolator.prepare = prepare  # type: ignore[method-assign]


def _returns_from_watch(isolator: type[Isolator]) -> None:
    async def watch(self: Isolator, container: object) -> Any:
        return None

    isolator.watch = watch  # type: ignore[method-assign]


def _fails_on_strangers(isolator: type[Isolator]) -> None:
    async def cleanup(self: Isolator, container: object) -> None:
        raise KeyError(container)

    isolator.cleanup = cleanup  # type: ignore[method-assign]


def _is_random(isolator: type[Isolator]) -> None:
    def prepare(self: Isolator, container: object) -> Contribution:
        return Contribution(environment=(f"X={secrets.token_hex()}",))

    isolator.prepare = prepare  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("change", "test"),
    [
        (_leaves, "test_what_was_applied_is_given_back"),
        (_leaves, "test_cleanup_of_a_half_prepared_container"),
        (_acts_in_prepare, "test_prepare_changes_nothing_on_the_host"),
        (_returns_from_watch, "test_a_watch_waits_and_survives_being_cancelled"),
        (_fails_on_strangers, "test_cleanup_of_a_container_never_seen"),
        (_is_random, "test_prepare_twice_is_equal"),
    ],
)
def test_the_suite_finds_what_is_wrong(
    change: Callable[[type[Isolator]], None], test: str, scratch: type[Isolator]
) -> None:
    """Two-sided: the same suite that the example passes fails for each of these."""
    with pytest.raises((AssertionError, KeyError)):
        run(_broken(change, scratch), test)


async def test_it_works_in_a_real_container(
    scratch: type[Isolator], tmp_path: Path, busybox_root: Path, cgroup_root: str, canary: Canary
) -> None:
    """The payload finds its directory, and what it leaves there takes nothing of the host with it (P-07)."""
    assert scratch.name == NAME
    base = tmp_path / "run" / "acme-scratch"
    script = f"echo hi > $SCRATCH/file; ln -s {canary.folder} $SCRATCH/link; ls $SCRATCH; stat -c %a $SCRATCH"
    async with Yard.open(tmp_path / "yard", busybox_root, cgroup_root) as yard:
        box = await yard.box("sh", "-c", script, isolation=("default", NAME), labels={"acme.scratch": ""})
        assert await box.run() == "file\nlink\n1777\n"
        assert await box.status() == {"scratch": "2 files"}
        assert (base / str(box.id) / "file").read_text() == "hi\n"
    assert list(base.iterdir()) == []
    assert (canary.folder / "inner").exists()
