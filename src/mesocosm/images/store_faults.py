"""What the host's file system says of an image store, in words for who can do something about it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mesocosm.errors import Denied, Exhausted, Unavailable

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
DISK: Final = (*FULL, errno.EIO, errno.EROFS)
"""What a full disk, and one that fails, answer."""


@contextlib.contextmanager
def store_faults(root: Path) -> Iterator[None]:
    """Give the errno values that an operator can act on their meaning; others stay OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            hint = "free space there, or remove images with mesocosm rmi"
            raise Exhausted(f"no space left for images in {root}", hint=hint) from error
        if error.errno in DISK:
            hint = "check the disk and the kernel log"
            if error.errno == errno.EROFS:
                hint = "images there can be looked at; mount it writable for more"
            raise Unavailable(f"cannot write images in {root}: {error.strerror}", hint=hint) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            why = f"images in {root} are not accessible: {error.strerror}"
            raise Denied(why, hint="run as root") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether a full disk is what an error comes from, however often it was given other words."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__
    return isinstance(cause, OSError) and cause.errno in FULL
