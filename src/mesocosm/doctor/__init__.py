"""What this host can do, tried for real: ``mesocosm doctor``.

Every finding is a value with what to do about it.  Nothing that was tried is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesocosm.doctor import control_groups, kernel, privileges, software, storage
from mesocosm.doctor.finding import Finding, Status
from mesocosm.paths import Paths

SECTIONS = {
    "privileges": "what this process may do",
    "kernel": "what the kernel has",
    "cgroups": "limits and accounting",
    "storage": "images and root file systems",
    "software": "what was installed with us",
}


def examine(paths: Paths) -> Iterator[tuple[str, Finding]]:
    """Look at everything; yields the section's name and the finding, as they are found.

    Must be called from a process with one thread: some features are tried in a child made by fork.
    """
    parts = {
        "privileges": privileges.examine(),
        "kernel": kernel.examine(),
        "cgroups": control_groups.examine(),
        "storage": storage.examine(paths),
        "software": software.examine(),
    }
    for section, findings in parts.items():
        for finding in findings:
            yield section, finding


__all__ = ["SECTIONS", "Finding", "Status", "examine"]
