"""What ``doctor`` says of the kernel: it must not turn anybody away from one that containers run on."""

from __future__ import annotations

from mesocosm.doctor import kernel


def test_nothing_is_missing_where_containers_run() -> None:
    """Nor is anything less than it could be: what is examined here is required, and older than Linux 5.15."""
    found = list(kernel.examine())
    assert len({finding.name for finding in found}) == len(found) >= 12
    assert [(one.name, one.message) for one in found if one.status != "ok"] == []
