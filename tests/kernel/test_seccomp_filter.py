"""The default filter in force: what the kernel answers, natively, through int 0x80 and with the x32 bit."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from fixtures import host
from fixtures.sandbox_defaults import CAPABILITIES, DENIED_CALLS
from mesocosm.isolators.linux.profiles import load_default
from mesocosm.linux import syscalls
from mesocosm.linux.seccomp import compile_profile
from mesocosm.linux.syscall_table import TABLES, X32_BIT


def filtered(body: Callable[[], Any]) -> Any:  # noqa: ANN401
    """What ``body`` returns (as JSON) in a child that has loaded the default filter."""
    program = compile_profile(load_default(), capabilities=CAPABILITIES).program
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            syscalls.set_no_new_privs()
            syscalls.seccomp_set_filter(program)
            os.write(writer, json.dumps(body()).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writer, json.dumps(repr(error)).encode())
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as answers:
        said = json.loads(answers.read() or b"null")
    _, status = os.waitpid(child, 0)
    assert status == 0, (status, said)
    return said


def attempt(number: int, *arguments: int) -> str:
    """The errno name of a raw call, or ``done``."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    ctypes.set_errno(0)
    result = call(*(ctypes.c_long(value) for value in (number, *arguments, *[0] * (6 - len(arguments)))))
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def through_int80() -> Callable[..., int]:
    """A function (number, first, second) that enters the kernel through the 32-bit gate."""
    # mov eax,edi; push rbx; mov ebx,esi; mov ecx,edx; xor edx,edx; xor esi,esi; xor edi,edi; int 0x80;
    # pop rbx; ret
    code = bytes.fromhex("89f85389f389d131d231f631ffcd805bc3")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    start = ctypes.c_char.from_buffer(page)  # as long as it lives, the page does
    gate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)

    def enter(number: int, first: int = 0, second: int = 0) -> int:
        return int(gate(ctypes.addressof(start))(number, first, second))

    return enter


@pytest.fixture
def x86_host() -> None:
    if platform.machine() != "x86_64":
        host.refuse("the 32-bit and x32 gates are those of x86-64")


def test_r22_k03_denied_list_natively() -> None:
    table = TABLES[platform.machine()]
    calls = [call for call in DENIED_CALLS if call in table]
    answers = filtered(lambda: {call: attempt(table[call]) for call in calls})
    assert answers == dict.fromkeys(calls, "EPERM")


def test_r22_filter_is_in_force_and_cannot_be_taken_off() -> None:
    def body() -> list[str]:
        with open("/proc/self/status") as file:
            return [line.split()[1] for line in file if line.startswith(("Seccomp:", "NoNewPrivs:"))]

    assert filtered(body) == ["1", "2"]


def test_r22_clone3_and_unknown_calls_are_enosys() -> None:
    numbers = (TABLES[platform.machine()]["clone3"], 480, 600)
    assert filtered(lambda: [attempt(number) for number in numbers]) == ["ENOSYS"] * 3


@pytest.mark.usefixtures("x86_host")
def test_r22_k03_denied_list_through_int80() -> None:
    table = TABLES["x86"]
    calls = [call for call in DENIED_CALLS if call in table]

    def body() -> dict[str, int]:
        enter = through_int80()
        return {call: enter(table[call]) for call in (*calls, "clone3", "getpid")} | {
            "alg": enter(table["socketcall"], 1),
            "shutdown": enter(table["socketcall"], 13),
            "newest": enter(480),
            "self": os.getpid(),
        }

    answers = filtered(body)
    assert {call: answers[call] for call in calls} == dict.fromkeys(calls, -errno.EPERM)
    assert answers["clone3"] == -errno.ENOSYS
    assert answers["newest"] == -errno.ENOSYS
    assert answers["alg"] == -errno.EPERM
    assert answers["shutdown"] == -errno.EFAULT  # reached the kernel, which found no arguments at 0
    assert answers["getpid"] == answers["self"]


@pytest.mark.usefixtures("x86_host")
def test_r22_k03_denied_list_with_the_x32_bit() -> None:
    table = TABLES["x32"]
    calls = [call for call in DENIED_CALLS if call in table]
    beyond = X32_BIT | 600
    answers = filtered(lambda: [*(attempt(table[call]) for call in calls), attempt(beyond)])
    assert answers == ["EPERM"] * len(calls) + ["ENOSYS"]


def test_k03_clone_makes_no_namespace() -> None:
    table = TABLES[platform.machine()]
    flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
    assert filtered(lambda: [attempt(table["clone"], flag | 17) for flag in flags]) == ["EPERM"] * 7


def test_k03_socket_families() -> None:
    number = TABLES[platform.machine()]["socket"]
    families = [38, 40, 38 | 1 << 32, 40 | 1 << 33]

    def body() -> list[str]:
        with socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET):
            return [attempt(number, family, socket.SOCK_SEQPACKET) for family in families]

    assert filtered(body) == ["EPERM"] * 4


def test_personality_keeps_address_randomisation() -> None:
    """0x40000 is ADDR_NO_RANDOMIZE, 0xffffffff asks."""
    number = TABLES[platform.machine()]["personality"]
    assert filtered(lambda: [attempt(number, 0x40000), attempt(number, 0xFFFFFFFF)]) == ["EPERM", "done"]


def test_r22_ordinary_programs_work() -> None:
    """Threads, subprocesses, sockets, files, a shell pipeline."""
    script = (
        "import threading, socket, tempfile, subprocess, os, select, mmap\n"
        "t = threading.Thread(target=print, args=('thread',), kwargs={'flush': True}); t.start(); t.join()\n"
        "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n"
        "s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname())\n"
        "e = select.epoll(); e.register(c, select.EPOLLOUT); assert e.poll(1)\n"
        "f = tempfile.TemporaryFile(); f.write(b'y'); f.flush(); os.fsync(f.fileno())\n"
        "mmap.mmap(f.fileno(), 1)\n"
        "print(subprocess.run(['ls', '/'], capture_output=True, check=True).stdout.decode().split()[0])\n"
    )

    def body() -> list[str]:
        python = subprocess.run(["python3", "-c", script], capture_output=True, text=True)
        shell = subprocess.run(["sh", "-c", "ls -l / | sort | wc -l; id -u"], capture_output=True, text=True)
        return [python.stderr, python.stdout.split()[0], shell.stderr, shell.stdout.split()[-1]]

    assert filtered(body) == ["", "thread", "", "0"]
