"""Which isolators a container is composed of (parity CFG-1, CFG-2, CFG-3, CFG-5)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.isolators import registry
from mesocosm.isolators.base import Isolator
from mesocosm.model import CapabilityRequest, ContainerConfig, Resources, Rlimit, TmpfsMount


def choose(*names: str, image: str | None = "host", **config: Any) -> tuple[str, ...]:
    return registry.choose(ContainerConfig(image=image, isolation=names, **config))


@pytest.mark.parametrize("name", registry.ORDER)
def test_an_isolators_name_is_its_path(name: str) -> None:
    found = registry.load(name)
    assert found.name == name
    assert found.__module__ == "mesocosm.isolators." + name.replace("/", ".")
    assert issubclass(found, Isolator)
    assert found.__doc__


@pytest.mark.parametrize("name", registry.ORDER)
def test_requirements_stand_earlier_in_the_order(name: str) -> None:
    order = list(registry.ORDER)
    assert all(order.index(required) < order.index(name) for required in registry.load(name).requires)


def test_every_alias_means_isolators_that_exist() -> None:
    assert {name for names in registry.ALIASES.values() for name in names} <= set(registry.ORDER)
    assert not set(registry.ALIASES) & set(registry.ORDER)


def test_the_default_set_depends_on_the_image() -> None:
    with_image, without = choose(), choose(image=None)
    assert with_image == tuple(name for name in registry.ORDER if name != "filesystem/posix")
    assert "filesystem/posix" in without
    assert not {"filesystem/linux", "volume/host_path", "namespaces/pid"} & set(without)


@given(st.permutations(("linux/nnp", "cgroups/mem", "namespaces/net", "cgroups/cpu")))
def test_the_order_of_naming_does_not_matter_cfg_5(names: list[str]) -> None:
    assert choose(*names) == (
        "filesystem/linux",
        "cgroups/cpu",
        "cgroups/mem",
        "image/runtime",
        "linux/nnp",
        "namespaces/net",
        "volume/host_path",
        "volume/image",
    )


def test_what_every_container_needs_is_added_cfg_3() -> None:
    volumes = ("volume/host_path", "volume/image")
    assert choose("linux/nnp") == ("filesystem/linux", "image/runtime", "linux/nnp", *volumes)
    assert choose("linux/nnp", image=None) == ("filesystem/posix", "image/runtime", "linux/nnp")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("docker/runtime", "image/runtime"),
        ("appc/runtime", "image/runtime"),
        ("posix/rlimits", "linux/rlimits"),
        ("cgroups/memory", "cgroups/mem"),
    ],
)
def test_names_of_mesos_are_understood(alias: str, name: str) -> None:
    assert name in choose(alias)


def test_words_for_several_may_overlap() -> None:
    assert {"cgroups/cpu", "cgroups/mem"} <= set(choose("cgroups", "cgroups/cpu"))
    assert "cgroups/devices" in choose("cgroups/all")
    assert choose("default", "linux/nnp") == choose()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("cgroups/cpu", "cgroups/cpu"), "isolator cgroups/cpu is named twice (name each one once)"),
        (("cgroups/mem", "cgroups/memory"), "isolator cgroups/mem is named twice (name each one once)"),
        (("cgroup/cpu",), "no isolator is called 'cgroup/cpu' (did you mean cgroups/cpu?)"),
        (("linux/secomp",), "no isolator is called 'linux/secomp' (did you mean linux/seccomp?)"),
        (
            ("filesystem/linux", "filesystem/posix"),
            "filesystem/linux and filesystem/posix exclude each other (choose one of them)",
        ),
        (
            ("filesystem/posix",),
            "filesystem/posix gives no root file system to image host "
            "(choose filesystem/linux, or give no image)",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words_cfg_1_cfg_2(names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        choose(*names)
    assert str(caught.value) == sentence


def test_a_name_like_nothing_gets_the_list() -> None:
    with pytest.raises(InvalidConfig, match="there are filesystem/posix, filesystem/linux"):
        choose("zzz")


def test_requirements_are_checked() -> None:
    with pytest.raises(InvalidConfig, match="namespaces/pid requires filesystem/linux"):
        choose("namespaces/pid", image=None)
    with pytest.raises(InvalidConfig, match="filesystem/linux needs an image"):
        choose("filesystem/linux", image=None)


@pytest.mark.parametrize(
    ("missing", "config"),
    [
        ("cgroups/cpu", {"resources": Resources(cpus=1)}),
        ("cgroups/cpu", {"resources": Resources(cpu_shares=2)}),
        ("cgroups/mem", {"resources": Resources(memory=1 << 30)}),
        ("cgroups/mem", {"resources": Resources(memory_request=1 << 30)}),
        ("cgroups/pids", {"resources": Resources(pids=1)}),
        ("linux/rlimits", {"rlimits": (Rlimit("nofile", 1, 1),)}),
        ("linux/capabilities", {"capabilities": CapabilityRequest(drop=("ALL",))}),
        ("linux/seccomp", {"seccomp": "{}"}),
        ("namespaces/uts", {"hostname": "a"}),
    ],
)
def test_a_request_is_never_forgotten_in_silence(missing: str, config: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=f"isolator {missing} is not chosen"):
        choose("linux/nnp", **config)
    assert missing in choose("linux/nnp", missing, **config)


def test_a_volume_without_a_root_is_not_forgotten_either() -> None:
    with pytest.raises(InvalidConfig, match="isolator volume/host_path is not chosen"):
        choose("linux/nnp", image=None, mounts=(TmpfsMount(target="/a"),))


def test_an_isolator_that_is_gone_is_not_found() -> None:
    with pytest.raises(NotFound, match="no isolator is called 'acme/gone'"):
        registry.load("acme/gone")


def _install(site: Path, distribution: str, name: str, module: str, source: str) -> None:
    (site / f"{module}.py").write_text(source)
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mesocosm.isolators]\n{name} = {module}:Thing\n")


def _class(name: str, requires: str = "()") -> str:
    return (
        "from mesocosm.isolators.base import Isolator\n"
        f"class Thing(Isolator):\n    name = {name!r}\n    requires = {requires}\n"
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_foreign_isolators_follow_in_the_order_they_require(site: Path) -> None:
    _install(site, "one", "acme/a", "acme_order_a", _class("acme/a", "('acme/b', 'linux/nnp')"))
    _install(site, "two", "acme/b", "acme_order_b", _class("acme/b"))
    assert choose("acme/a", "acme/b", "linux/nnp")[-2:] == ("acme/b", "acme/a")
    assert registry.names()[-2:] == ("acme/a", "acme/b")
    with pytest.raises(InvalidConfig, match="acme/a requires acme/b"):
        choose("acme/a", "linux/nnp")
    with pytest.raises(InvalidConfig, match=r"did you mean acme/b\?"):
        choose("acme/bb")


def test_foreign_isolators_that_require_each_other_are_refused(site: Path) -> None:
    _install(site, "one", "acme/a", "acme_round_a", _class("acme/a", "('acme/b',)"))
    _install(site, "two", "acme/b", "acme_round_b", _class("acme/b", "('acme/a',)"))
    with pytest.raises(InvalidConfig, match="acme/a, acme/b require each other"):
        choose("acme/a", "acme/b")


def test_two_owners_of_one_name_are_both_named(site: Path) -> None:
    _install(site, "one", "acme/a", "acme_twice_a", _class("acme/a"))
    _install(site, "two", "acme/a", "acme_twice_b", _class("acme/a"))
    with pytest.raises(InvalidConfig, match="isolator acme/a comes from one and two"):
        choose("acme/a")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("raise RuntimeError('broken inside')", "cannot be loaded from acme_odd:Thing: broken inside"),
        ("Thing = 3", "acme_odd:Thing is not an isolator called acme/odd"),
        (_class("acme/other"), "acme_odd:Thing is not an isolator called acme/odd"),
    ],
)
def test_a_broken_foreign_isolator_says_so(site: Path, source: str, sentence: str) -> None:
    sys.modules.pop("acme_odd", None)
    _install(site, "odd", "acme/odd", "acme_odd", source)
    with pytest.raises(InvalidConfig, match=sentence):
        choose("acme/odd")


def test_a_foreign_isolator_cannot_take_a_built_in_name(site: Path) -> None:
    _install(site, "bad", "linux/nnp", "acme_bad", _class("linux/nnp"))
    assert registry.load("linux/nnp").__module__ == "mesocosm.isolators.linux.nnp"
