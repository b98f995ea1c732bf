"""What the next child will most likely need, learned from the last one: memory it writes to, mounts it makes.

Most containers of a host are launched alike.  A spare child has nothing to do but wait, so it copies the
pages that its predecessor wrote to and makes the file systems that it mounted, detached and seen by nobody.
A guess that fails costs nothing but the making: what is not asked for is closed.
"""

from __future__ import annotations

import ctypes
import os

from mesocosm.launch import channel, descriptors, documents, filesystems, handshake
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mesocosm.launch.channel import Socket

    Step = dict[str, Any]
    Range = tuple[int, int]
    Key = tuple[str, tuple[str, ...], tuple[str, ...]]

MOST_MOUNTS = 12

_NEEDS = {"proc": "pid", "sysfs": "net", "mqueue": "ipc", "tmpfs": None, "devpts": None}
"""File systems that can be made ahead, and the kind of namespace whose view they are."""

_PAGE = os.sysconf("SC_PAGESIZE")
_EXCLUSIVE = 1 << 56 | 1 << 63  # pagemap: present and mapped by this process alone
_GAP = 4
_MADV_POPULATE_WRITE = 23  # Linux 5.14

_madvise = ctypes.PyDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Foresight:
    """Ranges of memory as ``(address, length)``, and mounts as ``(type, options, flags)``."""

    __slots__ = ("memory", "mounts")

    def __init__(self, memory: list[Range], mounts: list[Key]) -> None:
        self.memory = memory
        self.mounts = mounts

    @classmethod
    def from_lesson(cls, lesson: bytes) -> Foresight:
        """What `Lesson.teach` sent."""
        told = documents.loads(lesson)
        memory = [(start, length) for start, length in told["memory"]]
        return cls(memory, [(kind, tuple(options), tuple(flags)) for kind, options, flags in told["mounts"]])

    @classmethod
    def read(cls, file: int) -> Foresight:
        """The last lesson, nothing before the first; one that is just being written counts as none."""
        try:
            return cls.from_lesson(os.pread(file, handshake.LIMIT, 0))
        except (ValueError, KeyError, TypeError):
            return cls([], [])

    def populate(self) -> None:
        """Copy now what is still shared of the memory.  Where the kernel cannot, it is copied as usual."""
        for address, length in self.memory:
            _madvise(address, length, _MADV_POPULATE_WRITE)

    def make_mounts(self) -> dict[Key, list[int]]:
        """Descriptors of the mounts, detached.  What cannot be made is left to the one who asks."""
        made: dict[Key, list[int]] = {}
        for key in self.mounts:
            try:
                fd = descriptors.to_child_range(filesystems.detached(*key))
            except OSError:
                continue
            made.setdefault(key, []).append(fd)
        return made


def key_of(step: Step) -> Key:
    """What decides whether a mount that was made ahead is the one that a step wants."""
    return step["fstype"], tuple(step["options"]), tuple(step["flags"])


def serves(step: Step, kinds: list[str]) -> bool:
    """Whether a mount for this step can be made ahead by a child with these namespaces of its own."""
    need = _NEEDS.get(step["fstype"], "none")
    return need is None or need in kinds


def wanted_mounts(steps: list[Step], kinds: list[str]) -> list[Key]:
    """The mounts of a plan that could have been made ahead."""
    found = [key_of(step) for step in steps if step["op"] == "mount" and serves(step, kinds)]
    return found[:MOST_MOUNTS]


class Lesson:
    """What a child needs to teach: ``lessons`` is the way to the zygote, ``memory`` what all could write to.

    ``known`` is the memory that was foreseen, if any was; ``wanted`` are the plan's mounts.
    """

    __slots__ = ("_known", "_lessons", "_memory", "_pagemap", "_wanted")

    def __init__(self, lessons: Socket, memory: list[Range], known: list[Range], wanted: list[Key]) -> None:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._pagemap = descriptors.to_child_range(pagemap)
        self._lessons = lessons
        self._memory = memory
        self._known = known
        self._wanted = wanted

    def keep(self, first: int) -> None:
        """Close all descriptors from ``first`` on but the two that teaching takes."""
        self._lessons = channel.move(self._lessons, first)
        os.dup2(self._pagemap, first + 1, inheritable=False)
        self._pagemap = first + 1
        syscalls.close_range(first + 2)

    def teach(self) -> None:
        """Tell the zygote; nothing happens when nobody listens."""
        memory = self._known or written(self._pagemap, self._memory)
        lesson = documents.dumps({"memory": memory, "mounts": self._wanted})
        if len(lesson) <= handshake.LIMIT:
            try:
                channel.send(self._lessons, lesson)
            except OSError:
                return


def private_ranges() -> list[Range]:
    """Each private writable mapping of this process, proc_pid_maps(5)."""
    found = []
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            addresses, access, *rest = line.split()
            if access == b"rw-p" and not (len(rest) > 3 and rest[3].startswith(b"[")):
                first, _, end = addresses.partition(b"-")
                found.append((int(first, 16), int(end, 16) - int(first, 16)))
    return found


def written(pagemap: int, ranges: list[Range]) -> list[Range]:
    """The parts of ``ranges`` whose pages are this process' own by now, proc_pid_pagemap(5)."""
    found: list[Range] = []
    for start, length in ranges:
        words = memoryview(os.pread(pagemap, length // _PAGE * 8, start // _PAGE * 8)).cast("Q")
        run = -1
        last = -1
        for index, word in enumerate(words):
            if word & _EXCLUSIVE == _EXCLUSIVE:
                if run < 0:
                    run = index
                last = index
            elif run >= 0 and index - last > _GAP:
                found.append((start + run * _PAGE, (last + 1 - run) * _PAGE))
                run = -1
        if run >= 0:
            found.append((start + run * _PAGE, (last + 1 - run) * _PAGE))
    return found
