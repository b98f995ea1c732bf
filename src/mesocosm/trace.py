"""Named points between the steps of everything that can be interrupted.

In production a point does nothing.  A test installs an observer that ends the process there, or lets another
one run, and so visits every crash and every race on purpose.
"""

from __future__ import annotations

from collections.abc import Callable

_observer: Callable[[str], object] | None = None


def point(name: str) -> None:
    """Pass the point ``name``, as in ``containerizer.forked``."""
    if _observer is not None:
        _observer(name)


def observe(observer: Callable[[str], object] | None) -> None:
    """Call ``observer`` with the name of every point passed from now on; None ends it."""
    global _observer  # noqa: PLW0603
    _observer = observer
