"""System call filter profiles that come with the program.

``default.json`` denies what lets a process reach beyond its container or has no business in one: mounts and
namespaces, modules, keyrings, io_uring, userfaultfd, raw hardware, machine-wide settings.  Calls that are a
capability's own business are allowed with that capability (attack K-03).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from mesocosm.linux.seccomp import Profile, parse_profile


@cache
def load_default() -> Profile:
    """The profile of a container that names none."""
    return parse_profile(files(__name__).joinpath("default.json").read_bytes())
