"""Capabilities: names, numbers, masks, and the steps by which a process takes a set on.  capabilities(7).

A mask is an integer with bit N for capability N.  A process becomes an unprivileged user with a chosen set in
this order (attack R-17, parity section 6, steps 13 to 20):

1. `drop_bounding`, while CAP_SETPCAP is still there,
2. ``set_keepcaps(1)``, then ``setgroups``, ``setresgid``, ``setresuid``,
3. `set_masks`, which also empties inheritable unless something is to be in it,
4. `raise_ambient`, so that the set passes through ``execve`` of a file without capabilities.
"""

from __future__ import annotations

from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
    "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
    "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""The 41 names, each at the index that is its number (linux/capability.h)."""

NUMBERS = {name: number for number, name in enumerate(NAMES)}

ALL = (1 << len(NAMES)) - 1
DEFAULT = 0xA80425FB
"""Docker's fourteen: what a container gets that asks for nothing."""

HARDENED = DEFAULT & ~(
    1 << NUMBERS["CAP_MKNOD"] | 1 << NUMBERS["CAP_NET_RAW"] | 1 << NUMBERS["CAP_AUDIT_WRITE"]
)
"""Podman's eleven: the default without making devices, raw sockets and audit records."""


def number(name: str) -> int:
    """The number of a capability: any case, with or without ``CAP_``.  ValueError for an unknown name."""
    word = name.upper()
    try:
        return NUMBERS[word if word.startswith("CAP_") else f"CAP_{word}"]
    except KeyError:
        raise ValueError(f"no capability is called {name!r}") from None


def mask(names: Iterable[str]) -> int:
    """The mask of several names; ``ALL`` (or ``CAP_ALL``) stands for every capability.  ValueError: unknown
    name.
    """
    result = 0
    for name in names:
        result |= ALL if name.upper() in ("ALL", "CAP_ALL") else 1 << number(name)
    return result


def names(capabilities: int) -> tuple[str, ...]:
    """The names in a mask, by number.  Bits this version does not know come as ``CAP_41`` and so on."""
    numbers = (bit for bit in range(capabilities.bit_length()) if capabilities >> bit & 1)
    return tuple(NAMES[bit] if bit < len(NAMES) else f"CAP_{bit}" for bit in numbers)


def adjusted(base: int, add: Iterable[str] = (), drop: Iterable[str] = ()) -> int:
    """``base`` with docker's ``--cap-add`` and ``--cap-drop``: what is dropped by name stays dropped.

    ``ALL`` on either side is applied first, so that ``drop=["ALL"], add=["CHOWN"]`` leaves one, and
    ``add=["ALL"], drop=["MKNOD"]`` all but one.
    """
    adding, dropping = list(add), list(drop)
    if _has_all(dropping):
        return mask(adding) & ~mask(_without_all(dropping))
    if _has_all(adding):
        base = ALL
    return (base | mask(_without_all(adding))) & ~mask(dropping)


def _has_all(words: list[str]) -> bool:
    return any(word.upper() in ("ALL", "CAP_ALL") for word in words)


def _without_all(words: list[str]) -> list[str]:
    return [word for word in words if word.upper() not in ("ALL", "CAP_ALL")]


def last() -> int:
    """The highest capability number of this kernel, ``/proc/sys/kernel/cap_last_cap``."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def bounding_set() -> int:
    """The caller's bounding set: what no process below it can ever have."""
    return sum(1 << bit for bit in range(64) if _in_bounding(bit))


def _in_bounding(bit: int) -> bool:
    try:
        return syscalls.capbset_read(bit)
    except OSError:  # EINVAL: past the kernel's last capability
        return False


def drop_bounding(keep: int) -> None:
    """Make the bounding set ``keep``, or what of it there was.  Needs CAP_SETPCAP unless nothing has to
    go.
    """
    for bit in range(64):
        if not keep >> bit & 1 and _in_bounding(bit):
            syscalls.capbset_drop(bit)


def set_masks(*, effective: int, permitted: int, inheritable: int = 0) -> None:
    """Set the three masks of the calling thread.  EPERM when one reaches beyond what is permitted now."""
    syscalls.capset(effective, permitted, inheritable)


def raise_ambient(capabilities: int) -> None:
    """Make the ambient set exactly ``capabilities``, which must be permitted and inheritable."""
    syscalls.cap_ambient_clear()
    for bit in range(capabilities.bit_length()):
        if capabilities >> bit & 1:
            syscalls.cap_ambient_raise(bit)
