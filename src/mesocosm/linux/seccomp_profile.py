"""A system call filter profile as Docker and the OCI runtime specification write it.

``parse_profile`` reads either: Docker's ``archMap`` and conditions (``includes``, ``excludes``), or
the runtime specification's ``linux.seccomp`` (``architectures``, ``flags``).  Sources: OCI runtime-spec
config-linux.md, section Seccomp; moby's profile type; parity row SEC-1.

A profile comes from an operator, an image or a request.  What it says and we do not understand could be a
restriction, so everything unknown is refused.  One thing is not: the name of a call that no table has.
Profiles name calls of kernels to come; such names are skipped and listed in ``Profile.unknown``, unless
skipping one would allow it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any, Final, Literal, NoReturn

import msgspec

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.linux.syscall_table import NAMES

MAX_PROFILE: Final = 1 << 20
"""The largest profile that is read, in bytes."""

Action = Literal[
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ALLOW",
]
Operator = Literal[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
]
FilterFlag = Literal[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
]

PERMISSIVE: Final = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY"})
"""Actions after which the call may still be made."""

_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
_KERNEL: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})", re.ASCII)
_CAPABILITY: Final = re.compile(r"CAP_[A-Z0-9_]{1,48}", re.ASCII)
_MAX_ERRNO: Final = 4095  # the kernel cuts a larger one down to this (seccomp(2))


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Keys are spelled as in JSON; one that is not ours is an error."""


class Argument(_Strict, frozen=True, kw_only=True):
    """A condition on one of the six arguments, compared unsigned.

    For ``SCMP_CMP_MASKED_EQ``, ``value`` is the mask and ``value_two`` what the masked argument must equal.
    """

    index: int
    value: int
    value_two: int = 0
    op: Operator


class Condition(_Strict, frozen=True, kw_only=True):
    """When a rule is in the filter: container capabilities, the host's architecture, its kernel."""

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: str | None = None

    @property
    def kernel(self) -> tuple[int, int] | None:
        """``min_kernel`` as (major, minor)."""
        return None if self.min_kernel is None else _kernel(self.min_kernel)


class Rule(_Strict, frozen=True, kw_only=True):
    """What happens to some calls, perhaps only with some arguments (all of ``args`` must hold)."""

    names: tuple[str, ...] = ()
    name: str | None = None
    action: Action
    errno_ret: int | None = None
    args: tuple[Argument, ...] = ()
    includes: Condition = Condition()
    excludes: Condition = Condition()
    comment: str = ""

    @property
    def calls(self) -> tuple[str, ...]:
        """The names of the rule, whichever key they came by."""
        return self.names if self.name is None else (self.name,)


class ArchitectureMap(_Strict, frozen=True, kw_only=True):
    """Docker's list of the ABIs to cover on a host of one architecture."""

    architecture: str
    sub_architectures: tuple[str, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A checked profile.  ``unknown`` are skipped names; ``digest`` is of the bytes (``sha256:...``)."""

    default_action: Action
    default_errno: int | None = None
    architectures: tuple[str, ...] = ()
    arch_map: tuple[ArchitectureMap, ...] = ()
    flags: tuple[FilterFlag, ...] = ()
    rules: tuple[Rule, ...] = ()
    unknown: tuple[str, ...] = ()
    digest: str


class _Document(_Strict, frozen=True, kw_only=True):
    default_action: Action
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    arch_map: tuple[ArchitectureMap, ...] = ()
    flags: tuple[FilterFlag, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[Rule, ...] = ()
    comment: str = ""


ARCHITECTURES: Final = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "x86",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
    "SCMP_ARCH_ARM": "arm",
}
"""Architectures with a table here, by the name that profiles give them."""

_OTHER_ARCHITECTURE: Final = re.compile(r"SCMP_ARCH_[A-Z0-9_]{1,24}", re.ASCII)


def parse_profile(data: bytes) -> Profile:
    """The profile in ``data``, checked.

    Raises ``InvalidConfig`` naming the key for anything that is not a profile, and ``Unsupported`` for a
    profile that needs a listener (``SCMP_ACT_NOTIFY``).
    """
    document = _convert(_load(data))
    _check_document(document)
    for position, rule in enumerate(document.syscalls):
        _check_rule(rule, f"syscalls[{position}]", document.default_action)
    return Profile(
        default_action=document.default_action,
        default_errno=document.default_errno_ret,
        architectures=document.architectures,
        arch_map=document.arch_map,
        flags=document.flags,
        rules=document.syscalls,
        unknown=tuple(sorted({n for rule in document.syscalls for n in rule.calls if n not in NAMES})),
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
    )


def _refuse(what: str, *, hint: str | None = None) -> NoReturn:
    raise InvalidConfig(f"seccomp profile: {what}", hint=hint)


def _load(data: bytes) -> object:
    if len(data) > MAX_PROFILE:
        _refuse(f"{len(data)} bytes, more than the {MAX_PROFILE} allowed")
    try:
        return json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"seccomp profile: not JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            _refuse(f"key {key!r} appears twice in one object")
        seen[key] = value
    # Go writes null for an empty list or pointer.
    return {key: value for key, value in seen.items() if value is not None}


def _constant(text: str) -> NoReturn:
    _refuse(f"{text} is not a JSON value")


def _convert(loaded: object) -> _Document:
    try:
        return msgspec.convert(loaded, _Document)
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"seccomp profile: {error}") from error


def _check_document(document: _Document) -> None:
    if document.listener_path or document.listener_metadata:
        raise Unsupported("seccomp profile: listenerPath: no listener can be given to a container")
    if document.architectures and document.arch_map:
        _refuse("architectures and archMap are both given", hint="keep one of them")
    for name in _named_architectures(document):
        if name not in ARCHITECTURES and not _OTHER_ARCHITECTURE.fullmatch(name):
            _refuse(f"unknown architecture {name!r}")
    _check_errno(document.default_errno_ret, document.default_action, "defaultErrnoRet")
    _check_action(document.default_action, "defaultAction")


def _named_architectures(document: _Document) -> Iterator[str]:
    yield from document.architectures
    for entry in document.arch_map:
        yield entry.architecture
        yield from entry.sub_architectures


def _check_rule(rule: Rule, where: str, default_action: Action) -> None:
    if rule.name is not None and rule.names:
        _refuse(f"{where}: name and names are both given", hint="keep names")
    if not rule.calls:
        _refuse(f"{where}: names no system call")
    _check_action(rule.action, f"{where}.action")
    _check_errno(rule.errno_ret, rule.action, f"{where}.errnoRet")
    for name in rule.calls:
        _check_name(name, rule, where, default_action)
    for position, argument in enumerate(rule.args):
        _check_argument(argument, f"{where}.args[{position}]")
    _check_condition(rule.includes, f"{where}.includes")
    _check_condition(rule.excludes, f"{where}.excludes")


def _check_action(action: Action, where: str) -> None:
    if action == "SCMP_ACT_NOTIFY":
        raise Unsupported(f"seccomp profile: {where}: SCMP_ACT_NOTIFY needs a listener, and there is none")


def _check_errno(errno: int | None, action: Action, where: str) -> None:
    if errno is None:
        return
    if action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        _refuse(f"{where}: {action} returns no number")  # runtime-spec: MUST generate an error
    if not 0 <= errno <= _MAX_ERRNO:
        _refuse(f"{where}: {errno} is not between 0 and {_MAX_ERRNO}")


def _check_name(name: str, rule: Rule, where: str, default_action: Action) -> None:
    if not _NAME.fullmatch(name):
        _refuse(f"{where}: {name[:64]!r} is not the name of a system call")
    if name not in NAMES and default_action in PERMISSIVE and rule.action not in PERMISSIVE:
        _refuse(
            f"{where}: {name} is unknown, and without its number it would be allowed",
            hint="correct the name, or deny by default",
        )


def _check_argument(argument: Argument, where: str) -> None:
    if not 0 <= argument.index <= 5:
        _refuse(f"{where}.index: {argument.index} is not between 0 and 5")
    for key, value in (("value", argument.value), ("valueTwo", argument.value_two)):
        if not 0 <= value < 1 << 64:
            _refuse(f"{where}.{key}: {value} is not an unsigned 64-bit number")


def _check_condition(condition: Condition, where: str) -> None:
    for capability in condition.caps:
        if not _CAPABILITY.fullmatch(capability):
            _refuse(f"{where}.caps: {capability[:64]!r} is not a capability", hint="as CAP_SYS_ADMIN")
    if condition.min_kernel is not None and not _KERNEL.fullmatch(condition.min_kernel):
        _refuse(f"{where}.minKernel: {condition.min_kernel[:64]!r} is not a version", hint="as 4.8")


def _kernel(text: str) -> tuple[int, int]:
    match = _KERNEL.fullmatch(text)
    if match is None:
        _refuse(f"minKernel: {text[:64]!r} is not a version", hint="as 4.8")
    return int(match[1]), int(match[2])
