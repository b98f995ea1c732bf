"""What an App Container image says of its app, and further groups as they are asked for."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from attacks.commandline import CommandLine
from mesocosm import run

IDS = ("sh", "-c", "id -u; id -g; id -G; touch /tmp/mine; stat -c %g /tmp/mine")


@pytest.fixture
def root(busybox_root: Path, tmp_path: Path) -> Path:
    """A root where worker is 1000, in the groups 1001 and 63."""
    root = Path(shutil.copytree(busybox_root, tmp_path / "root", symlinks=True))
    (root / "etc/passwd").write_text("root:x:0:0::/:\nworker:x:1000:1001::/:\n")
    (root / "etc/group").write_text("audio:x:63:worker\nvideo:x:44:\n")
    return root


def sorted_groups(output: str) -> str:
    """What `IDS` printed, in one line: the kernel and ``id`` put groups in an order of their own."""
    user, group, groups, owner = output.splitlines()
    return f"{user} {group} {{{' '.join(sorted(groups.split(), key=int))}}} {owner}"


def aci(root: Path, path: Path, **app: object) -> Path:
    """An App Container image of a root."""
    document = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}
    manifest = json.dumps({**document, "app": {"exec": list(IDS), **app}}).encode()
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("manifest")
        member.size = len(manifest)
        tar.addfile(member, io.BytesIO(manifest))
        tar.add(root, "rootfs")
    return path


def test_groups_by_name_and_by_number_come_on_top(mesocosm: CommandLine, root: Path) -> None:
    added = ("--group-add", "video", "--group-add", "4000", "--group-add", "audio")
    cases = {
        (): "0 0 {0 44 63 4000} 0",
        ("-u", "worker"): "1000 1001 {44 63 1001 4000} 1001",
        ("-u", "77:88"): "77 88 {44 63 88 4000} 88",
    }
    for user, expected in cases.items():
        done = mesocosm("run", "--rm", *user, *added, f"dir:{root}", *IDS).accepted()
        assert sorted_groups(done) == expected, user
    for wrong, words in {"nobodies": "/etc/group has no group nobodies", "-3": "is not a group ID"}.items():
        mesocosm("run", "--rm", "--group-add", wrong, f"dir:{root}", *IDS).refused(words)


def test_a_further_process_has_them_too(mesocosm: CommandLine, root: Path) -> None:
    words = ("run", "-d", "-q", "-u", "worker", "--group-add", "video", f"dir:{root}", "sleep", "600")
    container = mesocosm(*words).accepted().strip()
    assert mesocosm("exec", container, "id", "-G").accepted() == "1001 44 63\n"
    assert mesocosm("exec", "-u", "0", container, "id", "-G").accepted() == "0 44\n"


def test_from_python(mesocosm: CommandLine, root: Path) -> None:
    done = run(
        f"dir:{root}",
        ["id", "-G"],
        user="5:6",
        groups=("audio", "7"),
        root=mesocosm.root,
        runtime=mesocosm.runtime,
    )
    assert done.stdout == b"6 7 63\n"


def test_those_of_an_app_container_image(mesocosm: CommandLine, root: Path, tmp_path: Path) -> None:
    """They belong to its user: with another one they are gone.  An image made of it has them as well."""
    app = {"user": "worker", "group": "1001", "supplementaryGIDs": [4000, 4001]}
    image = f"aci:{aci(root, tmp_path / 'app.aci', **app)}"
    assert sorted_groups(mesocosm("run", "--rm", image).accepted()) == "1000 1001 {1001 4000 4001} 1001"
    shown = json.loads(mesocosm("explain", "--format", "json", image).accepted())
    [step] = [one for one in shown["plan"]["steps"] if one["op"] == "look-up-user"]
    assert (step["user"], step["groups"]) == ("worker:1001", ["4000", "4001"])
    asked = mesocosm("run", "--rm", "-u", "7:8", "--group-add", "9", image).accepted()
    assert sorted_groups(asked) == "7 8 {8 9} 8"

    mesocosm("run", "-d", "-q", "--name", "one", "--entrypoint", "sleep", image, "600").accepted()
    mesocosm("commit", "one", "example.org/app:2").accepted()
    mesocosm("commit", "-c", "USER 0", "one", "example.org/app:3").accepted()
    mesocosm("rm", "-f", "one").accepted()
    assert (
        mesocosm("run", "--rm", "--entrypoint", "id", "example.org/app:2", "-G").accepted()
        == "1001 4000 4001\n"
    )
    assert mesocosm("run", "--rm", "--entrypoint", "id", "example.org/app:3", "-G").accepted() == "0\n"


def test_groups_that_are_none_are_refused(mesocosm: CommandLine, root: Path, tmp_path: Path) -> None:
    for number, groups in enumerate((["audio"], [-1], [1 << 32], 7)):
        image = aci(root, tmp_path / f"{number}.aci", user="0", group="0", supplementaryGIDs=groups)
        mesocosm("run", "--rm", f"aci:{image}").refused("supplementaryGIDs is not a list")


def test_a_mount_point_that_is_read_only(mesocosm: CommandLine, root: Path, tmp_path: Path) -> None:
    """What the image has there is seen and stays; what is mounted there, or below, is as asked for."""
    (root / "fixed/below").mkdir(parents=True)
    (root / "fixed/word").write_text("given\n")
    points = [
        {"name": "fixed", "path": "/fixed", "readOnly": True},
        {"name": "new", "path": "/new", "readOnly": True},
        {"name": "free", "path": "/free"},
    ]
    image = f"aci:{aci(root, tmp_path / 'app.aci', user='0', group='0', mountPoints=points)}"
    script = "cat /fixed/word; for d in /fixed /fixed/below /new /free /; do"
    script += " touch $d/x 2>/dev/null && echo $d; done"
    words = ("--entrypoint", "sh", image, "-c", f"{script}; true")
    assert mesocosm("run", "--rm", *words).accepted().split() == ["given", "/free", "/"]
    assert mesocosm("run", "--rm", "--read-only", *words).accepted().split() == ["given", "/free"]
    below = mesocosm("run", "--rm", "-v", f"{tmp_path}:/fixed/below", *words).accepted()
    assert below.split() == ["given", "/fixed/below", "/free", "/"]
    (tmp_path / "word").write_text("mine\n")
    upon = mesocosm("run", "--rm", "-v", f"{tmp_path}:/fixed", *words).accepted()
    assert upon.split() == ["mine", "/fixed", "/free", "/"]
