"""What of the kernel a container can reach: R-15, R-16, R-22, R-25 to R-27, K-01 to K-03, K-05, K-06."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.commandline import Answer, CommandLine
from fixtures.sandbox_defaults import DENIED_CALLS
from mesocosm.linux.syscall_table import TABLES

Image = Callable[..., Path]

UNFILTERED = ("--security-opt", "seccomp=unconfined")

# --- the kernel's own files ---

SETTINGS = (
    "kernel/core_pattern",
    "kernel/modprobe",
    "kernel/sysrq",
    "kernel/shm_rmid_forced",
    "kernel/hostname",
    "fs/lease-break-time",
    "vm/overcommit_memory",
    "net/ipv4/ip_forward",
)


def test_r15_r16_settings_are_read_only(mesocosm: CommandLine, image: Image) -> None:
    """R-16: no sysctl can be written, namespaced or not ("cr8escape" CVE-2022-0811); R-15: what is read-only
    or hidden stays so; benign twin: they can be read.
    """
    places = [Path("/proc/sys", name) for name in SETTINGS]
    before = {place: place.read_text() for place in places if place.exists()}
    script = f"""
        for name in {" ".join(SETTINGS)}; do
            echo 1 > /proc/sys/$name && echo "$name was written"
            printf x > /proc/self/root/proc/sys/$name && echo "$name was written by another way"
        done
        mount -o remount,rw /proc/sys && echo remounted
        mount -o remount,rw,bind /proc/sys && echo remounted
        umount /proc/sys && echo unmounted
        umount -l /proc/keys && echo unmounted
        mount -t proc proc /tmp && echo second procfs
        mount --bind /proc /tmp && echo bound
        unshare -Urm true && echo unshared
        cat /proc/sys/kernel/ostype
    """
    assert mesocosm.shell(image(), script).accepted() == "Linux\n"
    assert before == {place: place.read_text() for place in before}


def test_r15_hidden_stays_hidden_in_a_user_namespace(mesocosm: CommandLine, image: Image) -> None:
    """R-15 without the system call filter: a user namespace of the container's own neither undoes what is
    read-only nor mounts a procfs or sysfs that shows more (mount_namespaces(7): locked mounts).
    """
    script = """
        mount -o remount,rw /proc/sys && echo remounted
        mount -o remount,bind,rw /proc/sys && echo remounted
        umount /proc/keys && echo unmounted
        umount /proc/sys && echo unmounted
        mount -t proc proc /tmp && echo second procfs
        mount -t sysfs sysfs /tmp && echo second sysfs
        echo 1 > /proc/sys/kernel/sysrq && echo written
        mount -t tmpfs tmpfs /tmp && echo namespace
    """
    nested = f"unshare -Urmpfn sh -c '{script}' 2> /dev/null"
    assert mesocosm.shell(image(), nested, *UNFILTERED).accepted() == "namespace\n"


# --- K-01, K-02, K-05, K-06: golden lists ---

LIST_WRITABLE = """
    import os, stat
    own = {str(os.getpid()), "self", "thread-self"}
    found = set()
    for top in ("/proc", "/sys"):
        for folder, folders, files in os.walk(top):
            parts = folder.split("/")
            if len(parts) > 2 and parts[1] == "proc" and (parts[2].isdigit() or parts[2] in own):
                folders.clear()
                continue
            for name in files:
                path = folder + "/" + name
                try:
                    mode = os.lstat(path).st_mode
                    if not (stat.S_ISREG(mode) and mode & 0o222):
                        continue
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                except OSError:
                    continue
                found.add(path)
    print("\\n".join(sorted(found)))
"""

WRITABLE = {f"/proc/pressure/{kind}" for kind in ("cpu", "io", "irq", "memory")}
"""What may be opened for writing: what is written there is heard by the writer alone (psi.rst)."""


def test_k01_nothing_of_the_kernel_opens_for_writing(mesocosm: CommandLine, debian_root: Path) -> None:
    """K-01: every file below /proc and /sys that opens for writing as root, against the golden list.

    Files without any write permission have nothing behind them that takes what is written.
    """
    listed = mesocosm.python(debian_root, LIST_WRITABLE).accepted().split()
    assert set(listed) - WRITABLE == set()


def test_k02_hidden_paths_are_empty_by_every_alias(mesocosm: CommandLine, image: Image) -> None:
    """K-02: hidden files have no content and folders none either, by whatever way they are reached."""
    script = """
        for way in "" /proc/1/root /proc/self/root /proc/1/task/1/root /proc/thread-self/root; do
            for path in acpi asound interrupts kcore key-users keys latency_stats sched_debug scsi \\
                timer_list timer_stats; do
                place=$way/proc/$path
                if test -d $place; then ls -A $place; else head -c 1 $place; fi
            done
            for place in $way/sys/firmware $way/sys/devices/virtual/powercap \\
                $way/sys/devices/system/cpu/cpu0/thermal_throttle; do
                test -d $place && ls -A $place
            done
        done 2> /dev/null
        head -c 1 /proc/1/root/proc/uptime > /dev/null && echo benign
    """
    assert mesocosm.shell(image(), script).accepted() == "benign\n"


def test_k05_no_core_dumps(mesocosm: CommandLine, image: Image) -> None:
    """K-05: a core_pattern pipe runs on the host, so the default core limit is 0."""
    assert mesocosm.shell(image(), "ulimit -Sc").accepted() == "0\n"
    assert mesocosm.shell(image(), "ulimit -Sc", "--ulimit", "core=512").accepted() == "1\n"


def test_k06_dev_holds_only_what_it_should(mesocosm: CommandLine, image: Image) -> None:
    """K-06: the golden list of /dev."""
    script = "cd /dev; find . | sort; find . -type c -exec stat -c '%n %t:%T %a' {} + | sort; find . -type b"
    expected = {
        *(".", "./fd", "./full", "./mqueue", "./null", "./ptmx", "./pts", "./pts/ptmx", "./random", "./shm"),
        *("./stderr", "./stdin", "./stdout", "./tty", "./urandom", "./zero"),
        *("./full 1:7 666", "./null 1:3 666", "./random 1:8 666", "./tty 5:0 666", "./urandom 1:9 666"),
        *("./zero 1:5 666", "./pts/ptmx 5:2 666"),
    }
    assert set(mesocosm.shell(image(), script).accepted().splitlines()) == expected


# --- R-22, K-03: system calls ---

CALL_EVERYTHING = """
    import ctypes, errno, json, mmap, os, sys
    calls, gate_calls = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    def attempt(number, *arguments):
        ctypes.set_errno(0)
        result = call(*map(ctypes.c_long, (number, *arguments, *[0] * (6 - len(arguments)))))
        return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]
    # mov eax,edi; push rbx; mov ebx,esi; mov ecx,edx; xor edx,edx; xor esi,esi; xor edi,edi; int 0x80;
    # pop rbx; ret
    code = bytes.fromhex("89f85389f389d131d231f631ffcd805bc3")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=7)
    page.write(code)
    start = ctypes.c_char.from_buffer(page)
    enter = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(ctypes.addressof(start))
    def through_gate(number):
        result = enter(number, 0, 0)
        return "done" if result >= 0 else errno.errorcode[-result]
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(json.dumps({
        "mode": status["Seccomp"].strip(),
        "called": {name: attempt(number) for name, number in calls.items()},
        "gated": {name: through_gate(number) for name, number in gate_calls.items()},
        "own": attempt(39),
    }))
"""


def _script() -> tuple[str, ...]:
    native, x32, gate = TABLES["x86_64"], TABLES["x32"], TABLES["x86"]
    calls = {call: native[call] for call in (*DENIED_CALLS, "clone3") if call in native}
    calls |= {f"x32 {call}": x32[call] for call in DENIED_CALLS if call in x32}
    calls |= {"unknown": 600}
    gated = {call: gate[call] for call in (*DENIED_CALLS, "clone3") if call in gate}
    return (textwrap.dedent(CALL_EVERYTHING), json.dumps(calls), json.dumps(gated))


def _judge(answer: Answer) -> None:
    found = json.loads(answer.accepted())
    assert found["mode"] == "2"
    assert found["own"] == "done"
    enosys = {"clone3", "unknown"}
    for calls in (found["called"], found["gated"]):
        expected = {name: "ENOSYS" if name in enosys else "EPERM" for name in calls}
        assert calls == expected


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the 32-bit and x32 gates are those of x86-64")
def test_r22_k03_denied_calls_from_run_and_exec(mesocosm: CommandLine, debian_root: Path) -> None:
    """R-22, K-03: the denied list natively, through int 0x80 and with the x32 bit, from run and from exec
    (rkt CVE-2019-10145); unknown calls and clone3 are ENOSYS; benign twin: getpid, and with a capability.
    """
    script = ("python3", "-I", "-c", *_script())
    container = mesocosm.start(debian_root, "sleep", "600")
    _judge(mesocosm.run(debian_root, *script))
    _judge(mesocosm.exec(container, *script))
    loose = json.loads(mesocosm.run(debian_root, *script, options=UNFILTERED).accepted())
    assert loose["mode"] == "0"


def test_k03_address_families(mesocosm: CommandLine, debian_root: Path) -> None:
    """K-03: no AF_ALG and no AF_VSOCK, not even with a high bit set; benign twins: AF_UNIX, AF_INET."""
    script = """
        import ctypes
        call = ctypes.CDLL(None, use_errno=True).syscall
        for family in (38, 40, 38 | 1 << 32, 40 | 1 << 40, 1, 2):
            result = call(41, ctypes.c_long(family), 5 if family & 0xff == 38 else 1, 0)
            print("refused" if result < 0 else "made")
    """
    found = mesocosm.python(debian_root, script).accepted().split()
    assert found == ["refused"] * 4 + ["made"] * 2


# --- cgroups ---


def test_r25_release_agent_and_cgroup_files_cannot_be_written(
    mesocosm: CommandLine, debian_root: Path
) -> None:
    """R-25: ``unshare -UrmC``, mount each v1 controller, write release_agent (CVE-2022-0492); cgroup mounts
    are read-only (CVE-2023-25809), also without the system call filter.
    """
    script = """
        for place in /sys/fs/cgroup /sys/fs/cgroup/*; do
            mkdir $place/made && echo "$place: a cgroup was made"
            for file in $place/release_agent $place/notify_on_release $place/cgroup.procs $place/tasks \\
                $place/devices.allow $place/memory.limit_in_bytes $place/memory.max $place/pids.max; do
                test -e $file && echo 1 > $file && echo "$file was written"
            done
        done 2> /dev/null
        ls /sys/fs/cgroup > /dev/null && echo looked
    """
    nested = """
        unshare -UrmC sh -c '
            mkdir -p /tmp/group
            for kind in memory rdma devices cpu pids freezer; do
                mount -t cgroup -o $kind cgroup /tmp/group || continue
                echo /bin/true > /tmp/group/release_agent && echo "$kind: release_agent was written"
                umount /tmp/group
            done 2> /dev/null
            echo nested'
    """
    assert mesocosm.shell(debian_root, script).accepted() == "looked\n"
    assert mesocosm.shell(debian_root, nested).out == ""
    both = f"{textwrap.dedent(script)}\n{textwrap.dedent(nested)}"
    assert mesocosm.shell(debian_root, both, *UNFILTERED).accepted() == "looked\nnested\n"


# --- terminal and keys ---


def test_r26_the_operators_terminal_is_out_of_reach(mesocosm: CommandLine, debian_root: Path) -> None:
    """R-26: the caller's terminal is not the container's, TIOCSTI reaches nobody, /dev/ptmx is its own."""
    script = """
        import fcntl, os
        fields = open("/proc/self/stat").read().rpartition(")")[2].split()
        print("terminal", fields[4])
        for fd in (0, 1, 2):
            try:
                fcntl.ioctl(fd, 0x5412, b"x")
                print("typed")
            except OSError:
                pass
        try:
            open("/dev/tty")
            print("opened")
        except OSError:
            pass
        master, slave = os.openpty()
        print(os.ttyname(slave), sorted(os.listdir("/dev/pts")))
    """
    master, slave = pty.openpty()
    try:
        words = mesocosm.words(
            "run", "--rm", "-q", "-i", f"dir:{debian_root}", "python3", "-I", "-c", textwrap.dedent(script)
        )
        done = subprocess.run(
            words, stdin=slave, stdout=subprocess.PIPE, stderr=slave, env=mesocosm.environment, timeout=60,
            text=True, check=False, start_new_session=True,
        )  # fmt: skip
        assert done.stdout == "terminal 0\n/dev/pts/0 ['0', 'ptmx']\n"
        os.set_blocking(master, False)
        with pytest.raises(BlockingIOError):
            os.read(master, 100)
    finally:
        os.close(master)
        os.close(slave)


WITH_KEY = """
import ctypes, os, sys
call = ctypes.CDLL(None, use_errno=True).syscall
call.restype = ctypes.c_long
assert call(250, 1, b"outside") > 0
assert call(248, b"user", b"canary", b"secret", 6, -3) > 0
assert call(250, 10, -3, b"user", b"canary", 0) > 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_r27_the_callers_keys_are_out_of_reach(mesocosm: CommandLine, debian_root: Path) -> None:
    """R-27: a key in the caller's session keyring is not found inside, even without the filter; benign twin:
    a session keyring of the container's own, in which its own keys are found.
    """
    script = """
        import ctypes
        call = ctypes.CDLL(None, use_errno=True).syscall
        call.restype = ctypes.c_long
        for ring in (-3, -4, -5, -1, -2):
            if call(250, 10, ring, b"user", b"canary", 0) > 0:
                print("found in", ring)
        if call(248, b"user", b"own", b"value", 5, -3) > 0 and call(250, 10, -3, b"user", b"own", 0) > 0:
            print("own")
        print(len(open("/proc/keys").read()))
    """
    words = mesocosm.words(
        "run", "--rm", "-q", *UNFILTERED, f"dir:{debian_root}", "python3", "-I", "-c", textwrap.dedent(script)
    )
    done = subprocess.run(
        [sys.executable, "-c", WITH_KEY, *words], capture_output=True, text=True, env=mesocosm.environment,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "own\n0\n", done.stderr
