"""linux/syscalls against the running kernel."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fixtures import isolated
from mesocosm.linux import capabilities, namespaces, processes, syscalls
from mesocosm.linux.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    clone3,
)

SIX = CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS


@pytest.fixture
def held() -> Iterator[list[int]]:
    """Descriptors to be closed at the end."""
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("status", [0, 7, 255])
def test_clone3_into_new_namespaces_and_the_exit_status_by_pidfd(status: int, held: list[int]) -> None:
    pid, pidfd = clone3(SIX, exit_signal=signal.SIGCHLD, pidfd=True)
    if pid == 0:
        os._exit(status if os.getpid() == 1 else 99)
    held.append(pidfd)
    assert processes.wait(pidfd) == status


def test_a_clone_killed_by_a_signal(held: list[int]) -> None:
    pid, pidfd = clone3(0, exit_signal=signal.SIGCHLD, pidfd=True)
    if pid == 0:
        select.select([], [], [])
    held.append(pidfd)
    assert os.get_inheritable(pidfd) is False
    syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert processes.wait(pidfd) == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        syscalls.pidfd_send_signal(pidfd, 0)


def test_every_namespace_of_the_clone_is_its_own() -> None:
    kinds = ("cgroup", "ipc", "net", "mnt", "uts")  # procfs still shows the caller's PID namespace
    ours = {kind: list(namespaces.identity(kind)) for kind in kinds}

    def look() -> dict[str, tuple[int, int]]:
        return {kind: namespaces.identity(kind) for kind in kinds}

    theirs = isolated.run(look, flags=SIX & ~CLONE_NEWPID)
    assert all(theirs[kind] != ours[kind] for kind in kinds)
    assert isolated.run(look, flags=0) == ours, "the benign twin: without flags they are the caller's"


def test_clone3_refused_is_an_error_not_a_child() -> None:
    with pytest.raises(OSError) as raised:
        clone3(CLONE_NEWNS | 0x200, exit_signal=signal.SIGCHLD)  # CLONE_FS and CLONE_NEWNS exclude each other
    assert raised.value.errno == errno.EINVAL


def test_hostname_in_its_own_namespace() -> None:
    before = os.uname().nodename

    def rename() -> str:
        syscalls.sethostname("mesocosm-test")
        return os.uname().nodename

    assert isolated.run(rename, flags=CLONE_NEWUTS) == "mesocosm-test"
    assert os.uname().nodename == before


def test_setns_by_pidfd(held: list[int]) -> None:
    reader, writer = os.pipe()
    pid, pidfd = clone3(CLONE_NEWUTS | CLONE_NEWIPC, exit_signal=signal.SIGCHLD, pidfd=True)
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    held += [reader, pidfd]
    wanted = [list(namespaces.identity(kind, pid)) for kind in ("uts", "ipc")]

    def join() -> list[tuple[int, int]]:
        syscalls.setns(pidfd, CLONE_NEWUTS | CLONE_NEWIPC)
        return [namespaces.identity(kind) for kind in ("uts", "ipc")]

    try:
        assert isolated.run(join, flags=0) == wanted
    finally:
        os.close(writer)
        processes.wait(pidfd)


def test_open_namespace_takes_only_the_kind_asked_for(tmp_path: Path, held: list[int]) -> None:
    """R-36: another kind, a plain file, a FIFO (which must not block), a link to another kind."""
    held.append(namespaces.open_namespace("/proc/self/ns/net", "net"))
    assert namespaces.kind_of(held[0]) == "net"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    os.symlink("/proc/self/ns/mnt", tmp_path / "link")
    for path in ("/proc/self/ns/uts", str(tmp_path / "fifo"), str(tmp_path / "file"), str(tmp_path / "link")):
        with pytest.raises(OSError) as raised:
            namespaces.open_namespace(path, "net")
        assert raised.value.errno == errno.EINVAL
        assert raised.value.filename == path


def test_every_kind_opens_as_itself() -> None:
    for kind in namespaces.FLAGS:
        os.close(namespaces.open_namespace(f"/proc/self/ns/{kind}", kind))
    assert namespaces.flags_of(["mnt", "pid"]) == CLONE_NEWNS | CLONE_NEWPID


def test_loopback_comes_up_with_its_address() -> None:
    def act() -> list[bool]:
        def reachable() -> bool:
            with socket.socket() as server, socket.socket() as client:
                try:
                    server.bind(("127.0.0.1", 0))
                    server.listen()
                    client.connect(server.getsockname())
                except OSError:
                    return False
                return True

        before = reachable()
        namespaces.loopback_up()
        return [before, reachable()]

    assert isolated.run(act, flags=CLONE_NEWNET) == [False, True]


# --- execve -------------------------------------------------------------------------------------------------


def executed(prepared: syscalls.Exec) -> tuple[int, str]:
    """The exit status and output of a program started by ``prepared``; 200 + errno when it did not start."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os._exit(200 + prepared.run())
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def test_exec_with_exact_arguments_and_environment() -> None:
    """R-33: nothing of our own environment."""
    prepared = syscalls.prepare_exec(["/bin/sh"], ["name", "-c", 'echo "$0 $1"; env', "zero", "one"], ["A=b"])
    status, said = executed(prepared)
    lines = set(said.splitlines())
    assert status == 0
    assert "zero one" in lines and "A=b" in lines
    assert not any(line.startswith(("PYTEST", "MESOCOSM", "HOME", "USER")) for line in lines)


def test_exec_tries_candidates_like_execvp(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not executable")
    missing = str(tmp_path / "missing")
    through = str(plain / "below")
    good = ["/bin/true"]
    assert executed(syscalls.prepare_exec([missing, through, str(plain), *good], ["x"], []))[0] == 0
    assert executed(syscalls.prepare_exec([missing, through], ["x"], []))[0] == 200 + errno.ENOENT
    assert executed(syscalls.prepare_exec([str(plain), missing], ["x"], []))[0] == 200 + errno.EACCES
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    assert executed(syscalls.prepare_exec([str(broken), *good], ["x"], []))[0] == 200 + errno.ENOEXEC


def test_nul_bytes_never_reach_the_kernel() -> None:
    good = ("/bin/true", "x", "A=b")
    for index in range(3):
        path, word, variable = (text + "\0y" if index == at else text for at, text in enumerate(good))
        with pytest.raises(OSError) as raised:
            syscalls.prepare_exec([path], [word], [variable])
        assert raised.value.errno == errno.EINVAL


def test_exec_of_a_sealed_memfd(held: list[int]) -> None:
    fd = syscalls.sealed_memfd("test", Path("/bin/true").read_bytes(), executable=True)
    held.append(fd)
    for attempt in (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 0)):
        with pytest.raises(PermissionError):
            attempt()
    pid = os.fork()
    if pid == 0:
        os._exit(200 + syscalls.prepare_exec([], ["true"], []).run_fd(fd))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- identity -----------------------------------------------------------------------------------------------


def test_ids_are_32_bits_and_read_back() -> None:
    def act() -> list[object]:
        syscalls.setgroups([4, 4294967294])
        syscalls.setresgid(3000000000)
        syscalls.setresuid(3000000001)
        return [os.getgroups(), os.getresgid(), os.getresuid()]

    assert isolated.run(act) == [[4, 4294967294], [3000000000] * 3, [3000000001] * 3]


@pytest.mark.parametrize("bad", [-1, 4294967295, 4294967296, 1 << 40])
def test_ids_that_mean_no_change_or_wrap_are_refused(bad: int) -> None:
    """R-18: 4294967295 is "as it is", 4294967296 wraps to root."""
    for call in (syscalls.setresuid, syscalls.setresgid, lambda one: syscalls.setgroups([one])):
        with pytest.raises(OSError) as raised:
            call(bad)
        assert raised.value.errno == errno.EINVAL
    assert os.getresuid() == (0, 0, 0)


def test_supplementary_groups_are_dropped() -> None:
    """R-19: the empty list is set, not skipped."""

    def act() -> list[object]:
        syscalls.setgroups([1, 2])
        before = os.getgroups()
        syscalls.setgroups([])
        return [before, os.getgroups()]

    assert isolated.run(act) == [[1, 2], []]


def test_an_unprivileged_user_with_a_chosen_set() -> None:
    """R-17: bounding exactly as asked for, inheritable empty or as asked for, ambient passes through
    execve.
    """
    wanted = capabilities.mask(["NET_BIND_SERVICE", "KILL"])

    def act(ambient: bool) -> str:
        capabilities.drop_bounding(wanted)
        syscalls.set_keepcaps(1)
        syscalls.setgroups([])
        syscalls.setresgid(1000)
        syscalls.setresuid(1000)
        inheritable = wanted if ambient else 0
        capabilities.set_masks(effective=wanted, permitted=wanted, inheritable=inheritable)
        capabilities.raise_ambient(inheritable)
        prepared = syscalls.prepare_exec(["/bin/grep"], ["grep", "-E", "^Cap|^Uid", "/proc/self/status"], [])
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(writer, 1)
            os._exit(prepared.run())
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        os.waitpid(pid, 0)
        return said

    for ambient in (True, False):
        said = isolated.run(partial(act, ambient))
        fields = dict(line.split(":\t") for line in said.splitlines())
        masks = {name: int(text, 16) for name, text in fields.items() if name.startswith("Cap")}
        assert fields["Uid"] == "1000\t1000\t1000\t1000"
        held = wanted if ambient else 0
        assert masks == {"CapInh": held, "CapPrm": held, "CapEff": held, "CapBnd": wanted, "CapAmb": held}


def test_the_ceiling_is_our_own_bounding_set() -> None:
    assert capabilities.bounding_set() == int(processes.read_status("self")["CapBnd"], 16)


# --- prctl and friends --------------------------------------------------------------------------------------


def test_no_new_privileges_dumpable_and_name() -> None:
    def act() -> list[object]:
        before = syscalls.get_no_new_privs()
        syscalls.set_no_new_privs()
        syscalls.set_dumpable(0)
        syscalls.set_name("a-name-that-is-longer-than-fifteen")
        status = processes.read_status("self")
        return [
            before,
            syscalls.get_no_new_privs(),
            syscalls.get_dumpable(),
            status["NoNewPrivs"],
            status["Name"],
        ]

    assert isolated.run(act) == [False, True, 0, "1", "a-name-that-is-"]


def test_a_filter_denies_with_its_errno() -> None:
    def act() -> int:
        number = 39 if os.uname().machine == "x86_64" else 172  # getpid
        program = b"".join(
            struct.pack("HBBI", *one)
            for one in (
                (0x20, 0, 0, 0),  # load the system call's number
                (0x15, 0, 1, number),  # if equal ...
                (0x06, 0, 0, 0x00050000 | errno.EXDEV),  # ... fail with EXDEV
                (0x06, 0, 0, 0x7FFF0000),  # allow
            )
        )
        syscalls.set_no_new_privs()
        assert syscalls.seccomp_set_filter(program) == 0
        os.getpid()
        return int(processes.read_status("self")["Seccomp"])

    assert isolated.run(act) == 2
    for broken in (b"", b"1234567"):
        with pytest.raises(OSError) as raised:
            syscalls.seccomp_set_filter(broken)
        assert raised.value.errno == errno.EINVAL


def test_a_session_keyring_of_our_own() -> None:
    """R-27: two processes that join by different names have different keyrings."""

    def act() -> list[int]:
        serial = syscalls.keyctl_join_session("_ses.mesocosm-test-1")
        syscalls.keyctl_set_permissions(serial, syscalls.KEY_POSSESSOR_ALL)
        return [serial, syscalls.keyctl_join_session("_ses.mesocosm-test-2")]

    first, second = isolated.run(act, flags=0)
    assert first > 0 and second > 0 and first != second


def test_close_range_marks_or_closes() -> None:
    def act() -> list[bool]:
        fd = os.dup2(0, 200)  # above the pipe that brings the answer back
        os.set_inheritable(fd, True)
        syscalls.close_range(fd, flags=syscalls.CLOSE_RANGE_CLOEXEC)
        marked = not os.get_inheritable(fd)
        syscalls.close_range(fd)
        try:
            os.fstat(fd)
        except OSError:
            return [marked, True]
        return [marked, False]

    assert isolated.run(act) == [True, True]


def test_rename_without_replacing_and_exchanging(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(FileExistsError):
            syscalls.renameat2(fd, "a", fd, "b", syscalls.RENAME_NOREPLACE)
        syscalls.renameat2(fd, "a", fd, "b", syscalls.RENAME_EXCHANGE)
    finally:
        os.close(fd)
    assert (tmp_path / "a").read_text() == "b"


def test_owner_and_mode_through_a_path_descriptor(tmp_path: Path, held: list[int]) -> None:
    """Also of a link itself, and of a FIFO that would block if it were opened (I-06)."""
    os.symlink("nowhere", tmp_path / "link")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo"):
        held.append(os.open(tmp_path / name, os.O_PATH | os.O_NOFOLLOW))
        syscalls.set_owner(held[-1], 1234, 4000000000)
        assert (os.lstat(tmp_path / name).st_uid, os.lstat(tmp_path / name).st_gid) == (1234, 4000000000)
    syscalls.set_mode(held[1], 0o640)
    assert stat.S_IMODE(os.lstat(tmp_path / "fifo").st_mode) == 0o640


def test_limits_of_another_process(held: list[int]) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    held.append(reader)
    try:
        former = syscalls.prlimit(pid, 7, (64, 64))
        assert syscalls.prlimit(pid, 7) == (64, 64) != former
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def test_a_descriptor_taken_from_another_process(tmp_path: Path, held: list[int]) -> None:
    (tmp_path / "file").write_text("content")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        fd = os.open(tmp_path / "file", os.O_RDONLY)
        os.dup2(fd, 77)
        os.read(reader, 1)
        os._exit(0)
    held.append(reader)
    pidfd = syscalls.pidfd_open(pid)
    held.append(pidfd)
    try:
        while not os.path.exists(f"/proc/{pid}/fd/77"):
            os.sched_yield()
        held.append(syscalls.pidfd_getfd(pidfd, 77))
        assert os.read(held[-1], 99) == b"content"
    finally:
        os.close(writer)
        os.waitpid(pid, 0)
