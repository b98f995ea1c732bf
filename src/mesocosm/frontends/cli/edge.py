"""The command line's edge: every way a command can end becomes an exit status, and a failure one line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Final

import click

from mesocosm.errors import InvalidConfig, MesocosmError
from mesocosm.frontends.cli.commands import COMPLETION, RUNNING, cli
from mesocosm.frontends.cli.saying import say
from mesocosm.frontends.cli.settings import OUTPUT, Interrupted, ReaderGone, Settings
from mesocosm.frontends.faults import FAILED, INTERRUPTED, READER_GONE, status_of


def run(arguments: list[str]) -> int:
    """Read and run a command line; answers the exit status."""
    settings = Settings()
    try:
        status = _invoke(arguments, settings)
        sys.stdout.flush()
    except BaseException as error:
        if settings.debug and isinstance(error, Exception):
            _trace(error)
        status = _answer(error, settings)
    _let_streams_go()
    return status


def _invoke(arguments: list[str], settings: Settings) -> int:
    if COMPLETION in os.environ:
        return _complete(os.environ[COMPLETION], settings)
    try:
        with cli.make_context("mesocosm", list(arguments), obj=settings) as context:
            status = cli.invoke(context)
            return status if isinstance(status, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code


_ASKED_BY: Final = {
    "bash_complete": ("COMP_LINE",),
    "zsh_complete": ("COMP_WORDS", "COMP_CWORD"),
    "fish_complete": ("COMP_WORDS", "COMP_CWORD"),
}
"""Variables in which a shell's script says what is being completed."""


def _complete(instruction: str, settings: Settings) -> int:
    """Answer a shell that completes, or print the script that makes it ask."""
    shell, _, what = instruction.partition("_")
    if f"{shell}_complete" not in _ASKED_BY or what not in ("source", "complete"):
        raise InvalidConfig(
            f"{COMPLETION}={instruction} is not known",
            hint="bash_source, zsh_source or fish_source prints what the shell has to read",
        )
    absent = [name for name in _ASKED_BY.get(instruction, ()) if name not in os.environ]
    if absent:
        raise InvalidConfig(
            f"{COMPLETION}={instruction} is for the shell's script, which sets {' and '.join(absent)}",
            hint=f"{COMPLETION}={shell}_source mesocosm prints it",
        )
    from click.shell_completion import shell_complete  # noqa: PLC0415

    from mesocosm.frontends.cli import bash_completion  # noqa: F401, PLC0415  (registers itself)

    return shell_complete(cli, {"obj": settings}, "mesocosm", COMPLETION, instruction)


def _answer(error: BaseException, settings: Settings) -> int:
    """The exit status for what was raised; what a person has to know of it is said."""
    running = settings.verb in RUNNING
    if isinstance(error, BaseExceptionGroup):
        known = error.subgroup(MesocosmError)
        error = next(_leaves(known)) if known is not None else error
    match error:
        case MesocosmError():
            say(str(error))
            return status_of(error, running=running)
        case click.ClickException():
            say(_usage(error))
            return FAILED if running else 2
        case Interrupted():
            return 128 + error.number
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
        case BrokenPipeError() | ReaderGone():
            return READER_GONE
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case OSError():
            name = error.filename or _stream_that_fails(error)
            where = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes) and name else ""
            hint = " (run as root)" if isinstance(error, PermissionError) and os.geteuid() else ""
            say(f"{where}{error.strerror or error}{hint}")
        case _:
            say(f"unexpected {type(error).__name__}: {error} (a fault of ours; --debug shows where)")
    return FAILED if running else 1


def _stream_that_fails(error: OSError) -> str:
    """Our standard output, where it is what cannot be written: what is left in its buffer fails again."""
    try:
        sys.stdout.flush()
    except OSError as again:
        return OUTPUT if again.errno == error.errno else ""
    return ""


def _usage(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f" ({context.command_path} --help shows what there is)" if context is not None else ""
    return text[:1].lower() + text[1:] + hint


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _trace(error: Exception) -> None:
    import traceback  # noqa: PLC0415

    with contextlib.suppress(OSError):
        traceback.print_exception(error)


def _let_streams_go() -> None:
    """What cannot be written any more is dropped, rather than complained of while the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
