"""A real Debian image, from a real registry and in every other form that images travel in.

Whatever the form and whatever the backend: the container's root is, file for file, what umoci unpacks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.commandline import CommandLine, copy_root
from fixtures.command import run
from fixtures.host import tool
from fixtures.images import Layout
from fixtures.roots import PAYLOAD
from provisions import image_of
from registry_fixtures import write_layout
from tarballs import Member, directory, file
from trees import Seen, differences, snapshot

OURS = frozenset({b"proc", b"sys", b"dev"})
"""Where the container's own file systems are mounted."""

GENERATED = frozenset({b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"})
"""Files that every container gets its own of."""

FORMS = ["registry", "layout", "tar", "archive"]


@pytest.fixture(scope="module")
def reference_of(
    tmp_path_factory: pytest.TempPathFactory,
    pushed_image: str,
    debian_image_oci: Layout,
    docker_archive: Path,
) -> dict[str, str]:
    """How each form of the image is named."""
    tar = tmp_path_factory.mktemp("tar") / "image.tar"
    run("skopeo", "copy", debian_image_oci.skopeo, f"oci-archive:{tar}:latest")
    return {
        "registry": pushed_image,
        "layout": f"oci:{debian_image_oci.path}:{debian_image_oci.tag}",
        "tar": f"oci-archive:{tar}:latest",
        "archive": f"docker-archive:{docker_archive}",
    }


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, debian_image_oci: Layout
) -> Iterator[dict[bytes, Seen]]:
    """The image's files as umoci unpacks them."""
    yield unpacked(debian_image_oci, tmp_path_factory.mktemp("umoci") / "bundle")


def unpacked(layout: Layout, bundle: Path) -> dict[bytes, Seen]:
    """What umoci makes of a layout; nothing of it stays."""
    run("umoci", "unpack", "--image", layout.umoci, bundle)
    seen = snapshot(bundle / "rootfs", closed=OURS)
    run("rm", "-rf", "--one-file-system", bundle)
    return seen


def root_of(mesocosm: CommandLine, reference: str, *options: str) -> dict[bytes, Seen]:
    """The root of a container that is held before its first instruction, looked at from outside."""
    container = mesocosm("create", "-q", *options, reference, "/bin/true").accepted().strip()
    (report,) = json.loads(mesocosm("inspect", container).accepted())
    seen = snapshot(f"/proc/{report['process']['pid']}/root/.", closed=OURS)
    mesocosm("rm", "-f", container).accepted()
    return seen


def other(expected: dict[bytes, Seen], found: dict[bytes, Seen]) -> list[str]:
    """How they differ, but for what a container gets of its own and the times at which that was put there."""

    def comparable(seen: dict[bytes, Seen]) -> dict[bytes, Seen]:
        kept = {name: one for name, one in seen.items() if name not in GENERATED}
        timeless = OURS | {b".", b"etc"}
        return {
            name: one._replace(mtime=0) if name in timeless else one
            for name, one in kept.items()
            if name not in OURS
        }

    return differences(comparable(expected), comparable(found))


def test_material_has_every_kind_of_file(expected: dict[bytes, Seen]) -> None:
    """The comparisons below can fail: there is something to get wrong."""
    assert {one.kind for one in expected.values()} == {"file", "directory", "symlink", "fifo"}
    assert len(expected) > 5000
    assert expected[b"srv/hard-link"].same_as == expected[b"srv/plain"].same_as != b""
    assert expected[b"srv/plain"].mtime == 1_600_000_000 * 10**9
    assert ("user.mesocosm", b"\x00value\xff") in expected[b"srv/attribute"].xattrs
    assert any(name == "security.capability" for name, _ in expected[b"srv/capable"].xattrs)
    assert expected[b"srv/set-uid"].mode == 0o4755
    assert (expected[b"srv/owned"].uid, expected[b"srv/owned"].gid) == (1000, 100)
    assert b"srv/removed" not in expected
    assert b"srv/hidden/below" not in expected


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_root(
    mesocosm: CommandLine, reference_of: dict[str, str], expected: dict[bytes, Seen], form: str
) -> None:
    """Mode, owner, attributes, size, time in nanoseconds, link targets, content, hard links."""
    assert mesocosm("pull", "-q", reference_of[form]).accepted().startswith("sha256:")
    assert other(expected, root_of(mesocosm, reference_of[form])) == []


@pytest.mark.parametrize("backend", ["overlay", "copy"])
def test_every_backend_is_the_same_root(
    mesocosm: CommandLine, reference_of: dict[str, str], expected: dict[bytes, Seen], backend: str
) -> None:
    assert other(expected, root_of(mesocosm, reference_of["layout"], "--backend", backend)) == []


@pytest.mark.parametrize("backend", ["erofs", "overlay", "copy"])
def test_times_in_nanoseconds(mesocosm: CommandLine, tmp_path: Path, backend: str) -> None:
    """umoci writes whole seconds; what others write is kept."""
    moment = ((b"mtime", b"1600000000.123456789"),)
    folders = [directory(name) for name in (b"etc", b"proc", b"sys", b"dev", b"bin")]
    members = [
        *folders,
        directory(b"d")._replace(pax=moment),
        file(b"d/f")._replace(pax=moment),
        file(b"bin/true"),
    ]
    layout = write_layout(image_of([members]), tmp_path / "layout")
    found = root_of(mesocosm, f"oci:{layout}:latest", "--backend", backend)
    assert found[b"d"].mtime == found[b"d/f"].mtime == 1_600_000_000_123_456_789
    assert other(unpacked(Layout(layout, "latest"), tmp_path / "bundle"), found) == []


def test_the_bind_backend_shows_an_image_of_one_layer_as_it_is(
    mesocosm: CommandLine, busybox_root: Path, tmp_path: Path
) -> None:
    root = copy_root(busybox_root, tmp_path / "root")
    for name in GENERATED:
        (root / os.fsdecode(name)).touch()
    layout = Layout(tmp_path / "layout", "latest")
    run("umoci", "init", "--layout", layout.path)
    run("umoci", "new", "--image", layout.umoci)
    run("umoci", "insert", "--image", layout.umoci, root, "/")
    found = root_of(mesocosm, f"oci:{layout.umoci}", "--backend", "bind")
    assert other(unpacked(layout, tmp_path / "bundle"), found) == []
    words = ("--rm", "-q", "--backend", "bind", f"oci:{layout.umoci}")
    assert mesocosm("run", *words, "cat", "/etc/os-release").accepted()
    assert mesocosm("run", *words, "touch", "/etc/new").status == 1


def test_more_than_64_layers_run(mesocosm: CommandLine, tmp_path: Path) -> None:
    """BK: the options of one mount(2) call do not hold so many paths."""
    count = 80
    layers: list[list[Member]] = [[directory(b"bin"), file(b"bin/sh", busybox(), 0o755)]]
    for number in range(1, count):
        layers.append(
            [directory(b"d"), file(b"d/%d" % number, b"%d\n" % number), file(b"top", b"%d\n" % number)]
        )
    layout = write_layout(image_of(layers), tmp_path / "layout")
    script = (
        "read a < /top; read b < /d/1; read c < /d/79; echo changed > /top; read e < /top; "
        "set -- /d/*; echo $a $b $c $e $#"
    )
    for backend in ("erofs", "overlay", "copy"):
        words = ("run", "--rm", "-q", "--backend", backend, f"oci:{layout}:latest", "/bin/sh", "-c")
        assert mesocosm(*words, script).accepted() == f"{count - 1} 1 79 changed {count - 1}\n", backend


def busybox() -> bytes:
    """A static shell."""
    return Path(tool("busybox")).read_bytes()


# --- run ---


@pytest.fixture(scope="module")
def pulled(shared: CommandLine, pushed_image: str) -> str:
    """The image, pulled from the registry to the shared roots."""
    assert shared("pull", "-q", pushed_image).accepted().startswith("sha256:")
    return pushed_image


def test_it_computes_and_writes_files(shared: CommandLine, pulled: str, tmp_path: Path) -> None:
    """The same result as the same program on the host; its files lie on the volume."""
    volume, here = tmp_path / "volume", tmp_path / "here"
    volume.mkdir()
    here.mkdir()
    command = ("python3", "/payload/compute.py", "/volume")
    inside = shared("run", "--rm", "-q", "-v", f"{volume}:/volume", pulled, *command).accepted()
    outside = subprocess.run(
        [sys.executable, PAYLOAD / "compute.py", here], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(inside) == json.loads(outside)
    assert differences(snapshot(volume), snapshot(here), ignore=("mtime",)) == []


def test_what_it_writes_stays_its_own(shared: CommandLine, pulled: str) -> None:
    """An image is never changed by its containers."""
    script = (
        "echo changed > /etc/debian_version; rm -rf /srv; touch /new; cat /etc/debian_version; ls /srv /new"
    )
    changed = shared("run", "--rm", "-q", "-w", "/", pulled, "sh", "-c", script)
    assert changed.out == "changed\n/new\n"
    fresh = shared("run", "--rm", "-q", pulled, "sh", "-c", "cat /etc/debian_version; ls /new; ls /srv")
    assert fresh.out.startswith("12.")
    assert "plain" in fresh.out
    assert "/new" in fresh.err


def test_it_has_the_image_process(shared: CommandLine, pulled: str) -> None:
    """Environment, directory and command are the image's unless others are asked for."""
    script = 'echo "$MESOCOSM_TEST $PWD $0"'
    assert shared("run", "--rm", "-q", pulled, "sh", "-c", script).accepted() == "debian /srv sh\n"
    changed = shared(
        "run", "--rm", "-q", "-e", "MESOCOSM_TEST=mine", "-w", "/tmp", pulled, "sh", "-c", script
    )
    assert changed.accepted() == "mine /tmp sh\n"
    assert shared("run", "--rm", "-q", "-i", pulled, stdin=subprocess.DEVNULL).status == 0


def test_it_honours_its_limits(shared: CommandLine, pulled: str) -> None:
    hog = shared("run", "--rm", "-q", "-m", "48m", pulled, "python3", "-c", "x = 'a' * 200_000_000")
    assert hog.status == 137
    assert "the limit of 48 MiB was reached" in hog.err
    bomb = shared("run", "--rm", "-q", "--pids-limit", "12", pulled, "python3", "/payload/fork_bomb.py", "50")
    assert json.loads(bomb.accepted()) == {"forked": 11, "stopped_by": "Resource temporarily unavailable"}
    script = "import time\nwhile time.process_time() < 0.3: pass"
    slow = shared("run", "--rm", "-q", "--report", "--cpus", "0.2", pulled, "python3", "-c", script)
    assert slow.status == 0
    assert "limit 0.2 processors, held back in " in slow.err


def test_pulling_again_transfers_nothing_and_removing_gives_all_back(
    mesocosm: CommandLine, pushed_busybox: str
) -> None:
    first = mesocosm("pull", pushed_busybox)
    assert "fetched" in first.err
    again = mesocosm("pull", pushed_busybox)
    assert (again.out, again.status) == (first.out, 0)
    assert "fetched" not in again.err
    mesocosm("rmi", pushed_busybox).accepted()
    assert mesocosm("images", "-q").accepted() == ""
    left = [
        path
        for path in (mesocosm.root / "images").rglob("*")
        if path.is_file() and path.stat().st_size > 4096
    ]
    assert left == []
