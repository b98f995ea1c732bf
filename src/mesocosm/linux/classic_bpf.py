"""Classic BPF, written backwards.

Every jump of a classic BPF program goes forward, and a conditional jump reaches at most 255 instructions
(``struct sock_filter`` in linux/filter.h: ``u16 code, u8 jt, u8 jf, u32 k``).  An assembler that starts with
the last instruction therefore knows every target when it meets the jump, and can put a far jump or a second
copy of a return right behind a branch that would not reach.
"""

from __future__ import annotations

import struct
from typing import Final

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS

LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP: Final = 0x05  # BPF_JMP | BPF_JA
JUMP_EQ: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GT: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K, unsigned
JUMP_GE: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K, unsigned
RETURN: Final = 0x06  # BPF_RET | BPF_K

_REACH: Final = 250  # 255, less what the two far jumps of one branch may add between


class Assembler:
    """Emits instructions from last to first.  A label is what an emitting call returned."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._code)

    def ret(self, value: int) -> int:
        """The label of a return of ``value``: one in reach if there is one, else a new one."""
        label = self._returns.get(value)
        if label is None or self._distance(label) > _REACH:
            label = self._returns[value] = self._emit(RETURN, 0, 0, value)
        return label

    def load(self, offset: int, then: int) -> int:
        """Load the 32-bit word at ``offset`` of the data, then go on at ``then``."""
        self._fall_through(then)
        return self._emit(LOAD_WORD, 0, 0, offset)

    def mask(self, bits: int, then: int) -> int:
        """Keep only ``bits`` of the loaded word, then go on at ``then``."""
        self._fall_through(then)
        return self._emit(AND, 0, 0, bits)

    def branch(self, operation: int, value: int, true: int, false: int) -> int:
        """Compare the loaded word with ``value`` and go on at ``true`` or ``false``."""
        true, false = self._near(true), self._near(false)
        return self._emit(operation, self._distance(true), self._distance(false), value)

    def program(self) -> bytes:
        """The program in execution order: an array of ``struct sock_filter``, native byte order."""
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in reversed(self._code))

    def _emit(self, code: int, true: int, false: int, value: int) -> int:
        self._code.append((code, true, false, value))
        return len(self._code) - 1

    def _distance(self, label: int) -> int:
        return len(self._code) - label - 1

    def _near(self, label: int) -> int:
        if self._distance(label) <= _REACH:
            return label
        code, _, _, value = self._code[label]
        return self.ret(value) if code == RETURN else self._emit(JUMP, 0, 0, self._distance(label))

    def _fall_through(self, label: int) -> None:
        if self._distance(label) != 0:
            self._emit(JUMP, 0, 0, self._distance(label))
