"""Users and groups from a hostile root (R-18, R-19, R-20)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.launch import accounts

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
1000:x:0:0:a digits-only name:/evil:/bin/sh
worker:x:1000:1001:Worker:/home/worker:/bin/sh
worker:x:0:0:a second one:/root:/bin/sh
wrap:x:4294967296:0::/:/bin/sh
minus:x:-1:-1::/:/bin/sh
nochange:x:4294967295:0::/:/bin/sh
plus:x:+0:+0::/:/bin/sh
arabic:x:٣:٣::/:/bin/sh
spaced:x: 0: 0::/:/bin/sh
under:x:1_0:1_0::/:/bin/sh
short:x:0
homeless:x:7:7:::/bin/sh
"""
GROUP = """\
root:x:0:
workers:x:1001:
audio:x:63:worker,other
wheel:x:10:root,worker
5:x:0:worker
broken:x:0
huge:x:4294967296:worker
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("root", 0, 0, (0, 10), "/root"),
        ("worker", 1000, 1001, (1001, 63, 10, 0), "/home/worker"),
        ("1000", 1000, 1001, (1001, 63, 10, 0), "/home/worker"),
        ("0", 0, 0, (0, 10), "/root"),
        ("4242", 4242, 0, (0,), "/"),
        ("4242:17", 4242, 17, (17,), "/"),
        ("worker:audio", 1000, 63, (63,), "/home/worker"),
        ("worker:5", 1000, 5, (5,), "/home/worker"),
        ("4294967294", 4294967294, 0, (0,), "/"),
        ("homeless", 7, 7, (7,), "/"),
    ],
)
def test_a_user_is_found(
    root: int, user: str, uid: int, gid: int, groups: tuple[int, ...], home: str
) -> None:
    """The first line counts, and digits are a number even when a line has them for a name (CVE-2016-3697)."""
    account = accounts.look_up(root, user)
    assert (account.uid, account.gid, account.groups, account.home) == (uid, gid, groups, home)


def test_further_groups_come_on_top(root: int) -> None:
    assert accounts.look_up(root, "worker:audio", ("7", "63")).groups == (63, 7)
    assert accounts.look_up(root, "4242", ("audio", "08")).groups == (0, 63, 8)
    for group, words in {"nobodies": "has no group nobodies", "-1": "not a group ID", "": "no group"}.items():
        with pytest.raises(accounts.Unknown, match=words):
            accounts.look_up(root, "4242", (group,))
    with pytest.raises(accounts.Unknown, match="more than"):
        accounts.look_up(root, "worker", tuple(map(str, range(70000))))


@pytest.mark.parametrize(
    "user",
    [
        "2147483648000", "4294967295", "4294967296", "-1", "+1", "1e3", "٣", " 1", "1 ", "0x10", "1:", "",
        ":", ":0", "1_0", "wrap", "minus", "nochange", "plus", "arabic", "spaced", "under", "short",
        "nobody", "root\n", "root:", "worker:nope", "worker:-1", "worker:4294967296", "worker:+0",
        "worker: 0", "worker:0:0", "worker:broken", "worker:huge", "root:x:0", "²",
    ],
)  # fmt: skip
def test_what_is_not_exactly_a_user_is_refused(root: int, user: str) -> None:
    """R-18: none of these is ever uid 0, or anything else."""
    with pytest.raises(accounts.Unknown):
        accounts.look_up(root, user)


def test_a_number_of_32_bits_is_fine(root: int) -> None:
    assert accounts.look_up(root, "2147483648").uid == 2147483648


@given(st.text(max_size=20))
def test_ids_are_ascii_digits_in_range(text: str) -> None:
    number = accounts.parse_id(text)
    grammar = 0 < len(text) <= 10 and all(character in "0123456789" for character in text)
    assert (number is not None) == (grammar and int(text) < (1 << 32) - 1)
    assert number is None or number == int(text)


@given(st.binary(max_size=400), st.binary(max_size=200), st.text(max_size=12))
def test_no_file_makes_it_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, passwd: bytes, group: bytes, user: str
) -> None:
    folder = tmp_path_factory.mktemp("root")
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_bytes(passwd)
    (folder / "etc/group").write_bytes(group)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        account = accounts.look_up(fd, user)
    except accounts.Unknown:
        return
    finally:
        os.close(fd)
    assert all(0 <= number < (1 << 32) - 1 for number in (account.uid, account.gid, *account.groups))


def test_without_files_numbers_still_work(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        assert accounts.look_up(fd, "12").uid == 12
        with pytest.raises(accounts.Unknown):
            accounts.look_up(fd, "root")
    finally:
        os.close(fd)


def test_odd_files_are_refused_at_once(tmp_path: Path) -> None:
    """R-20: a FIFO does not hang, a link does not lead out, a large file is not read."""
    (tmp_path / "etc").mkdir()
    passwd = tmp_path / "etc/passwd"
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        os.mkfifo(passwd)
        with pytest.raises(OSError, match="not a regular file"):
            accounts.look_up(fd, "0")
        passwd.unlink()
        passwd.symlink_to("/proc/self/root/etc/passwd")
        with pytest.raises(accounts.Unknown):  # in the root there is no /proc
            accounts.look_up(fd, "root")
        passwd.unlink()
        with passwd.open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(OSError, match="larger than"):
            accounts.look_up(fd, "0")
        passwd.unlink()
        (tmp_path / "users").write_text(PASSWD)
        passwd.symlink_to("/users")
        assert accounts.look_up(fd, "worker").uid == 1000
    finally:
        os.close(fd)
