"""What a profile's rules come to for each system call of one ABI, before it becomes a program.

- Every rule that names the call and whose arguments match has a say, and the most restrictive action wins, in
  the kernel's own order between filters (seccomp(2): kill before trap, errno, trace, log, allow).  The order
  of the rules in the file decides nothing but which of two errno values is returned.
- Conditions on different arguments of one rule must all hold; two on the same argument make each condition of
  the rule an alternative (as the runtimes in the field have it).
- Arguments that the kernel cuts to 32 bits are compared in 32 bits: a 64-bit comparison is passed by setting
  a high bit that the kernel then drops (CVE-2019-10063, CVE-2019-7303).
- ``socketcall`` and ``ipc`` of the 32-bit x86 ABI follow the calls that they hide: allowed with an
  unconditional rule, denied with any rule that denies, since the arguments behind the pointer are unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from mesocosm.linux.seccomp_profile import PERMISSIVE, Argument, Rule
from mesocosm.linux.syscall_table import IPC_CALLS, SOCKETCALLS, TABLES

EPERM: Final = 1
ENOSYS: Final = 38

_RETURNS: Final = {  # linux/seccomp.h
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_ACTIONS: Final = {value: name for name, value in _RETURNS.items()}
_CARRIES_ERRNO: Final = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"})
_DATA: Final = 0xFFFF  # the part of a return value that is not the action

NARROW_ABIS: Final = frozenset({"x86", "arm"})
"""ABIs whose arguments are 32 bits wide.  x32 hands over whole 64-bit registers."""

# Arguments declared int or unsigned int in the kernel, where profiles look: the upper half is dropped.
_INT_ARGUMENTS: Final[Mapping[str, frozenset[int]]] = {
    "arch_prctl": frozenset({0}),
    "bpf": frozenset({0}),
    "fcntl": frozenset({0, 1}),
    "futex": frozenset({1}),
    "getsockopt": frozenset({0, 1, 2}),
    "ioctl": frozenset({0, 1}),
    "keyctl": frozenset({0}),
    "kill": frozenset({0, 1}),
    "open": frozenset({1, 2}),
    "openat": frozenset({0, 2, 3}),
    "personality": frozenset({0}),
    "prctl": frozenset({0}),
    "quotactl": frozenset({0}),
    "setns": frozenset({0, 1}),
    "setsockopt": frozenset({0, 1, 2}),
    "socket": frozenset({0, 1, 2}),
    "socketpair": frozenset({0, 1, 2}),
    "tgkill": frozenset({0, 1, 2}),
    "tkill": frozenset({0, 1}),
}

_LOW: Final = 0xFFFFFFFF
_SIGNS: Final = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
}


class Test(msgspec.Struct, frozen=True):
    """One unsigned comparison; a narrow one sees only the lower half of the argument.

    For ``SCMP_CMP_MASKED_EQ``, ``value`` is the mask and ``other`` what the masked argument must equal.
    """

    index: int
    op: str
    value: int
    other: int
    narrow: bool

    def __str__(self) -> str:
        if self.op == "SCMP_CMP_MASKED_EQ":
            return f"arg{self.index} & {self.value:#x} == {self.other:#x}"
        return f"arg{self.index} {_SIGNS[self.op]} {self.value:#x}"


class Case(msgspec.Struct, frozen=True):
    """When all tests hold, the filter returns ``value``."""

    tests: tuple[Test, ...]
    value: int

    def __str__(self) -> str:
        return f"{describe(self.value)} if {' and '.join(map(str, self.tests))}"


class Verdict(msgspec.Struct, frozen=True):
    """The first case that holds decides; ``otherwise`` is for none."""

    cases: tuple[Case, ...]
    otherwise: int

    def __str__(self) -> str:
        return "; ".join((*map(str, self.cases), f"else {describe(self.otherwise)}"))

    def values(self) -> frozenset[int]:
        """Everything that may be returned."""
        return frozenset((self.otherwise, *(case.value for case in self.cases)))


def return_value(action: str, errno: int | None) -> int:
    """The value that a filter returns for an action, EPERM where a number is wanted and not given."""
    if action == "SCMP_ACT_KILL":
        action = "SCMP_ACT_KILL_THREAD"
    data = (EPERM if errno is None else errno) if action in _CARRIES_ERRNO else 0
    return _RETURNS[action] | data


def permissive(value: int) -> bool:
    """Whether the call may still be made after this return value."""
    return _ACTIONS[value & ~_DATA] in PERMISSIVE


def describe(value: int) -> str:
    """A return value as text: ``allow``, ``errno(1)``, ``kill_process``."""
    name = _ACTIONS[value & ~_DATA]
    text = name.removeprefix("SCMP_ACT_").lower()
    return f"{text}({value & _DATA})" if name in _CARRIES_ERRNO else text


def verdicts(rules: Iterable[Rule], abi: str, default: int) -> dict[str, Verdict]:
    """The verdict of every call of ``abi`` that some rule names."""
    cases: dict[str, list[Case]] = {}
    for rule in rules:
        value = return_value(rule.action, rule.errno_ret)
        for name in rule.calls:
            for target, case in _cases(rule, name, value, abi):
                cases.setdefault(target, []).append(case)
    table = TABLES[abi]
    return {name: _verdict(found, default) for name, found in cases.items() if name in table}


def _cases(rule: Rule, name: str, value: int, abi: str) -> Iterator[tuple[str, Case]]:
    for tests in _alternatives(rule.args, name, abi):
        yield name, Case(tests, value)
    if abi == "x86" and (not rule.args or not permissive(value)):
        yield from _multiplexed(name, value)


def _multiplexed(name: str, value: int) -> Iterator[tuple[str, Case]]:
    if name in SOCKETCALLS:
        yield "socketcall", Case((Test(0, "SCMP_CMP_EQ", SOCKETCALLS[name], 0, True),), value)
    if name in IPC_CALLS:
        # The upper half of the selector is a version, which the kernel takes off (ipc/syscall.c).
        yield "ipc", Case((Test(0, "SCMP_CMP_MASKED_EQ", 0xFFFF, IPC_CALLS[name], True),), value)


def _alternatives(arguments: tuple[Argument, ...], name: str, abi: str) -> Iterator[tuple[Test, ...]]:
    tests = tuple(_test(argument, name, abi) for argument in arguments)
    if len({test.index for test in tests}) == len(tests):
        yield tests
    else:
        yield from ((test,) for test in tests)


def _test(argument: Argument, name: str, abi: str) -> Test:
    narrow = abi in NARROW_ABIS or argument.index in _INT_ARGUMENTS.get(name, ())
    bits = _LOW if narrow else (_LOW << 32) | _LOW
    return Test(argument.index, argument.op, argument.value & bits, argument.value_two & bits, narrow)


def _verdict(cases: list[Case], default: int) -> Verdict:
    otherwise = default
    ordered: list[Case] = []
    for case in sorted(cases, key=lambda case: _severity(case.value)):
        if not case.tests:
            otherwise = case.value
            break
        ordered.append(case)
    while ordered and ordered[-1].value == otherwise:
        ordered.pop()
    return Verdict(tuple(ordered), otherwise)


def _severity(value: int) -> int:
    # The kernel compares actions as signed numbers, so that KILL_PROCESS is the lowest.
    action = value & ~_DATA
    return action - (1 << 32) if action >> 31 else action
