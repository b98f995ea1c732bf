"""The filter compiler: every verdict of our programs, run by an interpreter of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.sandbox_defaults import CAPABILITIES, DENIED_CALLS
from mesocosm.errors import Exhausted, Unsupported
from mesocosm.isolators.linux.profiles import load_default
from mesocosm.linux.seccomp import Filter, compile_profile, filter_key, parse_profile
from mesocosm.linux.syscall_table import NEWEST, TABLES, X32_BIT
from seccomp_interpreter import describe, run

KERNEL = (6, 18)
GOLDEN = Path(__file__).parents[1] / "fixtures" / "seccomp_default.json"


def compiled(document: Mapping[str, Any], arch: str = "x86_64", capabilities: Sequence[str] = ()) -> Filter:
    profile = parse_profile(json.dumps(document).encode())
    return compile_profile(profile, capabilities=frozenset(capabilities), arch=arch, kernel=KERNEL)


def default_filter(*more: str, arch: str = "x86_64", kernel: tuple[int, int] = KERNEL) -> Filter:
    capabilities = CAPABILITIES | set(more)
    return compile_profile(load_default(), capabilities=capabilities, arch=arch, kernel=kernel)


def verdict(found: Filter, abi: str, call: str | int, *arguments: int) -> str:
    number = TABLES[abi][call] if isinstance(call, str) else call
    return describe(run(found.program, abi, number, arguments))


ALLOW_READ = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
}


def on(call: str, *args: Mapping[str, Any], action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"names": [call], "action": action, "args": list(args), **more}


def when(index: int, op: str, value: int, two: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": two}


def denying(*rules: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": list(rules),
    }


# --- the default profile ------------------------------------------------------------------------------------


@pytest.mark.parametrize("abi", ["x86_64", "x86", "x32", "aarch64", "arm"])
def test_default_profile_answers_every_number_as_the_golden_list_says(abi: str) -> None:
    """Golden verdict, arguments zero: whatever the list does not name is allowed, what has no name is not."""
    golden: dict[str, str] = {
        name: answer for answer, names in json.loads(GOLDEN.read_text())[abi].items() for name in names
    }
    found = default_filter(arch="aarch64" if abi in ("aarch64", "arm") else "x86_64")
    names = {number: name for name, number in TABLES[abi].items()}
    first = X32_BIT if abi == "x32" else 0
    for number in {*range(first, first + 1024), *names}:
        beyond = "errno(38)" if number - first > NEWEST else "errno(1)"
        expected = golden.get(names[number], "allow") if number in names else beyond
        assert verdict(found, abi, number) == expected, (abi, number, names.get(number))


@pytest.mark.parametrize("abi", ["x86_64", "x86", "x32"])
def test_r22_k03_denied_list_is_denied_on_every_abi(abi: str) -> None:
    found = default_filter()
    for call in DENIED_CALLS:
        if call in TABLES[abi]:
            assert verdict(found, abi, call) == "errno(1)", (abi, call)
    assert verdict(found, abi, "read") == "allow"


@pytest.mark.parametrize("abi", ["x86_64", "x86", "x32", "aarch64", "arm"])
def test_r22_clone3_is_enosys_and_clone_has_no_namespace_bits(abi: str) -> None:
    found = default_filter(arch="aarch64" if abi in ("aarch64", "arm") else "x86_64")
    assert verdict(found, abi, "clone3") == "errno(38)"
    assert verdict(found, abi, "clone", 0x11) == "allow"
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(found, abi, "clone", bit | 0x11) == "errno(1)"


@pytest.mark.parametrize("family", [38, 40])
@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_k03_socket_families_are_denied_whatever_the_upper_half(family: int, high: int) -> None:
    """The kernel takes an int: a filter that compares 64 bits lets the family pass (as CVE-2019-10063)."""
    found = default_filter()
    for abi in ("x86_64", "x32", "x86"):
        assert verdict(found, abi, "socket", family | high) == "errno(1)"
        assert verdict(found, abi, "socket", 2 | high) == "allow"


def test_k03_socketcall_cannot_make_a_socket_but_serves_the_rest() -> None:
    found = default_filter()
    assert verdict(found, "x86", "socketcall", 1) == "errno(1)"
    assert verdict(found, "x86", "socketcall", 1 | 1 << 32) == "errno(1)"
    assert verdict(found, "x86", "socketcall", 3) == "allow"
    assert verdict(found, "x86", "socket", 2) == "allow"


@pytest.mark.parametrize(
    ("persona", "answer"), [(0, "allow"), (8, "allow"), (0x20008, "allow"), (0x400000, "errno(1)")]
)
def test_default_profile_personality(persona: int, answer: str) -> None:
    """0x400000 is READ_IMPLIES_EXEC."""
    assert verdict(default_filter(), "x86_64", "personality", persona) == answer


@pytest.mark.parametrize(
    ("capability", "calls"),
    [
        ("CAP_SYS_ADMIN", ("mount", "unshare", "setns", "clone3", "bpf", "fsopen")),
        ("CAP_SYS_PTRACE", ("kcmp", "pidfd_getfd")),
        ("CAP_SYS_MODULE", ("init_module",)),
        ("CAP_BPF", ("bpf",)),
        ("CAP_SYS_TIME", ("clock_settime",)),
        ("CAP_DAC_READ_SEARCH", ("open_by_handle_at",)),
    ],
)
def test_sec1_capabilities_of_the_container_open_their_calls(capability: str, calls: Sequence[str]) -> None:
    for call in calls:
        assert verdict(default_filter(), "x86_64", call) != "allow"
        assert verdict(default_filter(capability), "x86_64", call) == "allow"
        assert verdict(default_filter(capability), "x86_64", "keyctl") == "errno(1)"
    assert (verdict(default_filter(capability), "x86_64", "clone", 0x20000) == "allow") == (
        capability == "CAP_SYS_ADMIN"
    )


def test_ptrace_waits_for_linux_4_8() -> None:
    assert verdict(default_filter(kernel=(4, 7)), "x86_64", "ptrace") == "errno(1)"
    assert verdict(default_filter(kernel=(4, 8)), "x86_64", "ptrace") == "allow"
    assert verdict(default_filter(kernel=(10, 0)), "x86_64", "ptrace") == "allow"


def test_default_profile_names_only_known_calls() -> None:
    assert load_default().unknown == ()


# --- what is not in the profile -----------------------------------------------------------------------------


def test_r22_numbers_beyond_the_newest_are_enosys() -> None:
    found = default_filter()
    for number in (NEWEST + 1, 600, X32_BIT - 1, 0xFFFFFFFF, X32_BIT | (NEWEST + 1), X32_BIT | 600):
        assert verdict(found, "x86_64", number) == "errno(38)"
    assert verdict(found, "x86_64", 400) == "errno(1)"


def test_r22_an_abi_outside_the_profile_is_enosys_even_when_the_default_allows() -> None:
    for default in ("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL"):
        found = compiled({**ALLOW_READ, "defaultAction": default})
        assert found.arches == ("x86_64",)
        assert verdict(found, "x86_64", "read") == "allow"
        for abi in ("x86", "x32", "arm"):
            assert verdict(found, abi, "read") == "errno(38)"


def test_a_default_that_allows_allows_new_calls() -> None:
    found = compiled({"defaultAction": "SCMP_ACT_ALLOW"})
    assert verdict(found, "x86_64", NEWEST + 1) == "allow"


def test_architectures_of_another_cpu_cost_nothing() -> None:
    found = compiled({**ALLOW_READ, "architectures": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_S390X"]})
    assert found.arches == ("x86_64",)


def test_arch_map_follows_the_host() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
    }
    assert compiled(profile).arches == ("x86_64", "x86")
    assert compiled(profile, arch="aarch64").arches == ("aarch64", "arm")


def test_architecture_without_a_table_is_refused() -> None:
    with pytest.raises(Unsupported, match="riscv64"):
        compiled(ALLOW_READ, arch="riscv64")


# --- rules --------------------------------------------------------------------------------------------------


def test_conditions_decide_whether_a_rule_is_there() -> None:
    found = compiled(
        denying(
            on("mount", includes={"caps": ["CAP_SYS_ADMIN"]}),
            on("bpf", includes={"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}),
            on("read", excludes={"caps": ["CAP_SYS_ADMIN"]}),
            on("write", includes={"arches": ["amd64"]}),
            on("open", includes={"arches": ["arm64"]}),
            on("close", excludes={"arches": ["amd64"]}),
            on("stat", includes={"minKernel": "6.19"}),
            on("fstat", includes={"minKernel": "6.2"}),
            on("lstat", excludes={"minKernel": "6.2"}),
        ),
        capabilities=["CAP_SYS_ADMIN"],
    )
    calls = ("mount", "bpf", "read", "write", "open", "close", "stat", "fstat", "lstat")
    assert [call for call in calls if verdict(found, "x86_64", call) == "allow"] == [
        "mount",
        "write",
        "fstat",
    ]


def test_the_most_restrictive_rule_wins_in_any_order() -> None:
    rules = [
        on("ioctl"),
        on("ioctl", when(1, "EQ", 0x5412), action="SCMP_ACT_ERRNO", errnoRet=13),
        on("ioctl", when(1, "EQ", 0x5412), when(0, "EQ", 7), action="SCMP_ACT_KILL_PROCESS"),
    ]
    for order in (rules, rules[::-1], [rules[1], rules[0], rules[2]]):
        found = compiled(denying(*order))
        assert verdict(found, "x86_64", "ioctl", 1, 0x5401) == "allow"
        assert verdict(found, "x86_64", "ioctl", 1, 0x5412) == "errno(13)"
        assert verdict(found, "x86_64", "ioctl", 7, 0x5412) == "kill_process"


def test_tiocsti_cannot_be_hidden_behind_a_high_bit() -> None:
    """CVE-2019-10063: the kernel reads an unsigned int command."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [on("ioctl", when(1, "EQ", 0x5412), action="SCMP_ACT_ERRNO")],
    }
    found = compiled(profile)
    assert verdict(found, "x86_64", "ioctl", 0, 0x5412 | 1 << 32) == "errno(1)"
    assert verdict(found, "x86_64", "ioctl", 0, 0x5413 | 1 << 32) == "allow"


def test_two_conditions_on_one_argument_are_alternatives() -> None:
    found = compiled(denying(on("read", when(2, "EQ", 5), when(2, "EQ", 7))))
    answers = [verdict(found, "x86_64", "read", 0, 0, count) for count in (4, 5, 6, 7)]
    assert answers == ["errno(1)", "allow", "errno(1)", "allow"]


def test_multiplexed_calls_follow_what_they_hide() -> None:
    found = compiled(denying(on("bind"), on("semget"), on("socket", when(0, "EQ", 1))))
    assert verdict(found, "x86", "socketcall", 2) == "allow"
    assert verdict(found, "x86", "socketcall", 1) == "errno(1)"  # the family cannot be seen
    assert verdict(found, "x86", "socketcall", 3) == "errno(1)"
    assert verdict(found, "x86", "ipc", 2) == "allow"
    assert verdict(found, "x86", "ipc", 0x10002) == "allow"
    assert verdict(found, "x86", "ipc", 3) == "errno(1)"


def test_multiplexed_calls_are_denied_with_what_they_hide() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            on("socket", when(0, "EQ", 38), action="SCMP_ACT_ERRNO"),
            on("shmat", action="SCMP_ACT_ERRNO"),
        ],
    }
    found = compiled(profile)
    assert verdict(found, "x86", "socketcall", 1) == "errno(1)"
    assert verdict(found, "x86", "socketcall", 3) == "allow"
    assert verdict(found, "x86", "ipc", 21) == "errno(1)"
    assert verdict(found, "x86", "ipc", 21 | 1 << 16) == "errno(1)"
    assert verdict(found, "x86", "ipc", 22) == "allow"


@pytest.mark.parametrize(
    ("action", "answer"),
    [
        ("SCMP_ACT_KILL", "kill_thread"),
        ("SCMP_ACT_KILL_THREAD", "kill_thread"),
        ("SCMP_ACT_KILL_PROCESS", "kill_process"),
        ("SCMP_ACT_TRAP", "trap"),
        ("SCMP_ACT_ERRNO", "errno(1)"),
        ("SCMP_ACT_TRACE", "trace(1)"),
        ("SCMP_ACT_LOG", "log"),
    ],
)
def test_actions(action: str, answer: str) -> None:
    found = compiled({"defaultAction": action, "syscalls": [on("read")]})
    assert found.default_action == answer
    assert verdict(found, "x86_64", "read") == "allow"
    assert verdict(found, "x86_64", "write") == answer


def test_errno_values() -> None:
    document = {**denying(on("mount", action="SCMP_ACT_ERRNO", errnoRet=13)), "defaultErrnoRet": 95}
    found = compiled(document)
    assert verdict(found, "x86_64", "mount") == "errno(13)"
    assert verdict(found, "x86_64", "read") == "errno(95)"


def test_flags_are_bits() -> None:
    flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    assert compiled({**ALLOW_READ, "flags": flags}).flags == 6


# --- size, summary, cache -----------------------------------------------------------------------------------


def test_far_jumps_reach() -> None:
    """More code behind each comparison than a conditional jump's 255 instructions."""
    calls = sorted(TABLES["x86_64"])[:220]
    rules = [on(call, when(3, "EQ", 1000 + n), when(4, "GT", n)) for n, call in enumerate(calls)]
    found = compiled({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})
    assert 1500 < found.instructions <= 4096
    for n, call in enumerate(calls):
        assert verdict(found, "x86_64", call, 0, 0, 0, 1000 + n, n + 1) == "allow"
        assert verdict(found, "x86_64", call, 0, 0, 0, 1000 + n, n) == "errno(1)"
        assert verdict(found, "x86_64", call, 0, 0, 0, 1001 + n, n + 1) == "errno(1)"


def test_a_program_longer_than_the_kernel_takes_is_refused() -> None:
    rules = [on("read", when(0, "EQ", n), when(1, "EQ", n), when(2, "EQ", n)) for n in range(1000)]
    with pytest.raises(Exhausted, match="4096"):
        compiled({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})


def test_summary_says_what_the_filter_does() -> None:
    found = default_filter()
    assert found.default_action == "errno(1)"
    assert found.arches == ("x86_64", "x32", "x86")
    assert found.instructions == len(found.program) // 8
    assert "clone: allow if arg0 & 0x7e020000 == 0x0; else errno(1)" in found.conditional
    assert {"mount", "clone3", "keyctl"} <= set(found.denied)
    assert found.allowed + len(found.conditional) + len(found.denied) == len(TABLES["x86_64"])


def test_the_same_request_is_the_same_filter_and_another_is_not() -> None:
    assert default_filter() is default_filter()
    assert default_filter() is not default_filter("CAP_SYS_ADMIN")
    keys = {
        filter_key(load_default(), capabilities=caps, arch=arch, kernel=kernel)
        for caps in (frozenset[str](), CAPABILITIES)
        for arch in ("x86_64", "aarch64")
        for kernel in ((4, 7), (4, 8))
    }
    assert len(keys) == 8


# --- random profiles against a direct evaluation ------------------------------------------------------------

ACTIONS = {
    "SCMP_ACT_KILL_PROCESS": "kill_process",
    "SCMP_ACT_KILL_THREAD": "kill_thread",
    "SCMP_ACT_TRAP": "trap",
    "SCMP_ACT_ERRNO": "errno",
    "SCMP_ACT_TRACE": "trace",
    "SCMP_ACT_LOG": "log",
    "SCMP_ACT_ALLOW": "allow",
}
SEVERITY = list(ACTIONS)
CALLS = ["read", "write", "mmap", "clone", "openat2", "listns", "rt_sigaction", "getuid32"]
INTERESTING = [0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, 1 << 63, (1 << 64) - 1]

values = st.one_of(st.sampled_from(INTERESTING), st.integers(0, (1 << 64) - 1), st.integers(0, 8))
conditions = st.fixed_dictionaries(
    {
        "index": st.integers(0, 5),
        "op": st.sampled_from([f"SCMP_CMP_{op}" for op in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")]),
        "value": values,
        "valueTwo": values,
    }
)
rules = st.builds(
    lambda names, action, errno, args: {
        "names": names,
        "action": action,
        "args": args,
        **({"errnoRet": errno} if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE") else {}),
    },
    st.lists(st.sampled_from(CALLS), min_size=1, max_size=4, unique=True),
    st.sampled_from(SEVERITY),
    st.just(7),  # between rules with two errno values either is right
    st.lists(conditions, max_size=3),
)
documents = st.fixed_dictionaries(
    {
        "defaultAction": st.sampled_from(SEVERITY),
        "architectures": st.just(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        "syscalls": st.lists(rules, max_size=8),
    }
)


def holds(condition: Mapping[str, Any], arguments: Sequence[int], bits: int) -> bool:
    argument = arguments[condition["index"]] & bits
    value, two = condition["value"] & bits, condition["valueTwo"] & bits
    answers: dict[str, bool] = {
        "SCMP_CMP_NE": argument != value,
        "SCMP_CMP_LT": argument < value,
        "SCMP_CMP_LE": argument <= value,
        "SCMP_CMP_EQ": argument == value,
        "SCMP_CMP_GE": argument >= value,
        "SCMP_CMP_GT": argument > value,
        "SCMP_CMP_MASKED_EQ": argument & value == two,
    }
    return answers[condition["op"]]


def matches(rule: Mapping[str, Any], call: str, arguments: Sequence[int], bits: int) -> bool:
    found = [holds(condition, arguments, bits) for condition in rule["args"]]
    alternatives = len({condition["index"] for condition in rule["args"]}) < len(found)
    return call in rule["names"] and (any(found) if alternatives else all(found))


def evaluate(document: Mapping[str, Any], call: str, arguments: Sequence[int], abi: str) -> str:
    bits = 0xFFFFFFFF if abi == "x86" else (1 << 64) - 1
    said = [rule for rule in document["syscalls"] if matches(rule, call, arguments, bits)]
    if not said:
        action, errno = document["defaultAction"], 1
    else:
        action, errno = min((rule["action"] for rule in said), key=SEVERITY.index), 7
    return f"{ACTIONS[action]}({errno})" if ACTIONS[action] in ("errno", "trace") else ACTIONS[action]


@settings(max_examples=150)
@given(documents, st.lists(st.lists(values, min_size=6, max_size=6), min_size=4, max_size=4), st.data())
def test_program_equals_direct_evaluation(
    document: dict[str, Any], drawn: list[list[int]], data: st.DataObject
) -> None:
    found = compiled(document)
    near = [c["value"] for rule in document["syscalls"] for c in rule["args"]] or [0]
    for arguments in drawn:
        index = data.draw(st.integers(0, 5))
        arguments[index] = (data.draw(st.sampled_from(near)) + data.draw(st.integers(-1, 1))) % (1 << 64)
        for abi in ("x86_64", "x86", "x32"):
            seen = [argument & 0xFFFFFFFF for argument in arguments] if abi == "x86" else arguments
            for call in CALLS:
                if call in TABLES[abi]:
                    assert verdict(found, abi, call, *seen) == evaluate(document, call, seen, abi)
