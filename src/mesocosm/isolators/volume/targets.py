"""Where in a container something may be mounted, by name alone, and under which flags.

What a name means is for the kernel to resolve, beneath the root and at the moment of mounting.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from mesocosm.errors import InvalidConfig
from mesocosm.model import Mount

BIND = ("nosuid", "nodev")
TMPFS = ("nosuid", "nodev", "noexec")
"""What holds for a volume unless the request says the opposite: files shown, files in memory."""

_OPPOSITES = {"suid": "nosuid", "dev": "nodev", "exec": "noexec"}

PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/kernel/ns_last_pid",
        "uptime",
    )
)
"""Files of /proc that lxcfs and its kin show in their own way (attack R-07)."""


def normal(target: str) -> str:
    """The absolute path without ``.``, ``..``, doubled and trailing slashes."""
    return posixpath.normpath("/" + target.lstrip("/"))


def covers(taken: Iterable[str], target: str) -> bool:
    """Whether a mount on one of the normal paths ``taken`` hides ``target`` or stands in its place."""
    place = normal(target)
    return any(place == path or place.startswith(path.rstrip("/") + "/") for path in taken)


def checked(target: str) -> str:
    """The normal path of a target that a request may mount on.

    Raises InvalidConfig for the root itself and for what lies in /proc and /sys: a foreign file system there
    would answer in the kernel's place (CVE-2019-16884, CVE-2019-19921).
    """
    place = normal(target)
    if place == "/":
        raise InvalidConfig("nothing can be mounted on /", hint="use an image as the root instead")
    for kernel in ("/proc", "/sys"):
        if covers((kernel,), place) and place not in PROC_FILES:
            raise InvalidConfig(
                f"nothing can be mounted on {place}: {kernel} is the kernel's",
                hint="choose another target; only a few files such as /proc/cpuinfo may be covered",
            )
    return place


def unshared(mounts: Iterable[Mount]) -> None:
    """Raise InvalidConfig for two mounts on one target."""
    seen = set()
    for target in (checked(mount.target) for mount in mounts):
        if target in seen:
            raise InvalidConfig(f"two volumes are mounted on {target}", hint="give each one its own target")
        seen.add(target)


def flags(mount: Mount, default: tuple[str, ...]) -> tuple[str, ...]:
    """The flags of a volume: what it asks for over ``default``.  Raises InvalidConfig for unknown words."""
    flags = {"nosuid": "nosuid" in default, "nodev": "nodev" in default, "noexec": "noexec" in default}
    said: dict[str, bool] = {}
    for option in mount.options:
        name = _OPPOSITES.get(option, option)
        if name not in flags:
            raise InvalidConfig(
                f"volume on {checked(mount.target)}: option {option!r} is not known",
                hint=f"there are {', '.join((*_OPPOSITES.values(), *_OPPOSITES))}",
            )
        if said.setdefault(name, name == option) != (name == option):
            raise InvalidConfig(f"volume on {checked(mount.target)}: {name} is both on and off")
    chosen = tuple(name for name, on in (flags | said).items() if on)
    return ("ro", *chosen) if mount.read_only else chosen
