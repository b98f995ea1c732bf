"""System calls that Python has no name for, one thin function each.

Every prototype is bound once, when this module is imported: nothing is looked up, loaded or imported by a
call, so that each function may be used between entering a container's root and ``execve``.  Failures are
``OSError`` with the errno, its text and, where there is one, the path.  Descriptors that come back are
close-on-exec.

Numbers: x86-64 from its own table, every other architecture from the kernel's generic table (arm64, riscv64);
from 424 on the two are the same.  Sources: the man pages of section 2, ``include/uapi/linux/*.h``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    StrOrBytes = str | bytes

# Namespaces and clone (sched.h).
CLONE_NEWTIME = 0x00000080
CLONE_VM = 0x00000100
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_PARENT_SETTID = 0x00100000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x1_0000_0000
CLONE_INTO_CGROUP = 0x2_0000_0000

# The *at family (fcntl.h).
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# mount(2) and umount2(2).
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

# openat2(2).
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# The mount API of descriptors (linux/mount.h).
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_SYMLINKS = 0x01
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_SET_GROUP = 0x100
MOVE_MOUNT_BENEATH = 0x200
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_RELATIME = 0x00000000
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

# renameat2(2), close_range(2), memfd_create(2), execveat(2).
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
CLOSE_RANGE_UNSHARE = 2
CLOSE_RANGE_CLOEXEC = 4
MAX_FD = 0xFFFFFFFF
MFD_EXEC = 0x10

# seccomp(2).
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_LOG = 2
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8

# keyctl(2): everything for who possesses the key, nothing for user, group and others.
KEY_POSSESSOR_ALL = 0x3F000000

CLONE_ARGS_SIZE = 88  # bytes

NO_ID = 0xFFFFFFFF  # "leave as it is" for the set*id family, so never a user or group

_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_SET_PATH_EMPTY = 4
_FSCONFIG_SET_FD = 5
_FSCONFIG_CMD_CREATE = 6

_X86_64 = {
    "bpf": 321, "capget": 125, "capset": 126, "execve": 59, "execveat": 322, "fchownat": 260, "fstatfs": 138,
    "keyctl": 250, "mount": 165, "pivot_root": 155, "prctl": 157, "prlimit64": 302, "renameat2": 316,
    "seccomp": 317, "setfsgid": 123, "setfsuid": 122, "setgroups": 116, "sethostname": 170, "setns": 308,
    "setresgid": 119, "setresuid": 117, "statx": 332, "umount2": 166, "unshare": 272,
}  # fmt: skip
_GENERIC = {
    "bpf": 280, "capget": 90, "capset": 91, "execve": 221, "execveat": 281, "fchownat": 54, "fstatfs": 44,
    "keyctl": 219, "mount": 40, "pivot_root": 41, "prctl": 167, "prlimit64": 261, "renameat2": 276,
    "seccomp": 277, "setfsgid": 152, "setfsuid": 151, "setgroups": 159, "sethostname": 161, "setns": 268,
    "setresgid": 149, "setresuid": 147, "statx": 291, "umount2": 39, "unshare": 97,
}  # fmt: skip
_COMMON = {
    "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431,
    "fsmount": 432, "pidfd_open": 434, "clone3": 435, "close_range": 436, "openat2": 437, "pidfd_getfd": 438,
    "mount_setattr": 442, "fchmodat2": 452,
}  # fmt: skip

NUMBERS = {**(_X86_64 if os.uname().machine == "x86_64" else _GENERIC), **_COMMON}
"""System call name to number on this machine, for the calls of this module."""

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock during the call.  clone3 needs that: in the child no other thread exists
# that could give the lock back.
_libc_locked = ctypes.PyDLL(None, use_errno=True)

_long = ctypes.c_long
_ulong = ctypes.c_ulong
_text = ctypes.c_char_p
_pointer = ctypes.c_void_p


def _bind(name: str, *types: type[Any], library: ctypes.CDLL = _libc) -> Callable[..., int]:
    number = NUMBERS[name]
    entry = library[
        "syscall"
    ]  # indexing makes a new function object each time, so each has its own prototype
    entry.argtypes = (_long, *types)
    entry.restype = _long

    def call(*arguments: object) -> int:
        result: int = entry(number, *arguments)
        return result

    return call


_bpf = _bind("bpf", _long, _pointer, _ulong)
_capget = _bind("capget", _text, _pointer)
_capset = _bind("capset", _text, _text)
_clone3 = _bind("clone3", _text, _ulong, library=_libc_locked)
_close_range = _bind("close_range", _ulong, _ulong, _ulong)
_execve = _bind("execve", _text, _pointer, _pointer)
_execveat = _bind("execveat", _long, _text, _pointer, _pointer, _long)
_fchmodat2 = _bind("fchmodat2", _long, _text, _ulong, _ulong)
_fchownat = _bind("fchownat", _long, _text, _ulong, _ulong, _ulong)
_fsconfig_bytes = _bind("fsconfig", _long, _ulong, _text, _text, _long)
_fsmount = _bind("fsmount", _long, _ulong, _ulong)
_fsopen = _bind("fsopen", _text, _ulong)
_fstatfs = _bind("fstatfs", _long, _pointer)
_keyctl_name = _bind("keyctl", _long, _text)
_keyctl_number = _bind("keyctl", _long, _long, _ulong)
_mount = _bind("mount", _text, _text, _text, _ulong, _text)
_mount_setattr = _bind("mount_setattr", _long, _text, _ulong, _text, _ulong)
_move_mount = _bind("move_mount", _long, _text, _long, _text, _ulong)
_openat2 = _bind("openat2", _long, _text, _text, _ulong)
_open_tree = _bind("open_tree", _long, _text, _ulong)
_pidfd_getfd = _bind("pidfd_getfd", _long, _long, _ulong)
_pidfd_open = _bind("pidfd_open", _long, _ulong)
_pidfd_send_signal = _bind("pidfd_send_signal", _long, _long, _pointer, _ulong)
_pivot_root = _bind("pivot_root", _text, _text)
_prctl = _bind("prctl", _long, _ulong, _ulong, _ulong, _ulong)
_prctl_name = _bind("prctl", _long, _text, _ulong, _ulong, _ulong)
_prctl_vma = _bind("prctl", _long, _ulong, _ulong, _ulong, _text)
_prlimit = _bind("prlimit64", _long, _long, _text, _pointer)
_renameat2 = _bind("renameat2", _long, _text, _long, _text, _ulong)
_seccomp = _bind("seccomp", _ulong, _ulong, _text)
_setfsgid = _bind("setfsgid", _ulong)
_setfsuid = _bind("setfsuid", _ulong)
_setgroups = _bind("setgroups", _ulong, _pointer)
_sethostname = _bind("sethostname", _text, _ulong)
_setns = _bind("setns", _long, _ulong)
_setresgid = _bind("setresgid", _ulong, _ulong, _ulong)
_setresuid = _bind("setresuid", _ulong, _ulong, _ulong)
_statx = _bind("statx", _long, _text, _ulong, _ulong, _pointer)
_umount2 = _bind("umount2", _text, _ulong)
_unshare = _bind("unshare", _ulong)


def _failed(path: StrOrBytes | None = None, detail: str = "") -> OSError:
    code = ctypes.get_errno()
    text = os.strerror(code)
    if detail:
        text = f"{text}: {detail}"
    return OSError(code, text) if path is None else OSError(code, text, path)


def as_bytes(text: StrOrBytes) -> bytes:
    """``text`` as the kernel takes it.  EINVAL for a NUL byte, where the kernel would stop reading."""
    raw = os.fsencode(text)
    if 0 in raw:
        raise OSError(errno.EINVAL, "NUL byte in a name", text)
    return raw


# --- processes ----------------------------------------------------------------------------------------------


def clone3(
    flags: int, *, exit_signal: int, cgroup_fd: int | None = None, pidfd: bool = False
) -> tuple[int, int]:
    """Fork into new namespaces, clone3(2): ``(pid, pidfd or -1)`` in the parent, ``(0, -1)`` in the child.

    ``cgroup_fd`` is a descriptor of a cgroup v2 directory that the child starts in.  Memory is copied as by
    fork(2), and only the calling thread exists in the child.  The interpreter is not told: after-fork hooks
    have not run.  The caller must be single-threaded; the child may run Python code and system calls, and
    must leave by ``execve`` or ``os._exit``.  ``threading`` and ``asyncio`` are not for it.
    """
    opened = ctypes.c_int(-1)
    if cgroup_fd is not None:
        flags |= CLONE_INTO_CGROUP
    if pidfd:
        flags |= CLONE_PIDFD
    where = ctypes.addressof(opened) if pidfd else 0
    pid = clone3_prepared(struct.pack("11Q", flags, where, 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup_fd or 0))
    return (pid, opened.value) if pid else (0, -1)


def clone3_arguments(flags: int, *, exit_signal: int, parent_tid: int = 0) -> bytes:
    """``struct clone_args``, clone3(2), as of Linux 5.7: `CLONE_ARGS_SIZE` bytes, the cgroup's last."""
    return struct.pack("11Q", flags, 0, 0, parent_tid, exit_signal, 0, 0, 0, 0, 0, 0)


def clone3_prepared(arguments: bytes) -> int:
    """As `clone3`, by what `clone3_arguments` laid out: pid, 0 in the child."""
    pid = _clone3(arguments, CLONE_ARGS_SIZE)
    if pid < 0:
        raise _failed()
    return pid


def unshare(flags: int) -> None:
    """Give the calling process new namespaces, unshare(2)."""
    if _unshare(flags) < 0:
        raise _failed()


def setns(fd: int, flags: int) -> None:
    """Enter the namespace ``fd``, or those of the process behind the pidfd ``fd`` that ``flags`` name,
    setns(2).
    """
    if _setns(fd, flags) < 0:
        raise _failed()


def pidfd_open(pid: int, flags: int = 0) -> int:
    """A descriptor of a process, pidfd_open(2).  ESRCH when there is none."""
    fd = _pidfd_open(pid, flags)
    if fd < 0:
        raise _failed(f"pid {pid}")
    return fd


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal exactly the process that ``pidfd`` holds, pidfd_send_signal(2).  ESRCH once it is reaped."""
    if _pidfd_send_signal(pidfd, signal, None, 0) < 0:
        raise _failed()


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate of descriptor ``fd`` of another process, pidfd_getfd(2)."""
    copy = _pidfd_getfd(pidfd, fd, 0)
    if copy < 0:
        raise _failed()
    return copy


class Exec:
    """An ``execve`` whose arguments already lie in memory as the kernel reads them.

    Made by `prepare_exec` before a container's root is entered; `run` then does the bare call and nothing
    else.
    """

    __slots__ = ("_argv", "_candidates", "_envp", "_keep")

    def __init__(self, candidates: Sequence[bytes], argv: Sequence[bytes], env: Sequence[bytes]) -> None:
        self._keep = (tuple(candidates), tuple(argv), tuple(env))
        self._candidates = self._keep[0]
        self._argv = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
        self._envp = (ctypes.c_char_p * (len(env) + 1))(*env, None)

    def run(self) -> int:
        """Try the candidates in order.  Returns only on failure, with the errno that matters.

        As execvp(3): a candidate that is missing or not allowed gives way to the next, every other failure
        ends the search, and EACCES is remembered above ENOENT.
        """
        result = errno.ENOENT
        for path in self._candidates:
            _execve(path, self._argv, self._envp)
            code = ctypes.get_errno()
            if code == errno.EACCES:
                result = code
            elif code not in _NEXT_CANDIDATE:
                return code
        return result

    def run_fd(self, fd: int) -> int:
        """Execute the file behind ``fd``, execveat(2) with AT_EMPTY_PATH.  Returns only on failure: the
        errno.
        """
        _execveat(fd, b"", self._argv, self._envp, AT_EMPTY_PATH)
        return ctypes.get_errno()


_NEXT_CANDIDATE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)


def prepare_exec(
    candidates: Sequence[StrOrBytes], argv: Sequence[StrOrBytes], env: Sequence[StrOrBytes]
) -> Exec:
    """Lay out an ``execve``: paths to try, argument vector, ``NAME=value`` strings.  NUL bytes are EINVAL."""
    return Exec([as_bytes(c) for c in candidates], [as_bytes(a) for a in argv], [as_bytes(e) for e in env])


def execve(path: StrOrBytes, argv: Sequence[StrOrBytes], env: Sequence[StrOrBytes]) -> None:
    """Replace the program, execve(2).  Returns never; raises on failure."""
    code = prepare_exec([path], argv, env).run()
    raise OSError(code, os.strerror(code), path)


# --- identity -----------------------------------------------------------------------------------------------


def _checked_id(value: int) -> int:
    if not 0 <= value < NO_ID:
        raise OSError(errno.EINVAL, f"{value} is not a user or group ID")
    return value


def setresuid(uid: int) -> None:
    """Become ``uid`` for good: real, effective and saved user ID of the calling thread (attack R-18).

    The outcome is read back, because an ID that the kernel takes as "no change" must never pass for success.
    """
    uid = _checked_id(uid)
    if _setresuid(uid, uid, uid) < 0:
        raise _failed(f"uid {uid}")
    if os.getresuid() != (uid, uid, uid):
        raise OSError(errno.EPERM, f"user IDs are {os.getresuid()} after asking for {uid}")


def setresgid(gid: int) -> None:
    """Become ``gid`` for good: real, effective and saved group ID of the calling thread."""
    gid = _checked_id(gid)
    if _setresgid(gid, gid, gid) < 0:
        raise _failed(f"gid {gid}")
    if os.getresgid() != (gid, gid, gid):
        raise OSError(errno.EPERM, f"group IDs are {os.getresgid()} after asking for {gid}")


def set_file_ids(uid: int, gid: int) -> None:
    """Make files as ``uid`` and ``gid``, setfsuid(2), until the next setresuid(2) and setresgid(2) or execve.

    Capabilities stay where the securebits say so; a parent-death signal is forgotten.
    """
    for change, number in ((_setfsgid, _checked_id(gid)), (_setfsuid, _checked_id(uid))):
        change(number)
        if change(NO_ID) != number:  # neither reports an error: what is asked for answers what is
            raise OSError(errno.EPERM, f"files cannot be made as user {uid}, group {gid}")


def setgroups(groups: Sequence[int]) -> None:
    """Set the supplementary groups, setgroups(2).  The empty list drops them all (attack R-19)."""
    array = (ctypes.c_uint32 * max(len(groups), 1))(*(_checked_id(group) for group in groups))
    if _setgroups(len(groups), ctypes.addressof(array)) < 0:
        raise _failed("supplementary groups")


def capget() -> tuple[int, int, int]:
    """The calling thread's ``(effective, permitted, inheritable)`` capability masks, capget(2)."""
    data = ctypes.create_string_buffer(24)
    if _capget(_CAPABILITY_HEADER, ctypes.addressof(data)) < 0:
        raise _failed()
    low = struct.unpack_from("III", data, 0)
    high = struct.unpack_from("III", data, 12)
    return low[0] | high[0] << 32, low[1] | high[1] << 32, low[2] | high[2] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's capability masks, capset(2)."""
    masks = (effective, permitted, inheritable)
    data = struct.pack("6I", *(m & 0xFFFFFFFF for m in masks), *(m >> 32 for m in masks))
    if _capset(_CAPABILITY_HEADER, data) < 0:
        raise _failed("capabilities")


_CAPABILITY_HEADER = struct.pack("Ii", 0x20080522, 0)


# --- prctl(2) -----------------------------------------------------------------------------------------------


def _control(option: int, *arguments: int) -> int:
    result = _prctl(option, *arguments, *(0,) * (4 - len(arguments)))
    if result < 0:
        raise _failed()
    return result


def set_pdeathsig(signal: int) -> None:
    """Have the calling process signalled when its parent thread ends; cleared by a set-ID ``execve``."""
    _control(1, signal)


def get_dumpable() -> int:
    """0: not dumpable and /proc/PID belongs to root; 1: ordinary."""
    return _control(3)


def set_dumpable(value: int) -> None:
    """0 keeps ptrace and /proc/PID/{exe,fd,mem} from all without CAP_SYS_PTRACE here (attack R-02)."""
    _control(4, value)


def set_keepcaps(value: int) -> None:
    """1 keeps the permitted capabilities over the next change of user ID; cleared by ``execve``."""
    _control(8, value)


def set_name(name: StrOrBytes) -> None:
    """Name the calling thread, at most 15 bytes (``/proc/PID/comm``)."""
    if _prctl_name(15, as_bytes(name)[:15], 0, 0, 0) < 0:
        raise _failed()


def get_securebits() -> int:
    """The calling thread's securebits, capabilities(7)."""
    return _control(27)


def set_securebits(bits: int) -> None:
    """Set the securebits, capabilities(7)."""
    _control(28, bits)


def capbset_read(capability: int) -> bool:
    """Whether the bounding set holds ``capability``.  EINVAL: the kernel does not know the number."""
    return _control(23, capability) == 1


def capbset_drop(capability: int) -> None:
    """Take ``capability`` out of the bounding set, for good."""
    _control(24, capability)


def set_child_subreaper(value: int) -> None:
    """1: orphaned descendants become children of this process."""
    _control(36, value)


def set_no_new_privs() -> None:
    """No ``execve`` below here gains privileges (set-ID bits, file capabilities); cannot be undone."""
    _control(38, 1)


def get_no_new_privs() -> bool:
    """Whether `set_no_new_privs` holds for the calling thread."""
    return _control(39) == 1


def cap_ambient_is_set(capability: int) -> bool:
    """Whether the ambient set holds ``capability``."""
    return _control(47, 1, capability) == 1


def cap_ambient_raise(capability: int) -> None:
    """Add to the ambient set; needs it in the permitted and the inheritable set."""
    _control(47, 2, capability)


def cap_ambient_clear() -> None:
    """Empty the ambient set."""
    _control(47, 4)


def set_vma_name(address: int, length: int, name: StrOrBytes) -> None:
    """Name an anonymous mapping in ``/proc/PID/maps``.  EINVAL without CONFIG_ANON_VMA_NAME."""
    if _prctl_vma(0x53564D41, 0, address, length, as_bytes(name)) < 0:
        raise _failed()


# --- limits, seccomp, keyrings, names -----------------------------------------------------------------------


def prlimit(pid: int, resource: int, limits: tuple[int, int] | None = None) -> tuple[int, int]:
    """Get, and set when ``limits`` is given, the ``(soft, hard)`` limit of a process, prlimit(2).

    ``pid`` 0 is the caller; `RLIM_INFINITY` is unlimited.  Returns the former limit.
    """
    former = ctypes.create_string_buffer(16)
    wanted = None if limits is None else struct.pack("QQ", *limits)
    if _prlimit(pid, resource, wanted, ctypes.addressof(former)) < 0:
        raise _failed(f"resource limit {resource}")
    soft, hard = struct.unpack("QQ", former)
    return soft, hard


RLIM_INFINITY = 0xFFFFFFFFFFFFFFFF


def set_rlimit(resource: int, soft: int, hard: int) -> None:
    """Set a resource limit of the calling process.  EPERM: above the hard limit without CAP_SYS_RESOURCE."""
    prlimit(0, resource, (soft, hard))


def seccomp_set_filter(program: bytes, flags: int = 0) -> int:
    """Install a filter for the calling thread, seccomp(2): an array of ``struct sock_filter``, 8 bytes each.

    Needs no_new_privs or CAP_SYS_ADMIN.  Returns the listener with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.
    """
    count, rest = divmod(len(program), 8)
    if rest or not count:
        raise OSError(
            errno.EINVAL, f"a filter program of {len(program)} bytes is no whole number of instructions"
        )
    code = ctypes.create_string_buffer(program, len(program))
    result = _seccomp(1, flags, struct.pack("HxxxxxxP", count, ctypes.addressof(code)))
    if result < 0:
        raise _failed("seccomp filter")
    return result


def keyctl_join_session(name: StrOrBytes | None) -> int:
    """Start a session keyring of our own, keyctl(2) JOIN_SESSION_KEYRING; returns its serial (attack R-27).

    A named keyring that exists and may be searched is joined, not made: the name has to be unique.
    """
    serial = _keyctl_name(1, None if name is None else as_bytes(name))
    if serial < 0:
        raise _failed("session keyring")
    return serial


def keyctl_set_permissions(serial: int, permissions: int) -> None:
    """Set a key's permission mask, keyctl(2) SETPERM; see `KEY_POSSESSOR_ALL`."""
    if _keyctl_number(5, serial, permissions) < 0:
        raise _failed("session keyring")


def sethostname(name: StrOrBytes) -> None:
    """Name this UTS namespace, sethostname(2): at most 64 bytes."""
    raw = as_bytes(name)
    if _sethostname(raw, len(raw)) < 0:
        raise _failed(name)


def bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2) with ``union bpf_attr`` as a buffer, which the kernel may write to."""
    result = _bpf(command, ctypes.addressof(attributes), len(attributes))
    if result < 0:
        raise _failed()
    return result


# --- descriptors and paths ----------------------------------------------------------------------------------


def close_range(first: int, last: int = MAX_FD, flags: int = 0) -> None:
    """Close, or with CLOSE_RANGE_CLOEXEC mark, each descriptor from ``first`` to ``last``, close_range(2)."""
    if _close_range(first, last, flags) < 0:
        raise _failed()


def openat2(dirfd: int, path: StrOrBytes, flags: int, mode: int = 0, *, resolve: int = 0) -> int:
    """Open ``path`` below ``dirfd`` under the restrictions of ``resolve``, openat2(2).

    EAGAIN, the kernel's answer when a rename elsewhere raced with a ``..``, is tried again 128 times.
    """
    raw = as_bytes(path)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(128):
        fd = _openat2(dirfd, raw, how, 24)
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:
            break
    raise _failed(path)


def renameat2(source_fd: int, source: StrOrBytes, target_fd: int, target: StrOrBytes, flags: int = 0) -> None:
    """Rename, with RENAME_NOREPLACE or RENAME_EXCHANGE, renameat2(2)."""
    if _renameat2(source_fd, as_bytes(source), target_fd, as_bytes(target), flags) < 0:
        raise _failed(target)


def set_owner(fd: int, uid: int, gid: int) -> None:
    """Change the owner of what ``fd`` holds, also O_PATH, also a symbolic link itself, fchownat(2)."""
    if _fchownat(fd, b"", uid & NO_ID, gid & NO_ID, AT_EMPTY_PATH) < 0:
        raise _failed()


def set_mode(fd: int, mode: int) -> None:
    """Change the mode of what ``fd`` holds, also through an O_PATH descriptor.

    fchmodat2(2) from Linux 6.6.  Before, a directory is opened once more, since in a container's root
    ``/proc`` is the container's and leads wherever it likes; for anything else chmod of ``/proc/self/fd/N``.
    """
    if _fchmodat2(fd, b"", mode, AT_EMPTY_PATH) == 0:
        return
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise _failed()
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.chmod(f"/proc/self/fd/{fd}", mode)  # noqa: PTH101
        return
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.fchmod(opened, mode)
    finally:
        os.close(opened)


def filesystem_type(fd: int) -> int:
    """The magic number of the filesystem that ``fd`` lies on (``f_type`` of fstatfs(2), linux/magic.h)."""
    data = ctypes.create_string_buffer(120)
    if _fstatfs(fd, ctypes.addressof(data)) < 0:
        raise _failed()
    (magic,) = struct.unpack_from("l", data, 0)
    return int(magic)


def mount_id(fd: int) -> int:
    """The ID of the mount that ``fd`` was opened through: column 1 of mountinfo, statx(2) STATX_MNT_ID."""
    data = ctypes.create_string_buffer(256)
    if _statx(fd, b"", AT_EMPTY_PATH, 0x1000, ctypes.addressof(data)) < 0:
        raise _failed()
    (number,) = struct.unpack_from("Q", data, 0x90)
    return int(number)


def sealed_memfd(name: str, content: bytes, *, executable: bool = False) -> int:
    """A descriptor of an unnamed file with ``content`` that nobody can change any more, memfd_create(2)."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | (MFD_EXEC if executable else 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create(name, flags)  # before Linux 6.3 every memfd may be executed
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


# --- mounts -------------------------------------------------------------------------------------------------


def pivot_root(new_root: StrOrBytes, put_old: StrOrBytes) -> None:
    """Make ``new_root`` the root of this mount namespace and move the old one to ``put_old``, pivot_root(2).

    ``pivot_root(".", ".")`` stacks the old root upon the new one; detach it with ``umount2(".",
    MNT_DETACH)``.
    """
    if _pivot_root(as_bytes(new_root), as_bytes(put_old)) < 0:
        raise _failed(new_root)


def mount(
    source: StrOrBytes | None,
    target: StrOrBytes,
    filesystem: StrOrBytes | None,
    flags: int,
    data: StrOrBytes | None = None,
) -> None:
    """mount(2), for kernels that lack a part of the descriptor-based interface."""
    arguments = [None if text is None else as_bytes(text) for text in (source, target, filesystem, data)]
    if _mount(arguments[0], arguments[1], arguments[2], flags, arguments[3]) < 0:
        raise _failed(target)


def umount2(target: StrOrBytes, flags: int) -> None:
    """umount2(2); give UMOUNT_NOFOLLOW unless ``target`` is a link of ours."""
    if _umount2(as_bytes(target), flags) < 0:
        raise _failed(target)


def fsopen(filesystem: StrOrBytes) -> int:
    """Start to configure a filesystem of this type, fsopen(2).  ENODEV: the kernel does not have it."""
    fd = _fsopen(as_bytes(filesystem), FSOPEN_CLOEXEC)
    if fd < 0:
        raise _failed(filesystem)
    return fd


def _complaints(fs_fd: int) -> str:
    """What the kernel logged on a filesystem context, one message a line, errors and warnings only."""
    found: list[str] = []
    try:
        while len(found) < 16:
            message = os.read(fs_fd, 4096).decode("utf-8", "replace").strip()
            if message[:2] in ("e ", "w "):
                found.append(message[2:])
    except OSError:
        pass  # ENODATA: the log is empty
    return "; ".join(found)


def _configure(fs_fd: int, command: int, key: bytes | None, value: bytes | None, aux: int) -> None:
    if _fsconfig_bytes(fs_fd, command, key, value, aux) < 0:
        code = ctypes.get_errno()
        detail = _complaints(fs_fd)
        ctypes.set_errno(code)
        raise _failed(None if key is None else os.fsdecode(key), detail)


def fsconfig_set_string(fs_fd: int, key: StrOrBytes, value: StrOrBytes) -> None:
    """Set ``key=value``; the value is taken as it is and has at most 255 bytes, fsconfig(2)."""
    _configure(fs_fd, _FSCONFIG_SET_STRING, as_bytes(key), as_bytes(value), 0)


def fsconfig_set_flag(fs_fd: int, key: StrOrBytes) -> None:
    """Set an option without a value."""
    _configure(fs_fd, _FSCONFIG_SET_FLAG, as_bytes(key), None, 0)


def fsconfig_set_fd(fs_fd: int, key: StrOrBytes, fd: int) -> None:
    """Set ``key`` to an open file."""
    _configure(fs_fd, _FSCONFIG_SET_FD, as_bytes(key), None, fd)


def fsconfig_set_path_empty(fs_fd: int, key: StrOrBytes, fd: int) -> None:
    """Set ``key`` to the path that ``fd`` holds."""
    _configure(fs_fd, _FSCONFIG_SET_PATH_EMPTY, as_bytes(key), b"", fd)


def fsconfig_create(fs_fd: int) -> None:
    """Make the superblock.  The error text carries what the filesystem said."""
    _configure(fs_fd, _FSCONFIG_CMD_CREATE, None, None, 0)


def fsmount(fs_fd: int, attributes: int = 0) -> int:
    """A detached mount of the configured filesystem with MOUNT_ATTR_* ``attributes``, fsmount(2)."""
    fd = _fsmount(fs_fd, FSMOUNT_CLOEXEC, attributes)
    if fd < 0:
        code = ctypes.get_errno()
        detail = _complaints(fs_fd)
        ctypes.set_errno(code)
        raise _failed(None, detail)
    return fd


def open_tree(dirfd: int, path: StrOrBytes, flags: int) -> int:
    """Hold a place in the mount tree; with OPEN_TREE_CLONE a detached bind mount of it, open_tree(2).

    AT_RECURSIVE clones what is mounted below as well.  A ``path`` of ``""`` needs AT_EMPTY_PATH.
    """
    fd = _open_tree(dirfd, as_bytes(path), flags | os.O_CLOEXEC)
    if fd < 0:
        raise _failed(path)
    return fd


def move_mount(source_fd: int, source: StrOrBytes, target_fd: int, target: StrOrBytes, flags: int) -> None:
    """Attach or move a mount, move_mount(2)."""
    if _move_mount(source_fd, as_bytes(source), target_fd, as_bytes(target), flags) < 0:
        raise _failed(target)


def mount_setattr(
    fd: int,
    path: StrOrBytes,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change the attributes of a mount, with AT_RECURSIVE of all below it, mount_setattr(2)."""
    attributes = struct.pack("QQQQ", attr_set, attr_clr, propagation, userns_fd)
    if _mount_setattr(fd, as_bytes(path), flags, attributes, 32) < 0:
        raise _failed(path)
