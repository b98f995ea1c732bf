"""What the tests of the launch path work with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fixtures.launching import Desk, desk_in


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A launcher, and a folder for what it launches."""
    async with desk_in(tmp_path) as made:
        yield made


@pytest.fixture
def root(busybox_root: Path) -> Path:
    """What is launched runs in this."""
    return busybox_root
