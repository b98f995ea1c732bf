"""Who holds an image, as commands tell it that only look."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from attacks.commandline import CommandLine
from provisions import pack


def holders(mesocosm: CommandLine) -> list[str]:
    """Whom each command names, the first holder only; nothing where it names none."""
    listed = json.loads(mesocosm("images", "--format", "json").accepted())
    told = json.loads(mesocosm("image", "inspect", "example.org/root:1").accepted())
    words = mesocosm("image", "tree").accepted().splitlines()[0].partition("held by ")[2]
    used = mesocosm("image", "du", "--format", "{{.HeldBy}}").accepted().strip()
    return [*listed[0]["in_use"], *told[0]["Containers"], *([words] if words else []), used]


def test_a_container_that_has_ended_holds_nothing_before_anybody_cleans_up(
    mesocosm: CommandLine, busybox_root: Path, tmp_path: Path
) -> None:
    mesocosm("import", pack(busybox_root, tmp_path / "root.tar"), "example.org/root:1").accepted()
    mesocosm("tag", "example.org/root:1", "example.org/other:1").accepted()
    mesocosm("rmi", "example.org/other:1").accepted()
    shared = tmp_path / "shared"
    shared.mkdir()
    os.mkfifo(shared / "go")
    words = ("-v", f"{shared}:/shared", "example.org/root:1", "cat", "/shared/go")
    container = mesocosm("run", "-d", "-q", "--rm", *words).accepted().strip()
    assert holders(mesocosm) == [container, container, container[:12], container[:12]]

    (shared / "go").write_text("")
    supervisor = mesocosm.runtime / "containers" / container / "supervisor"
    with (supervisor / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # until it has ended
    assert holders(mesocosm) == ["-"]
    lease = mesocosm.root / "images/leases" / f"container-{container}"
    assert lease.exists() and (supervisor / "exit.json").exists()  # looking has changed nothing
    mesocosm("rmi", "example.org/root:1").accepted()
    assert not lease.exists()
