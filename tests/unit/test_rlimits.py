"""linux/rlimits: names, and limits beyond what is allowed."""

from __future__ import annotations

import os
import resource

import pytest

from mesocosm.linux import rlimits


@pytest.mark.parametrize("name", sorted(rlimits.NUMBERS))
def test_numbers_are_the_standard_librarys(name: str) -> None:
    known = getattr(resource, f"RLIMIT_{name.upper()}", None)
    assert known is None or known == rlimits.number_of(name)
    assert rlimits.canonical(f"RLIMIT_{name.upper()}") == name


@pytest.mark.parametrize("name", ["", "rlimit_", "nofiles", "RLIMIT_RLIMIT_CPU", " cpu"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="resource limit"):
        rlimits.number_of(name)


def in_child(steps: str) -> str:
    """Run Python in a child of its own, because a lowered hard limit stays lowered; what it prints."""
    import subprocess
    import sys

    code = f"from mesocosm.linux import rlimits, syscalls\n{steps}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_limit_is_set_and_read_back() -> None:
    assert (
        in_child("print(rlimits.apply('core', 0, 4096)); print(rlimits.get('RLIMIT_CORE'))")
        == "None\n(0, 4096)"
    )


def test_what_is_not_allowed_is_clamped_with_a_warning() -> None:
    """Lowered for good without CAP_SYS_RESOURCE, then asked back."""
    steps = (
        "from mesocosm.linux import capabilities as c\n"
        "e, p, i = syscalls.capget(); n = ~(1 << c.number('SYS_RESOURCE'))\n"
        "syscalls.capset(e & n, p & n, i & n)\n"
        "assert rlimits.apply('nofile', 64, 128) is None\n"
        "print(rlimits.apply('nofile', 100, 4096)); print(rlimits.get('nofile'))\n"
        "print(rlimits.apply('nofile', rlimits.UNLIMITED, rlimits.UNLIMITED)); print(rlimits.get('nofile'))"
    )
    first, now, second, then = in_child(steps).splitlines()
    assert first == "limit nofile 100:4096 is more than is allowed here, set to 100:128"
    assert now == "(100, 128)"
    assert "unlimited:unlimited" in second and then == "(128, 128)"


def test_soft_above_hard_is_refused_not_clamped() -> None:
    before = rlimits.get("core")
    with pytest.raises(OSError, match="limit core"):
        rlimits.apply("core", 2, 1)
    assert rlimits.get("core", os.getpid()) == before
