"""The command ``mesocosm``: make this process' surroundings safe, then read the command line.

The installed command (scripts/mesocosm) comes here in an isolated interpreter, ``python -m`` does not.  Until
that is seen to, nothing is imported but ``os`` and ``sys``, which every interpreter has before us.
"""

from __future__ import annotations

import os
import sys

from mesocosm.version import VERSION

HARMLESS = frozenset(
    (
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONFAULTHANDLER",
        "PYTHONIOENCODING",
        "PYTHONUNBUFFERED",
        "PYTHONUTF8",
    )
)
"""Variables that change neither what is imported nor what is run; every other one makes us start afresh."""

COLLECT_AFTER = 50_000
"""New containers of objects after which cycles among them are looked for."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; answers the exit status.  Without ``arguments`` it is this process' own."""
    if arguments is None:
        _seclude()
        arguments = sys.argv[1:]
    if arguments == ["--version"] and _said(f"mesocosm {VERSION}\n"):
        return 0
    import gc  # noqa: PLC0415
    import signal  # noqa: PLC0415

    # What a command imports stays to its end: by default the collector goes through it some fifty times.
    gc.set_threshold(COLLECT_AFTER)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until a command has begun something, Ctrl-C ends it as it would any program.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o077)
    _occupy_standard_streams()
    from mesocosm.frontends.cli.edge import run  # noqa: PLC0415

    return run(arguments)


def _seclude() -> None:
    """Let neither the caller's PYTHON* variables nor a directory steer the interpreter (attack P-02).

    They stay in the environment, which ``-e NAME`` may hand to a payload; an isolated interpreter ignores
    them.
    """
    steering = [name for name in os.environ if name.startswith("PYTHON") and name not in HARMLESS]
    if sys.flags.isolated:
        return
    if steering:
        os.execv(sys.executable, [sys.executable, "-I", "-m", __spec__.name, *sys.argv[1:]])  # noqa: S606
    if not sys.flags.safe_path:
        del sys.path[0]  # the script's or the caller's directory


def _said(text: str) -> bool:
    """Whether this could be written, with nothing imported for it; what is in the way is for the edge."""
    words = text.encode()
    try:
        return os.write(1, words) == len(words)
    except OSError:
        return False


def _occupy_standard_streams() -> None:
    """Where a standard stream is closed, the null device takes its number before a file of ours does."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    sys.exit(main())
