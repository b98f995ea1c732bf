"""Users and groups as a root's /etc/passwd and /etc/group define them, passwd(5), group(5).

Both files belong to the image and are hostile: a FIFO, a device, a gigabyte, links, numbers that are none.
They are read by descriptor beneath the root and bounded, and no name service is asked (attacks R-18, R-20,
P-01).

An ID is a string of ASCII digits below 2^32 - 1, the value that the kernel takes for "no change".  A string
of digits is never a name, whatever the file says.
"""

from __future__ import annotations

import errno

from mesocosm.linux.beneath import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FILE_LIMIT = 1 << 20
LINE_LIMIT = 1 << 16
GROUP_LIMIT = 65536  # NGROUPS_MAX
MAX_ID = 0xFFFFFFFE


class Unknown(Exception):
    """A user or group that cannot be had; the text is a sentence for people."""


class Account:
    """Who the payload is."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def parse_id(text: str) -> int | None:
    """The number, or None for anything but one to ten ASCII digits that are a user or group ID."""
    if not (0 < len(text) <= 10 and text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def look_up(root_fd: int, user: str, groups: Sequence[str] = ()) -> Account:
    """The account that ``user`` (``name|uid[:group|gid]``) means in the root that ``root_fd`` holds.

    A uid that the file does not list has gid 0, no further groups and home ``/``.  Supplementary groups are
    those that list the user's name, unless a group is given; ``groups``, names or numbers, come on top.
    Raises Unknown, and OSError when a file is there that cannot be read.
    """
    name, colon, group = user.partition(":")
    if colon and not group:
        raise Unknown(f"{user!r} names no group after the colon")
    entry = _find_user(root_fd, name)
    members = _read(root_fd, "/etc/group")
    gid = _find_group(members, group) if colon else entry.gid
    extra = () if colon else _groups_of(members, entry.name)
    added = [_find_group(members, text) for text in groups]
    merged = tuple(dict.fromkeys((gid, *extra, *added)))
    if len(merged) > GROUP_LIMIT:
        raise Unknown(f"user {name} is in more than {GROUP_LIMIT} groups")
    return Account(entry.uid, gid, merged, entry.home)


class _Entry:
    __slots__ = ("gid", "home", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int, home: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home


def _find_user(root_fd: int, name: str) -> _Entry:
    if not name:
        raise Unknown("the user's name is empty")
    wanted = parse_id(name)
    if wanted is None and _looks_numeric(name):
        raise Unknown(f"{name!r} is not a user ID: those go from 0 to {MAX_ID}")
    for entry in _users(_read(root_fd, "/etc/passwd")):
        if (entry.uid == wanted) if wanted is not None else (entry.name == name):
            return entry
    if wanted is None:
        raise Unknown(f"/etc/passwd has no user {name}")
    return _Entry("", wanted, 0, "/")


def _looks_numeric(text: str) -> bool:
    """Digits with or without a sign, of any script: meant as a number, so never looked up as a name."""
    return text.strip().lstrip("+-").isdigit()


def _users(content: str) -> Iterator[_Entry]:
    for fields in _records(content, 7):
        uid, gid = parse_id(fields[2]), parse_id(fields[3])
        if fields[0] and uid is not None and gid is not None:
            yield _Entry(fields[0], uid, gid, fields[5] or "/")


def _find_group(content: str, group: str) -> int:
    number = parse_id(group)
    if number is not None:
        return number
    if _looks_numeric(group):
        raise Unknown(f"{group!r} is not a group ID: those go from 0 to {MAX_ID}")
    for fields in _records(content, 4):
        gid = parse_id(fields[2])
        if fields[0] == group and gid is not None:
            return gid
    raise Unknown(f"/etc/group has no group {group}")


def _groups_of(content: str, name: str) -> tuple[int, ...]:
    found = []
    for fields in _records(content, 4):
        gid = parse_id(fields[2])
        if name and gid is not None and name in fields[3].split(","):
            found.append(gid)
    return tuple(found)


def _records(content: str, count: int) -> Iterator[list[str]]:
    for line in content.split("\n"):
        if len(line) <= LINE_LIMIT:
            fields = line.split(":")
            if len(fields) == count:
                yield fields


def _read(root_fd: int, path: str) -> str:
    """The file's text; nothing when there is no such file."""
    try:
        raw = read_file(root_fd, path, FILE_LIMIT)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return ""
        raise
    return raw.decode("utf-8", "surrogateescape")
