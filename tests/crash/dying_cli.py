"""The command line, over and over, with SIGKILL at one system call of it.  Run as a program.

python dying_cli.py ARGUMENTS…

Each line of standard input is a number N: the command is run, and killed at its N-th call that changes
something (0: at none).  Each line printed is JSON: what came of it (`Outcome`).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable

import msgspec

import mesocosm.frontends.cli
import mesocosm.images
from crash.dying_calls import Outcome
from crash.tracer import Kill, watch
from mesocosm.frontends.cli.main import main as command


def speaking(arguments: list[str], told: int) -> Callable[[], int]:
    """The command, with what it says going to the pipe ``told``, which holds all of it."""

    def work() -> int:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(told, 1)
        os.dup2(told, 2)
        status = command(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        return status

    return work


def import_all() -> None:
    """Have beforehand what commands import when they need it: each is a fork of this process."""
    for package in (mesocosm.frontends.cli, mesocosm.images):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    importlib.import_module("mesocosm.containerizer")


def main() -> None:
    """Run the command, once for each number."""
    import_all()
    for line in sys.stdin:
        number = int(line)
        heard, told = os.pipe()
        watched = watch(speaking(sys.argv[1:], told), at=number, act=Kill())
        os.close(told)
        words = os.read(heard, 1 << 16).decode()
        os.close(heard)
        outcome = Outcome(number=number, calls=tuple(watched.calls), status=watched.status, words=words)
        os.write(1, msgspec.json.encode(outcome) + b"\n")


if __name__ == "__main__":
    main()
