"""Reading profiles: both dialects, and every way of not being one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesocosm.errors import InvalidConfig, MesocosmError, Unsupported
from mesocosm.linux.seccomp_profile import MAX_PROFILE, Argument, parse_profile

RULE: dict[str, Any] = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
MINIMAL: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [RULE]}


def refusal(document: object) -> str:
    with pytest.raises(InvalidConfig) as raised:
        parse_profile(document if isinstance(document, bytes) else json.dumps(document).encode())
    return str(raised.value)


def with_rule(**changes: object) -> dict[str, Any]:
    return {**MINIMAL, "syscalls": [{**RULE, **changes}]}


def with_argument(**changes: object) -> dict[str, Any]:
    return with_rule(args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **changes}])


def test_sec1_docker_format() -> None:
    profile = parse_profile(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ERRNO",
                "defaultErrnoRet": 1,
                "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
                "syscalls": [
                    {
                        "name": "clone",
                        "action": "SCMP_ACT_ALLOW",
                        "args": [
                            {"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
                        ],
                        "comment": "",
                        "includes": {},
                        "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]},
                    },
                    {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                ],
            }
        ).encode()
    )
    clone, ptrace = profile.rules
    assert clone.calls == ("clone",)
    assert clone.args == (Argument(index=0, value=2114060288, op="SCMP_CMP_MASKED_EQ"),)
    assert clone.excludes.caps == ("CAP_SYS_ADMIN",)
    assert ptrace.includes.kernel == (4, 8)
    assert profile.arch_map[0].sub_architectures == ("SCMP_ARCH_X86",)
    assert profile.default_errno == 1


def test_runtime_specification_format() -> None:
    document = {**MINIMAL, "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"]}
    profile = parse_profile(json.dumps(document).encode())
    assert profile.architectures == ("SCMP_ARCH_X86_64",)
    assert profile.flags == ("SECCOMP_FILTER_FLAG_LOG",)
    assert profile.digest.startswith("sha256:")


def test_null_is_an_absent_key_as_go_writes_it() -> None:
    document = {**with_rule(args=None, includes=None, errnoRet=None), "architectures": None}
    assert parse_profile(json.dumps(document).encode()).rules[0].args == ()


def test_unknown_calls_are_skipped_and_listed() -> None:
    document = with_rule(names=["read", "riscv_hwprobe", "a_call_of_linux_9"])
    profile = parse_profile(json.dumps(document).encode())
    assert profile.unknown == ("a_call_of_linux_9", "riscv_hwprobe")


def test_r22_an_unknown_call_that_a_rule_restricts_is_refused_where_the_default_allows() -> None:
    """A misspelt name in a deny list would fail open."""
    document = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mounnt"], "action": "SCMP_ACT_ERRNO"}],
    }
    assert "mounnt" in refusal(document)
    document["defaultAction"] = "SCMP_ACT_KILL"
    assert parse_profile(json.dumps(document).encode()).unknown == ("mounnt",)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({**MINIMAL, "default_action": "x"}, "default_action"),
        ({**MINIMAL, "sysCalls": []}, "sysCalls"),
        (with_rule(arg=[]), "arg"),
        (with_argument(valueThree=1), "valueThree"),
        (with_rule(includes={"kernel": "4.8"}), "kernel"),
        ({**MINIMAL, "archMap": [{"architecture": "SCMP_ARCH_X86", "sub": []}]}, "sub"),
    ],
)
def test_unknown_keys_are_named(document: object, named: str) -> None:
    assert f"`{named}`" in refusal(document)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"syscalls": []}, "defaultAction"),
        ({**MINIMAL, "defaultAction": "SCMP_ACT_PERMIT"}, "SCMP_ACT_PERMIT"),
        ({**MINIMAL, "defaultAction": ""}, "defaultAction"),
        ({**MINIMAL, "defaultErrnoRet": 4096}, "defaultErrnoRet"),
        ({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}, "defaultErrnoRet"),
        ({**MINIMAL, "architectures": ["x86_64"]}, "x86_64"),
        (
            {**MINIMAL, "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86"}]},
            "archMap",
        ),
        ({**MINIMAL, "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}, "flags[0]"),
        (with_rule(action="scmp_act_allow"), "syscalls[0].action"),
        (with_rule(errnoRet=1), "syscalls[0].errnoRet"),
        (with_rule(action="SCMP_ACT_ERRNO", errnoRet=-1), "syscalls[0].errnoRet"),
        (with_rule(names=[]), "syscalls[0]"),
        (with_rule(name="write"), "name and names"),
        (with_rule(names=["read\n"]), "syscalls[0]"),
        (with_rule(names=["r\u00e9ad"]), "syscalls[0]"),
        (with_rule(names="read"), "syscalls[0].names"),
        (with_rule(includes={"caps": ["SYS_ADMIN"]}), "syscalls[0].includes.caps"),
        (with_rule(includes={"caps": ["CAP_SYS_ADMIN\n"]}), "syscalls[0].includes.caps"),
        (with_rule(excludes={"minKernel": "4"}), "syscalls[0].excludes.minKernel"),
        (with_rule(includes={"minKernel": "4.\u0668"}), "syscalls[0].includes.minKernel"),
        (with_argument(index=6), "syscalls[0].args[0].index"),
        (with_argument(index=-1), "syscalls[0].args[0].index"),
        (with_argument(index=True), "syscalls[0].args[0].index"),
        (with_argument(value=1 << 64), "syscalls[0].args[0].value"),
        (with_argument(value=-1), "syscalls[0].args[0].value"),
        (with_argument(value=1.5), "syscalls[0].args[0].value"),
        (with_argument(value="1"), "syscalls[0].args[0].value"),
        (with_argument(valueTwo=1 << 64), "syscalls[0].args[0].valueTwo"),
        (with_argument(op="SCMP_CMP_EQUALS"), "syscalls[0].args[0].op"),
        ([], "object"),
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"defaultAction": NaN}', "NaN"),
        (b'{"defaultErrnoRet": ' + b"9" * 5000 + b"}", "JSON"),
        (b'{"defaultAction": "SCMP_ACT_ALLOW", "defaultAction": "SCMP_ACT_ERRNO"}', "defaultAction"),
        (b'{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [], "names": []}]}', "twice"),
        (b" " * (MAX_PROFILE + 1), str(MAX_PROFILE)),
    ],
)
def test_what_is_no_profile_is_refused_with_its_place(document: object, said: str) -> None:
    message = refusal(document)
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "document",
    [
        {**MINIMAL, "defaultAction": "SCMP_ACT_NOTIFY"},
        with_rule(action="SCMP_ACT_NOTIFY"),
        {**MINIMAL, "listenerPath": "/run/listener"},
    ],
)
def test_profiles_that_need_a_listener_are_unsupported(document: object) -> None:
    with pytest.raises(Unsupported, match="listener"):
        parse_profile(json.dumps(document).encode())


def test_the_largest_value_is_kept() -> None:
    document = with_argument(value=(1 << 64) - 1)
    assert parse_profile(json.dumps(document).encode()).rules[0].args[0].value == (1 << 64) - 1


@settings(max_examples=200)
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr).map(str.encode)
)
def test_any_bytes_are_a_profile_or_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(MesocosmError):
        parse_profile(data)
