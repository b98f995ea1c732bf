"""Contributions of linux/*: capabilities, no_new_privs, seccomp, rlimits."""

from __future__ import annotations

import base64
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.isolation import host, prepare
from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.isolators.granted import granted
from mesocosm.isolators.linux import filters
from mesocosm.linux import capabilities
from mesocosm.linux.capabilities import ALL, DEFAULT, NAMES
from mesocosm.model import CapabilityRequest, Rlimit
from mesocosm.plan import Contribution, LaunchPlan
from mesocosm.plan.operations import LoadFilter, NoNewPrivileges, SetCapabilities, SetRlimit


def test_dockers_fourteen_by_default_r_17(tmp_path: Path) -> None:
    assert prepare("linux/capabilities", host(tmp_path)) == Contribution(
        steps=(SetCapabilities(bounding=0xA80425FB, permitted=0xA80425FB, effective=0xA80425FB),),
        notes=("capabilities: 14 of 41",),
    )


def _mask(*names: str) -> int:
    return capabilities.mask(names)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (("sys_time",), (), DEFAULT | _mask("SYS_TIME")),
        ((), ("CAP_CHOWN",), DEFAULT & ~_mask("CHOWN")),
        ((), ("all",), 0),
        (("KILL", "cap_chown"), ("ALL",), _mask("KILL", "CHOWN")),
        (("ALL",), (), ALL),
        (("all",), ("MKNOD", "NET_RAW"), ALL & ~_mask("MKNOD", "NET_RAW")),
        (("NET_RAW",), ("NET_RAW",), DEFAULT),
        (("SYS_TIME",), ("CAP_sys_time", "CHOWN"), (DEFAULT | _mask("SYS_TIME")) & ~_mask("CHOWN")),
    ],
)
def test_additions_and_removals_as_docker_has_them(
    add: tuple[str, ...], drop: tuple[str, ...], expected: int
) -> None:
    assert granted(CapabilityRequest(add=add, drop=drop), ALL) == expected


_words = st.lists(st.sampled_from([*NAMES, "ALL", "all", *(name[4:].lower() for name in NAMES)]), max_size=4)


@given(_words, st.integers(0, ALL))
def test_nothing_is_granted_above_the_ceiling(drop: list[str], ceiling: int) -> None:
    assert not granted(CapabilityRequest(drop=tuple(drop)), ceiling) & ~ceiling
    assert not granted(CapabilityRequest(add=("ALL",), drop=tuple(drop)), ceiling) & ~ceiling


def test_what_this_process_lacks_cannot_be_added_by_name(tmp_path: Path) -> None:
    poor = host(tmp_path, capabilities=ALL & ~_mask("SYS_RESOURCE"))
    with pytest.raises(Unsupported, match="capability CAP_SYS_RESOURCE cannot be given"):
        prepare("linux/capabilities", poor, capabilities=CapabilityRequest(add=("SYS_RESOURCE",)))
    assert prepare("linux/capabilities", poor, capabilities=CapabilityRequest(add=("ALL",))).steps


@pytest.mark.parametrize("side", ["add", "drop"])
def test_an_unknown_capability_gets_the_nearest(side: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"'net_amdin' \(did you mean CAP_NET_ADMIN\?\)"):
        prepare(
            "linux/capabilities",
            host(tmp_path),
            capabilities=CapabilityRequest(**{side: ("net_amdin",)}),
        )


def test_no_new_privileges_unless_given_up_r_21(tmp_path: Path) -> None:
    assert prepare("linux/nnp", host(tmp_path)).steps == (NoNewPrivileges(),)
    assert prepare("linux/nnp", host(tmp_path), no_new_privileges=False).steps == ()


def _filter(**config: object) -> tuple[bytes, Contribution]:
    found = prepare("linux/seccomp", host(Path("/nowhere")), **config)
    (step,) = found.steps
    assert isinstance(step, LoadFilter)
    return base64.b64decode(step.program), found


def test_the_default_profile_is_compiled_r_22() -> None:
    program, found = _filter()
    assert len(program) % 8 == 0 and len(program) > 800
    assert "denied" in found.notes[0] and not found.warnings


def test_the_filter_follows_the_bounding_set_sec_1() -> None:
    plain, _ = _filter()
    more, _ = _filter(capabilities=CapabilityRequest(add=("SYS_ADMIN",)))
    fewer, _ = _filter(capabilities=CapabilityRequest(drop=("SYS_CHROOT",)))
    assert len({plain, more, fewer}) == 3


def test_compiled_filters_are_kept() -> None:
    assert _filter()[1].steps[0] == _filter()[1].steps[0]


def test_what_was_compiled_ahead_is_what_the_compiler_makes_now() -> None:
    assert filters.AHEAD.read_bytes() == filters.make_ahead() + b"\n", "run scripts/compile-filters"


def test_a_container_that_asks_for_nothing_costs_no_compiler() -> None:
    """Its import, the profile and the compiler take 30 ms of a fresh process."""
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from fixtures.isolation import host, prepare\n"
        "assert prepare('linux/seccomp', host(Path('/h'))).steps\n"
        "print([name for name in sys.modules if name.endswith('linux.seccomp')])"
    )
    path = os.pathsep.join(sys.path)
    found = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert found.stdout == "['mesocosm.isolators.linux.seccomp']\n"


def test_another_profile_or_kernel_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = filters.default_filter(DEFAULT, (6, 1))
    assert filters.default_filter(DEFAULT, (4, 7)) == ahead  # compiled for this host's kernel
    monkeypatch.setattr(filters, "digest", lambda: "sha256:other")
    monkeypatch.setattr(filters, "compiled", lambda *_: "compiled")
    assert filters.default_filter(DEFAULT, (6, 1)) == "compiled"  # type: ignore[comparison-overlap]


def test_only_the_word_unconfined_switches_it_off() -> None:
    assert prepare("linux/seccomp", host(Path("/nowhere")), seccomp="unconfined").steps == ()


@pytest.mark.parametrize("text", ["", " ", "Unconfined", "runtime/default", "/etc/profile.json", "[]", "{"])
def test_no_other_word_does_cve_2023_2431(text: str) -> None:
    with pytest.raises(InvalidConfig, match="seccomp profile"):
        prepare("linux/seccomp", host(Path("/nowhere")), seccomp=text)


def test_a_profile_of_the_request_is_compiled_and_oddities_are_told() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["read", "call_of_2099"], "action": "SCMP_ACT_ALLOW"}],
    }
    _, found = _filter(seccomp=json.dumps(profile))
    assert found.notes[0].startswith("system calls: 1 allowed")
    assert any("call_of_2099" in warning for warning in found.warnings)
    assert any("flags" in warning for warning in found.warnings)


def test_without_no_new_privs_the_filter_is_loaded_while_it_can_be(tmp_path: Path) -> None:
    here = host(tmp_path)
    parts = [
        (name, prepare(name, here, no_new_privileges=False))
        for name in ("image/runtime", "linux/nnp", "linux/seccomp", "linux/capabilities")
    ]
    order = [step.__struct_config__.tag for step in LaunchPlan.compose("x", parts).steps]
    assert order.index("syscall-filter-early") < order.index("capabilities")


def _hard_core() -> int | None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def test_core_dumps_are_off_unless_asked_for(tmp_path: Path) -> None:
    assert prepare("linux/rlimits", host(tmp_path)) == Contribution(
        steps=(SetRlimit(name="core", soft=0, hard=_hard_core()),), notes=("core dumps: off",)
    )
    asked = prepare("linux/rlimits", host(tmp_path), rlimits=(Rlimit("core", 7, 8),))
    assert asked.steps == (SetRlimit(name="core", soft=7, hard=8),)


def test_limits_go_by_any_spelling_rl_1(tmp_path: Path) -> None:
    asked = (Rlimit("RLIMIT_NOFILE", 10, 20), Rlimit("MemLock", None, None))
    found = prepare("linux/rlimits", host(tmp_path), rlimits=asked)
    assert found.steps[:2] == (
        SetRlimit(name="nofile", soft=10, hard=20),
        SetRlimit(name="memlock", soft=None, hard=None),
    )
    assert found.notes == ("nofile: 10", "memlock: unlimited", "core dumps: off")


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ((Rlimit("nofiles", 1, 1),), r"'nofiles' \(did you mean nofile\?\)"),
        ((Rlimit("nofile", 2, 1),), "limit nofile: 2 is above 1"),
        ((Rlimit("nofile", None, 1),), "limit nofile: unlimited is above 1"),
        ((Rlimit("nofile", -1, 1),), "limit nofile"),
        ((Rlimit("nofile", 1, 1 << 65),), "limit nofile"),
        ((Rlimit("nofile", 1, 1), Rlimit("NOFILE", 2, 2)), "given twice"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    limits: tuple[Rlimit, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfig, match=sentence):
        prepare("linux/rlimits", host(tmp_path), rlimits=limits)
