"""The kernel's features, each tried for real and let go again.  No version number decides anything."""

from __future__ import annotations

import os
import platform
import signal
import struct
from collections.abc import Iterator

from mesocosm.doctor.finding import Finding, in_child, ok, tried, warning
from mesocosm.linux import mounts, namespaces, syscalls

_ALLOW_ALL = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
_NEWER = "run a newer kernel; Linux 5.15 and later have it"
_PRIVILEGE = "run as root, outside of containers or in a privileged one"
_KINDS = ("mnt", "pid", "ipc", "uts", "net", "cgroup")


def examine() -> Iterator[Finding]:
    """Everything the launch path asks of the kernel."""
    yield _version()
    yield tried(
        "clone3 and pidfd",
        _start_a_process,
        good="processes are made and held without races",
        without="no process can be started",
        fix=_NEWER,
    )
    for kind in _KINDS:
        yield _namespace(kind)
    yield tried(
        "user namespaces",
        lambda: in_child(lambda: syscalls.unshare(syscalls.CLONE_NEWUSER)),
        good="there; containers that run as root do not need them",
        without="containers cannot have users of their own",
        fix="set user.max_user_namespaces and kernel.unprivileged_userns_clone with sysctl",
        required=False,
    )
    yield tried(
        "openat2",
        _open_in_root,
        good="paths inside a container are resolved beneath its root by the kernel",
        without="paths inside a container cannot be resolved safely",
        fix=_NEWER,
    )
    yield tried(
        "mount interface",
        _mount_detached,
        good="mounts are made detached and given their attributes before anybody sees them",
        without="no root file system can be assembled",
        fix=f"{_PRIVILEGE}; {_NEWER}",
    )
    yield tried(
        "system call filters",
        lambda: in_child(_load_filter),
        good="seccomp filters can be loaded",
        without="no system call can be refused",
        fix="boot a kernel with CONFIG_SECCOMP_FILTER",
    )
    yield tried(
        "session keyrings",
        lambda: in_child(lambda: syscalls.keyctl_join_session(None)),
        good="containers do not see the caller's keys",
        without="containers would share the caller's keyring",
        fix="boot a kernel with CONFIG_KEYS; inside a container, allow keyctl",
    )


def _version() -> Finding:
    release = platform.release()
    message = f"Linux {release} on {platform.machine()}"
    if platform.machine() not in ("x86_64", "aarch64"):
        return warning("kernel", f"{message}: this machine has not been tried", "tell us whether it works")
    return ok("kernel", message)


def _start_a_process() -> None:
    pid, pidfd = syscalls.clone3(0, exit_signal=signal.SIGCHLD, pidfd=True)
    if not pid:
        os._exit(0)
    try:
        syscalls.pidfd_send_signal(pidfd, 0)
    finally:
        os.waitpid(pid, 0)
        os.close(pidfd)


def _namespace(kind: str) -> Finding:
    def make() -> None:
        pid, _ = syscalls.clone3(namespaces.FLAGS[kind], exit_signal=signal.SIGCHLD)
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)

    return tried(
        f"{kind} namespace",
        make,
        good="can be made",
        without="containers cannot have one of their own",
        fix=f"{_PRIVILEGE}; sysctl user.max_{kind}_namespaces must not be 0",
    )


def _open_in_root() -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(syscalls.openat2(root, "proc", os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT))
    finally:
        os.close(root)


def _mount_detached() -> None:
    mount = mounts.tmpfs(size=4096)
    try:
        mounts.set_attributes(mount, syscalls.MOUNT_ATTR_RDONLY, recursive=True)
    finally:
        os.close(mount)
    os.close(mounts.clone_tree("/", recursive=False))


def _load_filter() -> None:
    syscalls.set_no_new_privs()
    syscalls.seccomp_set_filter(_ALLOW_ALL)
