"""What no command may leave behind on its roots, whatever it did."""

from __future__ import annotations

import os
from pathlib import Path

from attacks.commandline import CommandLine
from fixtures import leaks
from mesocosm.paths import Paths


def cgroups_of(mesocosm: CommandLine) -> list[str]:
    """The cgroups of containers on these roots, and what is above them."""
    parent = Paths(mesocosm.root, mesocosm.runtime).cgroup_parent
    return [path for path in leaks.cgroup_directories() if f"/{parent}/" in path]


def mounts_of(mesocosm: CommandLine) -> list[str]:
    """The mounts on or from these roots."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if f"{mesocosm.root.parent}/" in line]


def names_in(folder: Path) -> list[str]:
    """What is in a folder; nothing where there is none."""
    return sorted(os.listdir(folder)) if folder.exists() else []


def assert_nothing_left(mesocosm: CommandLine) -> None:
    """No record, name, directory, lease, half-written blob, cgroup or mount of a container is there."""
    images = mesocosm.root / "images"
    assert names_in(mesocosm.root / "containers") == []
    assert [name for name in names_in(mesocosm.root / "names") if name != ".lock"] == []
    assert names_in(mesocosm.runtime / "containers") == []
    assert [name for name in names_in(images / "ingest") if not name.endswith(".lock")] == []
    assert names_in(images / "leases") == []
    assert mounts_of(mesocosm) == []
    assert cgroups_of(mesocosm) == []
