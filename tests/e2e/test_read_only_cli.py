"""``--read-only`` with every backend: the same words, the same root, nothing left on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from attacks.commandline import CommandLine
from provisions import image_of, pack
from registry_fixtures import write_layout
from tarballs import directory, file

BACKENDS = ("erofs", "overlay", "copy", "bind")

SCRIPT = """
for name in / /etc /bin /tmp; do touch $name/new 2>/dev/null && echo "$name took a file"; done
mount -o remount,rw / 2>/dev/null && touch /new && echo taken
cat /given/deep/file /etc/hostname
echo kept > /given/deep/file
awk '$5 == "/"' /proc/self/mountinfo
test -c /dev/null && test -d /proc/self && echo whole
"""


@pytest.fixture
def image(mesocosm: CommandLine, busybox_root: Path, tmp_path: Path) -> str:
    """An image that declares no volumes."""
    mesocosm("import", pack(busybox_root, tmp_path / "root.tar"), "example.org/root:1").accepted()
    return "example.org/root:1"


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_with_every_backend(backend: str, mesocosm: CommandLine, image: str, tmp_path: Path) -> None:
    """Stacked layers stay so even for who may mount: there is nowhere to write.  A copy could be made
    writable again by that.
    """
    given = tmp_path / "given"
    given.mkdir()
    (given / "file").write_text("given\n")
    target = "/given/deep" if backend != "bind" else "/root"
    script = SCRIPT.replace("/given/deep", target)
    words = ("--read-only", "--backend", backend, "--hostname", "box", "-v", f"{given}:{target}", image)
    able = () if backend == "copy" else ("--cap-add", "SYS_ADMIN")
    done = mesocosm("run", "-q", "-u", "0", "--name", "one", *able, *words, "sh", "-c", script)
    if backend == "bind":
        assert "read-only from the start: use another backend" in done.refused()
        return
    lines = done.accepted().splitlines()
    assert lines[:2] == ["given", "box"] and lines[-1] == "whole" and len(lines) == 4, done.out
    assert " ro" in lines[2]
    assert (given / "file").read_text() == "kept\n"
    [container] = (mesocosm.root / "containers").iterdir()
    if backend != "copy":
        assert "upperdir" not in lines[2]
    assert not (container / "root").exists()
    mesocosm("rm", "one").accepted()


def test_images_are_mounted_where_the_root_has_nothing(
    mesocosm: CommandLine, image: str, tmp_path: Path
) -> None:
    """A directory for an image, a file for a part of one that is a file; what an image lacks is named."""
    layout = write_layout(image_of([[directory(b"share"), file(b"share/one", b"one\n")]]), tmp_path / "data")
    mounts = (
        *("--mount", f"type=image,source=oci:{layout},target=/all/of/it"),
        *("--mount", f"type=image,source=oci:{layout},target=/dir,subpath=share"),
        *("--mount", f"type=image,source=oci:{layout},target=/new/file,subpath=share/one"),
        *("--mount", f"type=image,source=oci:{layout},target=/own/file,subpath=share/one,rw"),
    )
    script = "cat /all/of/it/share/one /dir/one /new/file /own/file;"
    script += "echo two > /own/file; cat /own/file; touch /new/x"
    words = ("run", "-q", "--rm", "-u", "0", "--read-only")
    done = mesocosm(*words, *mounts, image, "sh", "-c", script)
    assert done.out.split() == [*["one"] * 4, "two"] and "Read-only file system" in done.err
    gone = ("--mount", f"type=image,source=oci:{layout},target=/gone,subpath=no/such")
    mesocosm(*words, *gone, image, "sh", "-c", "true").refused(
        "show /no/such of image .* nothing at that subpath"
    )


def test_what_an_image_declares_as_volume_stays_writable(
    mesocosm: CommandLine, busybox_root: Path, tmp_path: Path
) -> None:
    """Such a root keeps a place for changes, which nothing else can reach."""
    packed = pack(busybox_root, tmp_path / "root.tar")
    mesocosm("import", "-c", 'VOLUME ["/state"]', packed, "example.org/root:1").accepted()
    script = "echo kept > /state/file && cat /state/file; touch /new || grep -c upperdir /proc/self/mountinfo"
    done = mesocosm("run", "--rm", "--read-only", "example.org/root:1", "sh", "-c", script)
    assert done.accepted().split() == ["kept", "2"]


def test_while_it_runs_there_is_nothing_on_the_disk(mesocosm: CommandLine, image: str) -> None:
    running = mesocosm(
        "run", "-d", "--read-only", "--backend", "overlay", image, "sh", "-c", "sleep 600"
    ).accepted()
    held = mesocosm.root / "containers" / running.strip()
    assert held.is_dir() and not (held / "root").exists()
    assert mesocosm("exec", "-u", "0", running.strip(), "touch", "/new").status == 1
    mesocosm("rm", "--force", running.strip()).accepted()


def test_a_directory_is_read_only_like_an_image(
    mesocosm: CommandLine, busybox_root: Path, tmp_path: Path
) -> None:
    """Also one that our own directories lie in: overlayfs takes no layer that lies in another."""
    for image in (busybox_root, mesocosm.root.parent):
        words = ("run", "--rm", "--read-only", "-v", f"{busybox_root}/bin:/tools", f"dir:{image}")
        done = mesocosm(*words, "/tools/busybox", "sh", "-c", "/tools/busybox touch /new; echo $?")
        assert done.accepted() == "1\n"
