"""The command line, ended by SIGKILL at one named point.  Run as a program.

python dying_command.py --list FILE  ARGUMENTS…   write the points passed to FILE, one a line
python dying_command.py --at POINT   ARGUMENTS…   die at POINT
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
    return lambda point: os.kill(os.getpid(), signal.SIGKILL) if point == word else None


if __name__ == "__main__":
    trace.observe(_observer(sys.argv[1], sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
