"""Which devices a cgroup may use: one rule type, written to v1's files or compiled to a v2 program.

Sources: cgroup-v1/devices.rst and cgroup-v2.rst, "Device controller", of the kernel's documentation.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence

import msgspec

from mesocosm.errors import InvalidConfig
from mesocosm.linux import bpf
from mesocosm.linux.cgroups.group import Cgroup

_RULE = re.compile(r"([abc]) (?:([0-9]{1,7}|\*):([0-9]{1,7}|\*) )?([rwm]{1,3})", re.ASCII)


class DeviceRule(msgspec.Struct, frozen=True, order=True):
    """Allows ``access``, letters of "rwm", to character ("c"), block ("b") or all ("a") devices.

    ``major`` and ``minor`` None stand for every number.
    """

    kind: str
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"

    def __post_init__(self) -> None:
        if self.kind not in ("a", "b", "c") or not self.access or set(self.access) - set("rwm"):
            raise InvalidConfig(
                f"device rule {self.kind!r} {self.access!r}: want a, b or c, and letters of rwm"
            )
        if self.kind == "a" and (self.major, self.minor) != (None, None):
            raise InvalidConfig("device rule: 'a' has no numbers")
        for number, limit in ((self.major, 1 << 12), (self.minor, 1 << 20)):
            if number is not None and not 0 <= number < limit:
                raise InvalidConfig(f"device number {number} is outside 0 to {limit - 1}")

    @classmethod
    def parse(cls, text: str) -> DeviceRule:
        """Read ``c 1:3 rwm``, the form of v1's files and of docker.  Raises InvalidConfig."""
        match = _RULE.fullmatch(text.strip())
        if match is None:
            raise InvalidConfig(f"device rule {text!r} is not like 'c 1:3 rwm'")
        kind, major, minor, access = match.groups("*")
        return cls(kind, None if major == "*" else int(major), None if minor == "*" else int(minor), access)

    @classmethod
    def of_node(cls, path: str, access: str = "rwm") -> DeviceRule:
        """The rule for an existing device node of the host.  Raises InvalidConfig when it is none."""
        status = os.stat(path)  # noqa: PTH116
        kind = "c" if stat.S_ISCHR(status.st_mode) else "b" if stat.S_ISBLK(status.st_mode) else ""
        if not kind:
            raise InvalidConfig(f"{path} is not a device")
        return cls(kind, os.major(status.st_rdev), os.minor(status.st_rdev), access)

    def __str__(self) -> str:
        return f"{self.kind} {_star(self.major)}:{_star(self.minor)} {self.access}"


EVERYTHING = DeviceRule("a")

DEFAULT = tuple(
    map(
        DeviceRule.parse,
        (
            "c *:* m",
            "b *:* m",
            "c 1:3 rwm",  # null
            "c 1:5 rwm",  # zero
            "c 1:7 rwm",  # full
            "c 1:8 rwm",  # random
            "c 1:9 rwm",  # urandom
            "c 5:0 rwm",  # tty
            "c 5:2 rwm",  # ptmx
            "c 136:* rwm",  # pts
        ),
    )
)
"""Docker's defaults without the host's console (5:1): nodes of every device may be made, those of a
container's own ``/dev`` used."""


def allow_only(group: Cgroup, rules: Sequence[DeviceRule]) -> None:
    """Let the cgroup use the devices of ``rules`` and no others; replaces what held before without a gap.

    On v1 a group cannot allow what the one above it does not (EPERM); its former list is changed by the
    difference, so that what stays allowed is so at every moment.
    """
    if group.version == 2:
        program = bpf.load_device_program(compile_rules(rules))
        try:
            bpf.attach_device_program(group.path, program)
        finally:
            os.close(program)
    else:
        _write_v1(group, rules)


def compile_rules(rules: Iterable[DeviceRule]) -> bytes:
    """The BPF program of an allow list."""
    kinds = {"a": None, "b": bpf.BLOCK, "c": bpf.CHARACTER}
    bits = {"r": bpf.READ, "w": bpf.WRITE, "m": bpf.MKNOD}
    return bpf.compile_allow_list(
        [
            (kinds[kind], sum(bits[letter] for letter in access), major, minor)
            for (kind, major, minor), access in _merged(rules).items()
        ]
    )


def read_v1(group: Cgroup) -> list[DeviceRule]:
    """What a v1 cgroup allows, ``devices.list``."""
    return [DeviceRule.parse(_normal(line)) for line in group.read("devices.list").splitlines()]


def _write_v1(group: Cgroup, rules: Sequence[DeviceRule]) -> None:
    if any(rule.kind == "a" for rule in rules):
        group.write("devices.allow", "a")
        return
    now = _merged(read_v1(group))
    if ("a", None, None) in now:
        group.write("devices.deny", "a")
        now = {}
    wanted = _merged(rules)
    for name, changed in (("devices.allow", _beyond(wanted, now)), ("devices.deny", _beyond(now, wanted))):
        for rule in changed:
            group.write(name, str(rule))


Place = tuple[str, int | None, int | None]


def _merged(rules: Iterable[DeviceRule]) -> dict[Place, str]:
    """The kernel's own view: one entry per device, with all accesses that rules for it grant."""
    merged: dict[Place, str] = {}
    for rule in rules:
        place = (rule.kind, rule.major, rule.minor)
        letters = {*merged.get(place, ""), *rule.access}
        merged[place] = "".join(letter for letter in "rwm" if letter in letters)
    return merged


def _beyond(left: dict[Place, str], right: dict[Place, str]) -> list[DeviceRule]:
    """What ``left`` grants and ``right`` does not."""
    found = []
    for place, access in left.items():
        extra = "".join(letter for letter in access if letter not in right.get(place, ""))
        if extra:
            found.append(DeviceRule(*place, extra))
    return found


def _normal(line: str) -> str:
    return "a rwm" if line.startswith("a ") else line


def _star(number: int | None) -> str:
    return "*" if number is None else str(number)
