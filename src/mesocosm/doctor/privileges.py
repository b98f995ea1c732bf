"""What this process may do, and what containers can therefore have."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from mesocosm.doctor.finding import Finding, missing, ok, warning
from mesocosm.linux import capabilities, syscalls

REQUIRED = {
    "CAP_SYS_ADMIN": "namespaces, mounts and cgroups",
    "CAP_SETUID": "becoming the container's user",
    "CAP_SETGID": "becoming the container's group",
    "CAP_SETPCAP": "giving capabilities up",
    "CAP_SYS_CHROOT": "leaving the host's root",
    "CAP_NET_ADMIN": "the loopback interface of a network namespace",
    "CAP_CHOWN": "owners of files in images",
    "CAP_DAC_OVERRIDE": "files of other users in images",
    "CAP_FOWNER": "modes of files in images",
    "CAP_KILL": "ending processes of other users",
}
USEFUL = {
    "CAP_SYS_RESOURCE": "raising resource limits above our own",
    "CAP_MKNOD": "device nodes are bound from the host instead",
    "CAP_SETFCAP": "files of images keep their capabilities",
    "CAP_SYS_PTRACE": "looking at processes that are not dumpable",
}
DESCRIPTORS = 1024  # open files; a few for each container and each connection to a registry


def examine() -> Iterator[Finding]:
    """The user, the capabilities, and the limits that are handed down."""
    yield _user()
    effective, _, _ = syscalls.capget()
    for name, use in REQUIRED.items():
        if not effective >> capabilities.NUMBERS[name] & 1:
            yield missing(name, f"not held: {use}", "run as root, or with this capability added")
    for name, use in USEFUL.items():
        if not effective >> capabilities.NUMBERS[name] & 1:
            yield warning(name, f"not held: {use}", "run as root, or with this capability added")
    yield _for_containers()
    yield _descriptors()


def _user() -> Finding:
    if os.geteuid() == 0:
        return ok("user", "root")
    return missing("user", f"user {os.geteuid()}: containers are run by root", "sudo mesocosm doctor")


def _for_containers() -> Finding:
    lacking = capabilities.DEFAULT & ~capabilities.bounding_set()
    if not lacking:
        return ok("capabilities", "all of a container's default ones can be given")
    names = ", ".join(capabilities.names(lacking))
    return warning("capabilities", f"containers cannot have {names}", "run outside of containers")


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        return warning("open files", f"at most {soft}", f"ulimit -n {DESCRIPTORS}")
    shown = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    return ok("open files", f"at most {shown}")
