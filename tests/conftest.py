"""Fixtures and gates of all tests.

What a test may ask for, beyond pytest's own:

    canary           a world outside the container, with ``assert_untouched()`` (fixtures/canary.py)
    cgroup_root      a name for a cgroup root of this test's own, below every hierarchy; removed afterwards
    busybox_root     a tiny root file system (read-only by agreement), for most kernel tests
    busybox_oci      the same as an OCI layout with user, entry point, volume
    debian_root      a real Debian root with Python, made by debootstrap (read-only by agreement)
    debian_image_oci the same as an OCI layout of several layers, with every kind of file
    docker_archive   the Debian image as ``docker save`` writes it
    registry         a real registry on loopback; ``registry.push(layout, "name:tag")``
    pushed_image     the Debian image's reference in it
    pushed_busybox   the busybox image's reference in it

The folder ``payload`` of both roots holds the scripts of tests/payload; fixtures/view.py reads what
``/payload/report.sh`` prints.  After each test the leak gate (fixtures/leaks.py) compares with before.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from fixtures import host, images, leaks, reaper, roots
from fixtures.canary import Canary
from fixtures.images import Layout
from fixtures.registry import Registry

# Whoever is put into the background by a script ignores SIGINT, and so would every command that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.  In CI hypothesis has a profile like this one.
if "CI" not in os.environ:
    hypothesis.settings.register_profile("mesocosm", deadline=None)
    hypothesis.settings.load_profile("mesocosm")

_SLOW_TO_MAKE = 900
"""Seconds: making the Debian root takes a minute or two, once per machine, and counts as its test's time."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the tests below an init of their own, in a private mount namespace."""
    os.environ["MESOCOSM_TEST_RUN"] = leaks.RUN
    if not config.option.collectonly and not reaper.session().reaper:
        reaper.enter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/kernel and tests/e2e; allow time for what must be made once per machine."""
    for item in items:
        parts = item.path.parts
        if "kernel" in parts or "conformance" in parts:
            item.add_marker("kernel")
        if "e2e" in parts:
            item.add_marker("e2e")
        wanted = set(getattr(item, "fixturenames", ()))
        if wanted & {"debian_root", "debian_image_oci", "docker_archive", "pushed_image"}:
            item.add_marker(pytest.mark.timeout(_SLOW_TO_MAKE))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Kernel and command line tests need root and a kernel that lets us."""
    needed = item.get_closest_marker("kernel") or item.get_closest_marker("e2e")
    if needed and (problem := host.kernel_problem()):
        host.refuse(problem)


@pytest.fixture(scope="session", autouse=True)
def _run_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Pytest's own folders exist before the first snapshot."""
    leaks.lies_in(str(tmp_path_factory.getbasetemp()))


@pytest.fixture(autouse=True)
def _leak_gate(_run_folder: None) -> Iterator[None]:
    """Fail a test that leaves anything behind, and remove it so that the next test is not blamed."""
    before = leaks.take()
    yield
    if found := leaks.left_behind(before):
        leaks.put_right(before)
        pytest.fail("the test left something behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """A world outside the container; ends by asserting that it is untouched."""
    world = Canary(tmp_path / "canary")
    yield world
    try:
        world.assert_untouched()
    finally:
        world.close()


@pytest.fixture
def cgroup_root() -> Iterator[str]:
    """A cgroup name of this test's own (``mesocosm-test-…``), not yet made; removed after the test."""
    name = leaks.RUN
    yield name
    for path in sorted(leaks.cgroup_directories(), key=len, reverse=True):
        if os.path.basename(path) == name:
            os.rmdir(path)


@pytest.fixture(scope="session")
def busybox_root() -> Path:
    """A tiny root file system from busybox-static."""
    return roots.make_busybox()


@pytest.fixture(scope="session")
def busybox_oci() -> Layout:
    """The busybox image as an OCI layout."""
    return images.make_busybox_layout()


@pytest.fixture(scope="session")
def debian_root() -> Path:
    """A Debian root with Python."""
    return roots.make_debian()


@pytest.fixture(scope="session")
def debian_image_oci() -> Layout:
    """The Debian image as an OCI layout of several layers."""
    return images.make_debian_layout()


@pytest.fixture(scope="session")
def docker_archive(debian_image_oci: Layout) -> Path:
    """The Debian image as ``docker save`` writes it."""
    return images.make_docker_archive(debian_image_oci, "debian-archive", "example.org/debian:test")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A real registry on loopback."""
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        leaks.outlives_test(running.pid)
        yield running


@pytest.fixture(scope="session")
def pushed_image(registry: Registry, debian_image_oci: Layout) -> str:
    """The Debian image in the registry: ``127.0.0.1:PORT/debian:test``."""
    return registry.push(debian_image_oci, "debian:test")


@pytest.fixture(scope="session")
def pushed_busybox(registry: Registry, busybox_oci: Layout) -> str:
    """The busybox image in the registry: ``127.0.0.1:PORT/busybox:test``."""
    return registry.push(busybox_oci, "busybox:test")
