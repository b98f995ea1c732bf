"""The mount table as the kernel prints it, ``/proc/PID/mountinfo`` of proc(5)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class MountEntry:
    """One mount of a mount namespace.

    ``root`` is the directory of the filesystem that is mounted, ``mount_point`` is seen from the reading
    process' root, ``options`` are the mount's own, ``super_options`` the filesystem's.  ``propagation`` holds
    the optional fields, such as ``("shared:1", "master:2")``.
    """

    __slots__ = (
        "device",
        "filesystem",
        "mount_id",
        "mount_point",
        "options",
        "parent_id",
        "propagation",
        "root",
        "source",
        "super_options",
    )

    def __init__(self, line: str) -> None:
        head, dash, tail = line.partition(" - ")
        if not dash:
            raise ValueError(f"not a line of mountinfo: {line!r}")
        identity, parent, self.device, root, point, options, *fields = head.split(" ")
        self.filesystem, source, super_options = (tail.split(" ") + ["", ""])[:3]
        self.mount_id = int(identity)
        self.parent_id = int(parent)
        self.root = unescape(root)
        self.mount_point = unescape(point)
        self.options = tuple(options.split(","))
        self.propagation = tuple(field for field in fields if field)
        self.source = unescape(source)
        self.super_options = tuple(super_options.split(","))

    def __repr__(self) -> str:
        return f"MountEntry({self.mount_id}, {self.filesystem} on {self.mount_point!r})"


def parse_mountinfo(text: str) -> list[MountEntry]:
    """The entries in the kernel's order: a mount comes after the one it lies upon."""
    return [MountEntry(line) for line in text.split("\n") if line]


def read_mountinfo(pid: int | str = "self") -> list[MountEntry]:
    """The mount table of a process.  Names that are no UTF-8 come with surrogate escapes, as of
    ``os.fsdecode``.
    """
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return parse_mountinfo(file.read())


def mounts_below(entries: list[MountEntry], path: str) -> Iterator[MountEntry]:
    """The mounts at or below the absolute ``path``, the last mounted first, as they have to be taken off."""
    prefix = path.rstrip("/") + "/"
    for entry in reversed(entries):
        if entry.mount_point == path or entry.mount_point.startswith(prefix):
            yield entry


def unescape(text: str) -> str:
    """Undo the kernel's ``\\ooo`` for space, tab, newline, backslash and ``#``.

    Each escape stands for one byte, of which several may make one character.
    """
    head, *rest = text.split("\\")
    if not rest:
        return text
    raw = head.encode("utf-8", "surrogateescape")
    for piece in rest:
        digits = piece[:3]
        if len(digits) == 3 and all(digit in "01234567" for digit in digits) and digits[0] in "0123":
            raw += bytes([int(digits, 8)]) + piece[3:].encode("utf-8", "surrogateescape")
        else:
            raw += b"\\" + piece.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "surrogateescape")
