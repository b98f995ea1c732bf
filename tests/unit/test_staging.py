"""Records are written where others sweep at any time: whole, or what was there."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from mesocosm.images.blobs import BlobStore
from mesocosm.images.staging import replace


def test_a_record_outlives_a_sweep_that_sees_it_without_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on one store: a file is there before its lock is, and nobody's for that moment."""
    store, target = BlobStore.open(tmp_path), tmp_path / "record"
    flock, left = fcntl.flock, [tmp_path / "ingest"]

    def swept_first(fd: int, operation: int) -> None:
        if left:
            seen = list(left.pop().iterdir())
            assert len(seen) == 1
            store.sweep()
            assert not seen[0].exists()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", swept_first)
    replace(tmp_path / "ingest", target, b"whole")
    assert left == [] and target.read_bytes() == b"whole"
    assert list((tmp_path / "ingest").iterdir()) == []
