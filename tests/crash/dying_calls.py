"""A life of an image store with a fault at one system call of it, over and over.  Run as a program.

python dying_calls.py FOLDER ONE TWO BACKEND FAULT           print the calls of an unharmed life below FOLDER
python dying_calls.py FOLDER ONE TWO BACKEND FAULT N M …     a life below FOLDER/N with the fault at call N, …

FAULT is ``kill``, or the name of an errno, with ``+`` behind it when later calls fail too.  Each line printed
is JSON: what a life came to (`Outcome`).
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import sys
import traceback
from pathlib import Path

import msgspec

from crash.dying_provisioner import live
from crash.tracer import Call, Fail, Kill, watch
from mesocosm.errors import MesocosmError

DONE, REFUSED, BROKEN = 0, 3, 4
"""Exit statuses of a life: it went well; it ended with an error of ours; with any other."""


OWN_FILES = ("/scratch/upper/changed", "/images.toml")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """``number`` of the call with the fault (0: none), all ``calls``, the wait ``status``, last ``words``."""

    number: int
    calls: tuple[Call, ...]
    status: int
    words: str

    @property
    def own(self) -> bool:
        """Whether what failed was a file that the life writes in the place of a container, or an operator."""
        met = self._call.file if self._call is not None else ""
        return any(met.endswith(one) or f"{one}'" in self.words for one in OWN_FILES)

    @property
    def _call(self) -> Call | None:
        return self.calls[self.number - 1] if 0 < self.number <= len(self.calls) else None

    @property
    def at(self) -> str:
        """The call with the fault, for people."""
        call = self._call
        return f"call {self.number} ({call.name} {call.file})" if call else f"call {self.number}"


def lived(folder: Path, one: str, two: str, backend: str, told: int) -> int:
    """One life below ``folder``; answers an exit status, and its last words to the pipe ``told``."""
    try:
        asyncio.run(live(folder, one, two, backend))
    except MesocosmError as error:
        os.write(told, f"{error.code}: {error}".encode())
        return REFUSED
    except BaseException:
        os.write(told, traceback.format_exc().encode()[-4000:])
        return BROKEN
    return DONE


def fault_of(word: str) -> Kill | Fail:
    if word == "kill":
        return Kill()
    return Fail(getattr(errno, word.rstrip("+")), on=word.endswith("+"))


def main() -> None:
    """Live, once for each number."""
    base, one, two, backend, word, *rest = sys.argv[1:]
    numbers = [int(text) for text in rest] or [0]
    for number in numbers:
        folder = Path(base) / str(number)
        for path in (folder, folder / "state", folder / "run"):
            path.mkdir(exist_ok=True)
        heard, told = os.pipe()
        life = functools.partial(lived, folder, one, two, backend, told)
        watched = watch(life, at=number, act=fault_of(word))
        os.close(told)
        words = os.read(heard, 4096).decode()
        os.close(heard)
        outcome = Outcome(number=number, calls=tuple(watched.calls), status=watched.status, words=words)
        os.write(1, msgspec.json.encode(outcome) + b"\n")


if __name__ == "__main__":
    main()
