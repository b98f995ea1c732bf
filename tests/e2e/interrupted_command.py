"""The command line, sent a signal by itself at one named point.  Run as a program.

python interrupted_command.py --list FILE    ARGUMENTS…   write the points passed to FILE, one a line
python interrupted_command.py SIGNAL POINT   ARGUMENTS…   send it when POINT is passed for the first time
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from mesocosm import trace
from mesocosm.frontends.cli.main import main


def _observer(mode: str, word: str) -> Callable[[str], object]:
    if mode == "--list":
        out = os.open(word, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return lambda point: os.write(out, f"{point}\n".encode())
    passed: list[str] = []

    def send(point: str) -> None:
        if point == word and not passed:
            passed.append(point)
            os.kill(os.getpid(), getattr(signal, mode))

    return send


if __name__ == "__main__":
    trace.observe(_observer(sys.argv[1], sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
