"""linux/mountinfo: the kernel's table, with names that were chosen to be misread."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.linux.mountinfo import MountEntry, mounts_below, parse_mountinfo, read_mountinfo, unescape

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue"


def test_every_field_of_the_example_in_the_man_page() -> None:
    entry = MountEntry(LINE)
    assert (entry.mount_id, entry.parent_id, entry.device) == (36, 35, "98:0")
    assert (entry.root, entry.mount_point) == ("/mnt1", "/mnt2")
    assert entry.options == ("rw", "noatime")
    assert entry.propagation == ("master:1", "shared:7")
    assert (entry.filesystem, entry.source) == ("ext3", "/dev/root")
    assert entry.super_options == ("rw", "errors=continue")


def test_no_optional_fields_and_an_empty_source() -> None:
    entry = MountEntry("1 0 0:1 / / rw - tmpfs  rw")
    assert entry.propagation == ()
    assert (entry.filesystem, entry.source, entry.super_options) == ("tmpfs", "", ("rw",))


def test_a_mount_point_that_looks_like_the_separator() -> None:
    """A directory called `` - `` comes with its spaces escaped, so that the first dash is the kernel's
    own.
    """
    (entry,) = parse_mountinfo("5 1 0:9 / /a\\040-\\040b rw - proc proc rw\n")
    assert entry.mount_point == "/a - b"
    assert entry.filesystem == "proc"


def test_escapes_of_bytes_that_make_one_character() -> None:
    assert unescape("/\\303\\244\\011\\134x") == "/ä\t\\x"
    assert os.fsencode(unescape("/\\377")) == b"/\xff"


def test_what_is_no_escape_stays() -> None:
    assert unescape("a\\9b\\") == "a\\9b\\"


@given(st.binary(min_size=1, max_size=40))
def test_unescape_undoes_what_the_kernel_does(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    assert unescape(escaped.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape") == name


def test_a_broken_line_is_refused() -> None:
    with pytest.raises(ValueError, match="mountinfo"):
        parse_mountinfo("36 35 98:0 /mnt1 /mnt2 rw\n")


def test_below_takes_whole_names_last_mounted_first() -> None:
    table = parse_mountinfo(
        "".join(
            f"{i} 1 0:9 / {p} rw - tmpfs t rw\n"
            for i, p in enumerate(["/a", "/ab", "/a/b", "/a/b/c", "/a/b"])
        )
    )
    assert [entry.mount_id for entry in mounts_below(table, "/a/b")] == [4, 3, 2]
    assert [entry.mount_id for entry in mounts_below(table, "/")] == [4, 3, 2, 1, 0]


def test_this_machines_own_table() -> None:
    assert any(entry.mount_point == "/proc" and entry.filesystem == "proc" for entry in read_mountinfo())
