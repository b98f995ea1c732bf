"""Whether this process' mounts have changed, asked at the price of one system call."""

from __future__ import annotations

import os
import select
import weakref


class MountWatch:
    """Changes of the mount table, whoever made them: by polling ``/proc/self/mountinfo``, which becomes ready
    with each one (proc_pid_mountinfo(5)).
    """

    def __init__(self) -> None:
        self._poll: select.poll | None = None
        self._close: weakref.finalize[..., MountWatch] | None = None

    def close(self) -> None:
        """Give the descriptor back; asked again, it looks anew."""
        if self._close is not None:
            self._close()
        self._poll = None

    def changed(self) -> bool:
        """Whether anything was mounted or unmounted since this was asked last; True the first time.

        What is seen after the answer stays true until the answer is True again.
        """
        if self._poll is None:
            self._poll = self._opened()
            return True
        return bool(self._poll.poll(0))

    def _opened(self) -> select.poll:
        table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, table)
        poll = select.poll()
        poll.register(table, select.POLLPRI)
        return poll
