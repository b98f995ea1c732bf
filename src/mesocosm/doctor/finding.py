"""What an examination finds: values, for people and for programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import msgspec

from mesocosm.errors import MesocosmError

Status = Literal["ok", "warning", "missing"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    ``status``: ``ok``; ``warning``, something works less well or not at all, and nobody needs it for an
    ordinary container; ``missing``, containers cannot be run without it.  ``message`` what is there or not,
    and what that means; ``fix`` what to do, empty when there is nothing to do.
    """

    name: str
    status: Status
    message: str
    fix: str = ""


def ok(name: str, message: str) -> Finding:
    """It is there."""
    return Finding(name=name, status="ok", message=message)


def warning(name: str, message: str, fix: str) -> Finding:
    """It is not there, or not good, and that can be lived with."""
    return Finding(name=name, status="warning", message=message, fix=fix)


def missing(name: str, message: str, fix: str) -> Finding:
    """It is not there, and nothing runs without it."""
    return Finding(name=name, status="missing", message=message, fix=fix)


def tried(
    name: str, act: Callable[[], object], *, good: str, without: str, fix: str, required: bool = True
) -> Finding:
    """Do ``act``: the finding is ``good``, or what goes ``without`` it and the kernel's reason."""
    worse = missing if required else warning
    try:
        act()
    except MesocosmError as error:
        return worse(name, f"{without}: {error.message}", error.hint or fix)
    except OSError as error:
        reason = error.strerror or str(error)
        return worse(name, f"{without}: {reason[:1].lower()}{reason[1:]}", fix)
    return ok(name, good)


def in_child(act: Callable[[], object]) -> None:
    """Do ``act`` in a process that ends with it, for what could not be undone.  Raises its OSError."""
    pid = os.fork()
    if not pid:
        code = 255
        try:
            act()
            code = 0
        except OSError as error:
            code = min(error.errno or 255, 255)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code) if 0 < code < 255 else f"the trial ended with {code}")
