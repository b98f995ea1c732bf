"""linux/processes: identity by pid and start time."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.linux import processes
from mesocosm.linux.processes import (
    Identity,
    hold,
    identify,
    is_alive,
    parse_start_time,
    read_status,
    start_time,
)

TAIL = b"S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20 21"


@pytest.mark.parametrize(
    "name",
    [b"sh", b"", b"a) R 1 1 1", b") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 7 (", b"((((", b"))\n"],
)
def test_a_name_cannot_forge_the_start_time(name: bytes) -> None:
    assert parse_start_time(b"77 (" + name + b") " + TAIL) == 424242


@given(st.binary(max_size=15))
def test_no_name_of_any_bytes_can(name: bytes) -> None:
    assert parse_start_time(b"1 (" + name + b") " + TAIL) == 424242


@pytest.mark.parametrize("line", [b"", b"77 sh S 1", b"77 (sh) S 1 2", b"77 (sh) " + b"x " * 30])
def test_what_is_no_stat_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="stat"):
        parse_start_time(line)


def test_an_identity_is_a_value() -> None:
    one = identify(os.getpid())
    assert one == Identity(os.getpid(), one.start_time) == (one.pid, one.start_time)
    assert hash(one) == hash(Identity(one.pid, one.start_time))
    assert one != Identity(one.pid, one.start_time + 1)


def test_the_same_pid_with_another_start_time_is_a_stranger() -> None:
    """REC-6: a bare pid is not enough."""
    me = identify(os.getpid())
    assert is_alive(*me)
    assert not is_alive(me.pid, me.start_time - 1)
    assert hold(me.pid, me.start_time - 1) is None
    held = hold(*me)
    assert held is not None
    os.close(held)


def test_a_process_that_has_ended_is_not_alive_reaped_or_not() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(3)
    os.close(reader)
    it = identify(pid)
    held = hold(*it)
    assert held is not None
    assert is_alive(*it)
    os.close(writer)
    assert processes.has_ended(held, timeout=10)
    assert not is_alive(*it)
    assert processes.wait(held) == 3
    assert not is_alive(*it)
    assert not processes.send_signal(held, 0)
    os.close(held)
    with pytest.raises(ProcessLookupError):
        start_time(pid)


def test_a_process_whose_socket_has_just_closed_is_not_alive() -> None:
    """The end of a connection comes before the end of its process: whoever asks then gets the truth."""
    for _ in range(200):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        it = identify(pid)
        ours.send(b"x")
        assert ours.recv(1) == b""
        assert not is_alive(*it)
        os.waitpid(pid, 0)
        ours.close()


def test_status_fields_and_boot_id() -> None:
    status = read_status("self")
    assert status["Pid"] == str(os.getpid())
    assert len(status["CapBnd"]) == 16
    assert len(processes.boot_id()) == 36
    assert processes.boot_id() == processes.boot_id()


def test_children_and_command_line() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    assert pid in processes.children(os.getpid())
    assert pid in processes.all_pids()
    assert processes.command_line(pid) == processes.command_line("self") != []
    os.close(writer)
    os.close(reader)
    os.waitpid(pid, 0)
    assert processes.children(pid) == []
