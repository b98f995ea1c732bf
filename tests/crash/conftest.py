"""Fixtures of the crash tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.world import World


@pytest.fixture
def world(tmp_path: Path, busybox_root: Path) -> World:
    """Roots of this test's own, and a directory as an image."""
    return World(tmp_path, busybox_root)
