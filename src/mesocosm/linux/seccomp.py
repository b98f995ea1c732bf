"""System call filters: a profile compiled to the classic BPF program that seccomp(2) loads.

    load arch ── x86_64 ── load number ── balanced tree over x86_64 and x32 numbers ── verdicts
             ├── x86 ───── load number ── balanced tree over x86 numbers ── verdicts
             └── any other: ENOSYS

What a call's verdict is, `seccomp_verdict` says.  A number that is in no table gets the profile's default
action up to the newest known number; above it ENOSYS where the default denies, because C libraries fall back
on ENOSYS and fail on EPERM (attack R-22).  An ABI that the profile does not cover gets ENOSYS always.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import Final

import msgspec

from mesocosm.errors import Exhausted, Unsupported
from mesocosm.linux.classic_bpf import JUMP_EQ, JUMP_GE, JUMP_GT, MAX_INSTRUCTIONS, Assembler
from mesocosm.linux.seccomp_profile import ARCHITECTURES, Condition, Profile, Rule, parse_profile
from mesocosm.linux.seccomp_verdict import (
    ENOSYS,
    Test,
    Verdict,
    describe,
    permissive,
    return_value,
    verdicts,
)
from mesocosm.linux.syscall_table import NEWEST, TABLES, X32_BIT

__all__ = ["Filter", "Profile", "compile_profile", "filter_key", "parse_profile"]

_COMPILER: Final = 1  # part of the cache key: raise it when the program made of a profile changes

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
_FAMILIES: Final = {
    "x86_64": ("x86_64", "x32", "x86"),
    "x86": ("x86",),
    "aarch64": ("aarch64", "arm"),
    "arm": ("arm",),
}
_MACHINES: Final = {"i386": "x86", "i486": "x86", "i586": "x86", "i686": "x86", "armv7l": "arm"}
_GO_NAMES: Final = {"x86_64": "amd64", "x86": "x86", "aarch64": "arm64", "arm": "arm"}
_RELEASE: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})", re.ASCII)

_FLAGS: Final = {  # linux/seccomp.h
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}

_NO_SUCH_CALL: Final = return_value("SCMP_ACT_ERRNO", ENOSYS)
_ALLOW: Final = return_value("SCMP_ACT_ALLOW", None)

# Offsets in struct seccomp_data; both halves of an argument are little-endian on every architecture here.
_NUMBER: Final = 0
_ARCH: Final = 4
_ARGUMENTS: Final = 16


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled profile: ``program`` is what seccomp(2) loads, the rest is for ``explain``.

    ``flags`` are SECCOMP_FILTER_FLAG bits; ``arches`` the ABIs covered, the host's own first.  ``allowed``
    counts the host ABI's calls that are allowed whatever their arguments, ``conditional`` says for each call
    that depends on its arguments how, ``denied`` names those that are never made.  ``unknown`` are names of
    the profile that no table has.  ``digest`` is of the program (``sha256:...``).
    """

    program: bytes
    instructions: int
    flags: int
    default_action: str
    arches: tuple[str, ...]
    allowed: int
    conditional: tuple[str, ...]
    denied: tuple[str, ...]
    unknown: tuple[str, ...]
    digest: str


def compile_profile(
    profile: Profile,
    *,
    capabilities: frozenset[str],
    arch: str | None = None,
    kernel: tuple[int, int] | None = None,
) -> Filter:
    """The filter of ``profile`` for a container whose bounding set is ``capabilities`` (``CAP_...`` names).

    ``arch`` (``x86_64``, ``aarch64``, ``x86``, ``arm``) and ``kernel`` (major, minor) are this host's unless
    given.  The result is kept in memory, so that asking again is a look-up.  Raises ``Unsupported`` for an
    architecture without a table and ``Exhausted`` for a profile that needs more than 4096 instructions.
    """
    arch = _host_arch() if arch is None else arch
    kernel = _host_kernel() if kernel is None else kernel
    key = filter_key(profile, capabilities=capabilities, arch=arch, kernel=kernel)
    found = _cache.get(key)
    if found is None:
        found = _compile(profile, capabilities, arch, kernel)
        _cache.put(key, found)
    return found


def filter_key(profile: Profile, *, capabilities: frozenset[str], arch: str, kernel: tuple[int, int]) -> str:
    """Names the filter that ``compile_profile`` makes of these (hex SHA-256): the key of any cache of it."""
    facts = (_COMPILER, NEWEST, profile.digest, sorted(capabilities), arch, kernel)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class _Cache:
    """The filters used last.  A host has few profiles and few sets of capabilities."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = Lock()
        self._filters: OrderedDict[str, Filter] = OrderedDict()

    def get(self, key: str) -> Filter | None:
        with self._lock:
            if key in self._filters:
                self._filters.move_to_end(key)
            return self._filters.get(key)

    def put(self, key: str, value: Filter) -> None:
        with self._lock:
            self._filters[key] = value
            if len(self._filters) > self._size:
                self._filters.popitem(last=False)


_cache: Final = _Cache(64)


def _host_arch() -> str:
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def _host_kernel() -> tuple[int, int]:
    match = _RELEASE.match(os.uname().release)
    if match is None:
        raise Unsupported(f"kernel release {os.uname().release!r} does not start with a version")
    return int(match[1]), int(match[2])


def _compile(profile: Profile, capabilities: frozenset[str], arch: str, kernel: tuple[int, int]) -> Filter:
    if arch not in _FAMILIES:
        raise Unsupported(f"seccomp: no system call table for architecture {arch}")
    rules = tuple(rule for rule in profile.rules if _applies(rule, capabilities, arch, kernel))
    default = return_value(profile.default_action, profile.default_errno)
    abis = {abi: verdicts(rules, abi, default) for abi in _abis(profile, arch)}
    program = _assemble(abis, default)
    own = {name: abis[arch].get(name, Verdict((), default)) for name in TABLES[arch]}
    return Filter(
        program=program,
        instructions=len(program) // 8,
        flags=sum({_FLAGS[flag] for flag in profile.flags}),
        default_action=describe(default),
        arches=tuple(abis),
        allowed=sum(verdict.values() == {_ALLOW} for verdict in own.values()),
        conditional=tuple(f"{name}: {verdict}" for name, verdict in sorted(own.items()) if verdict.cases),
        denied=tuple(sorted(name for name, v in own.items() if not any(map(permissive, v.values())))),
        unknown=profile.unknown,
        digest=f"sha256:{hashlib.sha256(program).hexdigest()}",
    )


def _applies(rule: Rule, capabilities: frozenset[str], arch: str, kernel: tuple[int, int]) -> bool:
    return _included(rule.includes, capabilities, arch, kernel) and not _excluded(
        rule.excludes, capabilities, arch, kernel
    )


def _included(condition: Condition, capabilities: frozenset[str], arch: str, kernel: tuple[int, int]) -> bool:
    return (
        capabilities.issuperset(condition.caps)
        and (not condition.arches or _GO_NAMES[arch] in condition.arches)
        and (condition.kernel is None or kernel >= condition.kernel)
    )


def _excluded(condition: Condition, capabilities: frozenset[str], arch: str, kernel: tuple[int, int]) -> bool:
    return (
        not capabilities.isdisjoint(condition.caps)
        or _GO_NAMES[arch] in condition.arches
        or (condition.kernel is not None and kernel >= condition.kernel)
    )


def _abis(profile: Profile, arch: str) -> tuple[str, ...]:
    """The ABIs to cover.  An architecture that this host cannot run needs no code."""
    named = {ARCHITECTURES.get(name) for name in profile.architectures}
    for entry in profile.arch_map:
        if ARCHITECTURES.get(entry.architecture) == arch:
            named.update(ARCHITECTURES.get(name) for name in entry.sub_architectures)
    return tuple(abi for abi in _FAMILIES[arch] if abi == arch or abi in named)


def _assemble(abis: Mapping[str, Mapping[str, Verdict]], default: int) -> bytes:
    code = Assembler()
    target = code.ret(_NO_SUCH_CALL)
    for abi in ("x86", "x86_64", "arm", "aarch64"):
        if abi in abis:
            ranges = _ranges(abi, abis, default)
            body = code.load(_NUMBER, _tree(code, ranges, {}))
            target = code.branch(JUMP_EQ, _AUDIT_ARCH[abi], body, target)
    code.load(_ARCH, target)
    if len(code) > MAX_INSTRUCTIONS:
        raise Exhausted(
            f"seccomp profile: needs {len(code)} instructions, the kernel takes {MAX_INSTRUCTIONS}",
            hint="use fewer conditions on arguments",
        )
    return code.program()


_Range = tuple[int, Verdict]  # first number, verdict; it ends where the next begins


def _ranges(abi: str, abis: Mapping[str, Mapping[str, Verdict]], default: int) -> list[_Range]:
    found = list(_table_ranges(abi, abis[abi], 0, default))
    if abi == "x86_64":
        if "x32" in abis:
            found += _table_ranges("x32", abis["x32"], X32_BIT, default)
        else:
            found.append((X32_BIT, Verdict((), _NO_SUCH_CALL)))
    return [pair for before, pair in zip([None, *found], found, strict=False) if not _same(before, pair)]


def _same(before: _Range | None, this: _Range) -> bool:
    return before is not None and before[1] == this[1]


def _table_ranges(abi: str, known: Mapping[str, Verdict], first: int, default: int) -> Iterator[_Range]:
    """Ranges from ``first`` up, in order: a default between the numbers of the table, another beyond."""
    between = Verdict((), default)
    beyond = Verdict((), default if permissive(default) else _NO_SUCH_CALL)
    unknown = first + NEWEST + 1
    starts: dict[int, Verdict] = {first: between, unknown: beyond}
    numbers = {TABLES[abi][name]: verdict for name, verdict in known.items()}
    for number, name_verdict in sorted((nr, numbers.get(nr, between)) for nr in TABLES[abi].values()):
        starts[number] = name_verdict
        if number + 1 not in numbers:
            starts[number + 1] = between if number + 1 < unknown else beyond
    yield from sorted(starts.items(), key=lambda pair: pair[0])


def _tree(code: Assembler, ranges: list[_Range], seen: dict[Verdict, int]) -> int:
    """Find the loaded number's range by halving; the label of the first comparison."""
    if len(ranges) == 1:
        return _leaf(code, ranges[0][1], seen)
    middle = len(ranges) // 2
    high = _tree(code, ranges[middle:], seen)
    low = _tree(code, ranges[:middle], seen)
    return code.branch(JUMP_GE, ranges[middle][0], high, low)


def _leaf(code: Assembler, verdict: Verdict, seen: dict[Verdict, int]) -> int:
    if not verdict.cases:
        return code.ret(verdict.otherwise)
    if verdict not in seen:
        label = code.ret(verdict.otherwise)
        for case in reversed(verdict.cases):
            label = _case(code, case.tests, code.ret(case.value), label)
        seen[verdict] = label
    return seen[verdict]


def _case(code: Assembler, tests: Iterable[Test], true: int, false: int) -> int:
    for test in reversed(tuple(tests)):
        true = _test(code, test, true, false)
    return true


def _test(code: Assembler, test: Test, true: int, false: int) -> int:
    if test.op in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE"):
        true, false = false, true
    if test.op == "SCMP_CMP_MASKED_EQ":
        return _equal(code, test, test.other, test.value, true, false)
    if test.op in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        return _equal(code, test, test.value, (1 << 64) - 1, true, false)
    # a < b is not a >= b; a <= b is not a > b.
    last = JUMP_GT if test.op in ("SCMP_CMP_GT", "SCMP_CMP_LE") else JUMP_GE
    return _greater(code, test, last, true, false)


def _equal(code: Assembler, test: Test, value: int, mask: int, true: int, false: int) -> int:
    label = _word_equal(code, test.index, 0, value, mask, true, false)
    if test.narrow:
        return label
    return _word_equal(code, test.index, 4, value >> 32, mask >> 32, label, false)


def _word_equal(code: Assembler, index: int, half: int, value: int, mask: int, true: int, false: int) -> int:
    value, mask = value & 0xFFFFFFFF, mask & 0xFFFFFFFF
    if mask == 0 and value == 0:
        return true
    label = code.branch(JUMP_EQ, value, true, false)
    if mask != 0xFFFFFFFF:
        label = code.mask(mask, label)
    return code.load(_ARGUMENTS + 8 * index + half, label)


def _greater(code: Assembler, test: Test, last: int, true: int, false: int) -> int:
    offset = _ARGUMENTS + 8 * test.index
    label = code.load(offset, code.branch(last, test.value & 0xFFFFFFFF, true, false))
    if test.narrow:
        return label
    high = test.value >> 32
    label = code.branch(JUMP_EQ, high, label, false)
    return code.load(offset + 4, code.branch(JUMP_GT, high, true, label))
