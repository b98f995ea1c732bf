"""The one translation of errors into exit statuses (docker's numbers).

125  we failed: a bad request, no such image, this host cannot
126  the executable is there but cannot be executed
127  the executable is not there
130  interrupted
141  whoever read our output has gone (128 and SIGPIPE)
"""

from __future__ import annotations

from mesocosm.errors import LaunchError, MesocosmError

INTERRUPTED = 130
FAILED = 125
READER_GONE = 141


def status_of(error: MesocosmError, *, running: bool) -> int:
    """The exit status for an error; commands that run a payload keep 1 for the payload's own."""
    if isinstance(error, LaunchError):
        return error.status
    return FAILED if running else 1
