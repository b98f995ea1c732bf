"""``--mount type=image`` and what images declare as ``VOLUME`` (PRV-6, GAP-24; R-05, R-41)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attacks.commandline import CommandLine, copy_root
from provisions import image_of, pack
from registry_fixtures import write_layout
from tarballs import directory, file, symlink

ROOT = "example.org/root:1"
DATA = "example.org/data:1"
TOOLS = "example.org/tools:1"


@pytest.fixture
def images(mesocosm: CommandLine, busybox_root: Path, tmp_path: Path) -> CommandLine:
    """The command, with a root image and two of files."""
    volumes = 'VOLUME ["/state", "/deep/in", "/state/below", "/etc/passwd", "/proc"]'
    root = copy_root(busybox_root, tmp_path / "root")
    (root / "state").mkdir(mode=0o750)
    (root / "state/first").write_text("the image's\n")
    packed = pack(root, tmp_path / "root.tar")
    mesocosm("import", "-c", volumes, packed, ROOT).accepted()
    layers = [
        [directory(b"share"), file(b"share/old", b"old\n"), file(b"top", b"top\n")],
        [
            file(b"share/.wh.old", b""),
            file(b"share/new", b"new\n"),
            symlink(b"inside", b"share"),
            symlink(b"absolute", b"/share"),
            symlink(b"out", b"../../../../../../etc"),
        ],
    ]
    for name, content in ((DATA, layers), (TOOLS, [[file(b"tool", b"#!/bin/sh\necho tool\n", mode=0o4755)]])):
        layout = tmp_path / name.replace("/", "-").replace(":", "-")
        write_layout(image_of(content), layout)
        mesocosm("pull", "-q", f"oci:{layout}").accepted()
        mesocosm("tag", f"oci:{layout}", name).accepted()
        mesocosm("rmi", f"oci:{layout}").accepted()
    return mesocosm


def mounted(target: str, source: str = DATA, *more: str) -> tuple[str, str]:
    return "--mount", ",".join(("type=image", f"source={source}", f"target={target}", *more))


def test_an_image_is_seen_and_not_changed(images: CommandLine) -> None:
    script = "ls /x/share; cat /x/top; echo no > /x/top; echo no > /x/more; /t/tool; id -u; ls -d /x/old"
    answer = images(
        "run",
        "--rm",
        *mounted("/x"),
        *mounted("/t", TOOLS),
        *mounted("/again", ROOT),
        ROOT,
        "sh",
        "-c",
        script,
    )
    assert answer.out.splitlines() == ["new", "top", "tool", "0"]
    assert answer.err.count("Read-only file system") == 2
    facts = images("run", "--rm", *mounted("/x"), ROOT, "grep", " /x ", "/proc/mounts").accepted()
    assert {"ro", "nosuid", "nodev"} <= set(facts.split()[3].split(","))


@pytest.mark.parametrize("backend", ["erofs", "overlay", "copy"])
def test_with_every_backend_changes_go_with_the_container(images: CommandLine, backend: str) -> None:
    script = "echo more >> /x/top && cat /x/top && rm /x/share/new && touch /x/share/own && ls /x/share"
    words = (
        "run",
        "--rm",
        "--backend",
        backend,
        *mounted("/x", DATA, "rw"),
        *mounted("/y"),
        ROOT,
        "sh",
        "-c",
    )
    for _ in range(2):
        assert images(*words, script + "; cat /y/top; ls /y/share").accepted().split() == [
            *("top", "more", "own", "top", "new")
        ]


@pytest.mark.parametrize("subpath", ["share", "inside", "absolute", "./share//", "top"])
def test_a_part_of_an_image(images: CommandLine, subpath: str) -> None:
    words = ("cat", "/x") if subpath == "top" else ("ls", "/x")
    answer = images("run", "--rm", *mounted("/x", DATA, f"subpath={subpath}"), ROOT, *words).accepted()
    assert answer.strip() == ("top" if subpath == "top" else "new")
    left = images(
        "run", "--rm", *mounted("/x", DATA, f"subpath={subpath}"), ROOT, "cat", "/proc/mounts"
    ).accepted()
    assert sum(line.split()[1] == "/" for line in left.splitlines()) == 1


def test_no_part_lies_outside_the_image(images: CommandLine) -> None:
    for subpath, why in (("out", "nothing at that subpath"), ("no/such", "nothing at that subpath")):
        images("run", "--rm", *mounted("/x", DATA, f"subpath={subpath}"), ROOT, "true").refused(why)
    for subpath in ("../etc", "/share", "share/../../etc"):
        images("run", "--rm", *mounted("/x", DATA, f"subpath={subpath}"), ROOT, "true").refused(
            "not a path within"
        )


def test_what_makes_no_sense_is_refused(images: CommandLine, tmp_path: Path) -> None:
    for mount, why in (
        ("type=image,target=/x", "no source"),
        (f"type=image,source={DATA},target=/x,readonly,rw", "contradict"),
        (f"type=image,source={DATA},target=/x,size=3", "size is not known"),
        (f"type=image,source={DATA},target=/proc/x", "the kernel's"),
        ("type=image,source=host,target=/x", "no image of layers"),
        (f"type=image,source=dir:{tmp_path},target=/x", "type=bind"),
        ("type=image,source=example.org/none:1,target=/x", "not on this host"),
    ):
        images("run", "--rm", "--pull", "never", "--mount", mount, ROOT, "true").refused(why)
    images("run", "--rm", *mounted("/x"), "--tmpfs", "/x/", ROOT, "true").refused(
        "two volumes are mounted on /x"
    )
    images("run", *mounted("/x"), "none", "true").refused("volume/image is not chosen")
    answer = images("run", "--quiet", "--backend", "bind", *mounted("/x", TOOLS, "rw"), ROOT, "true")
    answer.refused("only shows it")


def test_volumes_of_all_kinds_lie_in_each_other(images: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/own").write_text("")
    words = ("-v", f"{tmp_path}/host:/x/share", "--tmpfs", "/y", *mounted("/x", DATA, "rw"), *mounted("/y/z"))
    answer = images("run", "--rm", *words, ROOT, "sh", "-c", "ls /x/share /y /y/z/share").accepted()
    assert answer.split() == ["/x/share:", "own", "/y:", "z", "/y/z/share:", "new"]


def test_who_has_it_keeps_it(images: CommandLine) -> None:
    """PRV-6: every image of a container is leased, not only the last one."""
    held = images("run", "-d", *mounted("/x"), *mounted("/t", TOOLS), ROOT, "sleep", "600").accepted().strip()
    for name in (DATA, TOOLS, ROOT):
        images("rmi", name).refused(f"used by container {held}")
    pruned = images("image", "prune", "--all", "--force")
    assert pruned.accepted() == ""
    assert pruned.err.count(f"stays: container {held[:12]} has it") == 3
    for name in (DATA, TOOLS, ROOT):
        images("image", "inspect", name).accepted()
        assert (
            held[:12]
            in images(
                "image", "du", "--format", f"{{{{if eq .Name {json.dumps(name)}}}}}{{{{.HeldBy}}}}{{{{end}}}}"
            ).out
        )
    told = json.loads(images("inspect", "--plan", held).accepted())[0]
    assert told["volumes"]["/x"]["reference"] == f"docker://{DATA}"
    tools = json.loads(images("image", "inspect", TOOLS).accepted())[0]
    assert told["volumes"]["/t"]["digest"] in json.dumps(tools)
    assert images("exec", held, "cat", "/x/top").accepted() == "top\n"
    assert "held by " + held[:12] in images("image", "tree", DATA).accepted()
    images("rm", "-f", held).accepted()
    images("rmi", DATA).accepted()


def test_it_is_explained(images: CommandLine) -> None:
    text = images("explain", *mounted("/x", DATA, "subpath=share"), ROOT, "true").accepted()
    assert f"show /share of image {DATA} at /x (ro, nosuid, nodev)" in text
    assert f"image at /x: {DATA} (sha256:" in text
    assert "IMAGE MOUNTED AT /x" in text


def test_the_images_own_volumes(images: CommandLine) -> None:
    """docker's anonymous volumes: the image's content, writable where the root is not, gone afterwards."""
    script = "stat -c %a /state; cat /state/first; echo x > /state/second; ls /state; "
    script += "echo y > /deep/in/z; echo z > /deep/z"
    for _ in range(2):
        answer = images("run", "--rm", "--read-only", ROOT, "sh", "-c", script)
        assert answer.out.split() == ["750", "the", "image's", "first", "second"]
        assert "/deep/z: Read-only" in answer.err and "/deep/in/z" not in answer.err
    covered = images("run", "--rm", "--tmpfs", "/state", ROOT, "ls", "/state")
    assert covered.out == ""
    held = images("create", "--read-only", ROOT, "true").accepted().strip()
    warned = json.loads(images("inspect", held).accepted())[0]["warnings"]
    assert [words.split(" is left out")[0] for words in warned] == [
        *("the image's volume '/proc'", "the image's volume /etc/passwd")
    ]
