"""Where an archive goes: a file, or a pipe on standard output."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli.settings import OUTPUT

STANDARD: Final = "-"


def refuse_terminal(output: str | None) -> None:
    """Raise InvalidConfig where an archive would be written to a terminal."""
    if output in (None, STANDARD) and sys.stdout.isatty():
        raise InvalidConfig("an archive is nothing for a terminal", hint="give -o FILE, or a pipe")


@contextlib.contextmanager
def written(output: str | None) -> Iterator[int]:
    """A descriptor to write to.  A regular file appears under its name when it is whole."""
    if output in (None, STANDARD):
        try:
            yield 1
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or OUTPUT) from None
        return
    path = Path(str(output))
    if path.is_dir():
        raise InvalidConfig(f"no archive can be written to {output!r}: that is a directory")
    if not path.parent.is_dir():
        raise InvalidConfig(f"no archive can be written to {output!r}: there is no directory {path.parent}")
    if path.exists() and not path.is_file():
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            yield fd
            os.fsync(fd)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(fd)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, output) from None
