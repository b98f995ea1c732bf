"""Where in a container something may be mounted, by name alone.

What a name means is for the kernel to resolve, beneath the root and at the moment of mounting.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from mesocosm.errors import InvalidConfig

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
