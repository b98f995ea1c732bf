"""linux/devices and linux/bpf: rules, and the program they become, run by a small interpreter."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import InvalidConfig
from mesocosm.linux import bpf
from mesocosm.linux.devices import DEFAULT, EVERYTHING, DeviceRule, compile_rules

BITS = {"m": bpf.MKNOD, "r": bpf.READ, "w": bpf.WRITE}
KINDS = {"b": bpf.BLOCK, "c": bpf.CHARACTER}


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> int:
    """What the kernel would get as an answer; the few operations our programs have, and no others."""
    word = KINDS[kind] | sum(BITS[letter] for letter in access) << 16
    context = struct.pack("<III", word, major, minor)
    registers: list[int | None] = [None] * 11
    registers[1] = 0

    def value(register: int) -> int:
        held = registers[register]
        assert held is not None, f"r{register} is read before it is written"
        return held

    counter = 0
    while True:
        code, both, offset, constant = struct.unpack_from("<BBhi", program, counter * 8)
        target, source = both & 15, both >> 4
        counter += 1
        if code == bpf.LOAD_WORD:
            (registers[target],) = struct.unpack_from("<I", context, value(source) + offset)
        elif code == bpf.MOVE:
            registers[target] = value(source)
        elif code == bpf.MOVE_VALUE:
            registers[target] = constant
        elif code == bpf.AND_VALUE:
            registers[target] = value(target) & constant
        elif code == bpf.SHIFT_RIGHT:
            registers[target] = value(target) >> constant
        elif code == bpf.JUMP_UNLESS_VALUE:
            counter += offset if value(target) != constant else 0
        elif code == bpf.JUMP_UNLESS:
            counter += offset if value(target) != value(source) else 0
        else:
            assert code == bpf.EXIT
            return value(0)


def covers(rule: DeviceRule, kind: str, major: int, minor: int, access: str) -> bool:
    return (
        rule.kind in ("a", kind)
        and rule.major in (None, major)
        and rule.minor in (None, minor)
        and set(access) <= set(rule.access)
    )


numbers = st.one_of(st.none(), st.integers(0, 4))
letters = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda chosen: "".join(sorted(chosen)))
rules = st.one_of(
    st.builds(DeviceRule, st.sampled_from("bc"), numbers, numbers, letters),
    st.builds(DeviceRule, st.just("a"), access=letters),
)


@given(st.lists(rules, max_size=12), st.sampled_from("bc"), st.integers(0, 4), st.integers(0, 4), letters)
def test_the_program_lets_pass_exactly_what_a_rule_covers(
    allowed: list[DeviceRule], kind: str, major: int, minor: int, access: str
) -> None:
    """Rules for the same device count as one with all their accesses, as on v1."""
    merged: dict[tuple[str, int | None, int | None], set[str]] = {}
    for rule in allowed:
        merged.setdefault((rule.kind, rule.major, rule.minor), set()).update(rule.access)
    joined = [DeviceRule(*place, "".join(sorted(accesses))) for place, accesses in merged.items()]
    wanted = any(covers(rule, kind, major, minor, access) for rule in joined)
    assert run(compile_rules(allowed), kind, major, minor, access) == int(wanted)


def test_no_rule_is_no_device() -> None:
    assert run(compile_rules([]), "c", 1, 3, "r") == 0


@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "allowed"),
    [
        ("c", 1, 3, "rw", True),
        ("c", 136, 7, "rw", True),
        ("b", 7, 0, "m", True),
        ("b", 7, 0, "r", False),
        ("b", 7, 0, "rm", False),
        ("c", 1, 1, "r", False),
        ("c", 10, 229, "rw", False),
        ("b", 1, 3, "r", False),
    ],
)
def test_the_default_list(kind: str, major: int, minor: int, access: str, allowed: bool) -> None:
    """R-24: disks, loop devices, memory and fuse stay shut; a container's own /dev works."""
    assert run(compile_rules(DEFAULT), kind, major, minor, access) == int(allowed)


def test_everything_ends_the_program() -> None:
    """The verifier refuses instructions that nothing leads to."""
    program = compile_rules([DEFAULT[2], EVERYTHING, DEFAULT[3]])
    assert run(program, "b", 8, 0, "rwm") == 1
    assert program.endswith(compile_rules([EVERYTHING])[-16:])


@pytest.mark.parametrize("text", ["c 1:3 rwm", "b 8:* r", "c *:* m", "a *:* rwm"])
def test_text_form(text: str) -> None:
    rule = DeviceRule.parse(text)
    assert str(rule) == text
    assert DeviceRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    ["", "c", "c 1:3", "c 1:3 x", "c 1:3 rwmr", "d 1:3 r", "c 1 r", "c 4096:0 r", "c 0:1048576 r", "c -1:3 r"]
    + ["c \u0661:3 r", "c 1:3 rwm\n c 1:1 r", "a 1:3 rwm"],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig):
        DeviceRule.parse(text)


def test_the_rule_of_a_node() -> None:
    assert DeviceRule.of_node("/dev/null", "rw") == DeviceRule("c", 1, 3, "rw")
    with pytest.raises(InvalidConfig, match="not a device"):
        DeviceRule.of_node("/dev")
