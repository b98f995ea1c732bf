"""``--root-changes``: what one container leaves, the next finds, whoever was killed in between."""

from __future__ import annotations

import json
from pathlib import Path

from attacks.commandline import CommandLine
from fixtures.images import Layout


def test_changes_survive_the_container(
    mesocosm: CommandLine, debian_image_oci: Layout, tmp_path: Path
) -> None:
    layout, image = f"oci:{debian_image_oci.path}:{debian_image_oci.tag}", "example.org/debian:1"
    mesocosm("pull", "-q", layout).accepted()
    mesocosm("tag", layout, image).accepted()
    kept = tmp_path / "kept"
    keep = ("--root-changes", kept)
    mesocosm("run", "--rm", *keep, image, "sh", "-c", "echo left > /note; rm /etc/issue").accepted()
    assert (kept / "upper/note").read_text() == "left\n"
    assert f"root changes: kept in {kept}" in mesocosm("explain", *keep, image, "true").accepted()
    held = mesocosm("run", "-d", *keep, image, "sh", "-c", "echo more >> /note; exec sleep 600").accepted()
    mesocosm("run", "--rm", *keep, image, "true").refused(f"belong to container {held.strip()}")
    shown = json.loads(mesocosm("inspect", held.strip()).accepted())
    assert str(kept) in json.dumps(shown)
    mesocosm("rm", "--force", held.strip()).accepted()
    again = mesocosm("run", "--rm", *keep, image, "sh", "-c", "cat /note; ls /etc/issue || true")
    assert again.accepted().splitlines()[0] == "left"
    assert "/etc/issue" not in again.out
    mesocosm("run", "--rm", "--read-only", *keep, image, "true").refused("no changes to keep")
    mesocosm("run", "--rm", "--root-changes", f"{kept},move", image, "true").refused("PATH,rebase")
