"""``--idmap`` and volumes with ``idmap``: owners that are others', from the command line."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from attacks.commandline import CommandLine
from fixtures import kernel
from fixtures.images import Layout

MAP = "0:100000:65536"


def test_an_image_with_mapped_owners(mesocosm: CommandLine, debian_image_oci: Layout, tmp_path: Path) -> None:
    """The whole default isolation; two mappings and none side by side, with the layers mounted once."""
    kernel.require_mapped_layers(tmp_path)
    layout, image = f"oci:{debian_image_oci.path}:{debian_image_oci.tag}", "example.org/debian:1"
    mesocosm("pull", "-q", layout).accepted()
    mesocosm("tag", layout, image).accepted()
    script = "stat -c '%n %u' / /bin/sh /dev /dev/null /dev/shm /etc/hosts $PWD; touch /new; id -u"
    ran = mesocosm("run", "--rm", "--idmap", MAP, "-w", "/work/place", image, "sh", "-c", script).accepted()
    owners = dict(line.split() for line in ran.splitlines()[:-1])
    for name in ("/", "/bin/sh", "/dev", "/dev/null", "/dev/shm", "/etc/hosts", "/work/place"):
        assert owners[name] == "100000", name
    assert ran.splitlines()[-1] == "0"
    explained = mesocosm("explain", "--idmap", MAP, image, "true").accepted()
    assert f"owners mapped by {MAP}" in explained and "make files as user 100000, group 100000" in explained
    held = [
        mesocosm("run", "-d", *given, image, "sleep", "600").accepted().strip()
        for given in (("--idmap", MAP), ("--idmap", "0:300000:65536"), ())
    ]
    for container, owner in zip(held, ("100000", "300000", "0"), strict=True):
        assert mesocosm("exec", container, "stat", "-c", "%u", "/bin/sh").accepted().strip() == owner
    assert json.loads(mesocosm("inspect", held[0]).accepted())
    assert '"host":100000' in mesocosm("inspect", held[0]).accepted().replace(" ", "")
    mesocosm("rm", "--force", *held).accepted()


@pytest.mark.parametrize("read_only", [(), ("--read-only",)], ids=["writable", "read-only"])
@pytest.mark.parametrize("backend", ["erofs", "overlay", "copy"])
def test_every_backend(
    backend: str, read_only: tuple[str, ...], mesocosm: CommandLine, busybox_oci: Layout, tmp_path: Path
) -> None:
    """Or what remains is named, where the kernel overlays no mapped layers."""
    image = f"oci:{busybox_oci.path}:{busybox_oci.tag}"
    given = ("--idmap", MAP, "--backend", backend, "--entrypoint", "", "-u", "0", "-w", "/", *read_only)
    ran = mesocosm("run", "--rm", *given, image, "/bin/busybox", "stat", "-c", "%u", "/bin/busybox")
    if backend == "copy" or kernel.maps_layers(tmp_path):
        assert ran.accepted().split() == ["100000"]
    else:
        assert (ran.status, ran.out) == (125, "")
        assert "use --backend copy" in ran.err.splitlines()[-1]


def test_the_hosts_own_root(mesocosm: CommandLine, busybox_oci: Layout) -> None:
    """Linux 6.3: what hides its paths lies in memory."""
    kernel.require_mapped_memory()
    image = f"oci:{busybox_oci.path}:{busybox_oci.tag}"
    ran = mesocosm("run", "--rm", "--idmap", MAP, "host", "stat", "-c", "%u", "/", "/etc/passwd", "/run")
    assert ran.accepted().split() == ["100000"] * 3
    assert os.stat("/etc/passwd").st_uid == 0
    volume = ("--idmap", MAP, "--mount", f"type=image,source={image},target=/i,rw")
    script = "stat -c %u /i /i/bin/busybox; touch /i/new && stat -c %u /i/new"
    ran = mesocosm("run", "--rm", *volume, "host", "sh", "-c", script)
    assert ran.accepted().split() == ["100000", "100000", "0"]


@pytest.mark.parametrize("backend", ["erofs", "copy"])
def test_what_is_exported_has_the_images_owners(
    backend: str, mesocosm: CommandLine, busybox_oci: Layout, tmp_path: Path
) -> None:
    """Read from outside, layers are not mapped and what was written for the container is."""
    if backend != "copy":
        kernel.require_mapped_layers(tmp_path)
    image, tar = f"oci:{busybox_oci.path}:{busybox_oci.tag}", tmp_path / "root.tar"
    given = ("--idmap", MAP, "--backend", backend, "--entrypoint", "", "-u", "0", "-w", "/")
    held = mesocosm("run", "-d", *given, image, "/bin/busybox", "sleep", "600").accepted().strip()
    script = "touch /made; chown 101000:100000 /made"
    mesocosm("exec", held, "/bin/busybox", "sh", "-c", script).accepted()
    mesocosm("export", "-o", tar, held).accepted()
    with tarfile.open(tar) as archive:
        owners = {member.name.lstrip("./"): (member.uid, member.gid) for member in archive}
    assert (owners["bin/busybox"], owners["made"]) == ((0, 0), (1000, 0))
    mesocosm("rm", "--force", held).accepted()


def test_volumes_with_a_mapping(mesocosm: CommandLine, tmp_path: Path) -> None:
    """A developer's directory that root in the container works in, and its files stay the developer's."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    for path in (source, source / "file"):
        os.chown(path, 1000, 1000)
    script = "stat -c %u /v/file; touch /v/new; stat -c %u /v/new"
    for option in (
        ("-v", f"{source}:/v:idmap=1000-0-1"),
        ("--mount", f"source={source},target=/v,idmap=1000:0:1"),
    ):
        assert mesocosm("run", "--rm", *option, "host", "sh", "-c", script).accepted().split() == ["0", "0"]
        assert ((source / "new").stat().st_uid, (source / "new").stat().st_gid) == (1000, 1000)
        (source / "new").unlink()
    kernel.require_mapped_memory()
    shared = ("--idmap", MAP, "-v", f"{source}:/v:ro,idmap")
    ran = mesocosm("run", "--rm", *shared, "host", "stat", "-c", "%u", "/v/file")
    assert ran.accepted().strip() == "101000"


def test_what_is_refused_says_why(mesocosm: CommandLine, tmp_path: Path) -> None:
    """Nothing is mapped to the host's root unless somebody says so, and then no set-user-ID program is."""
    run = ("run", "--rm")
    mesocosm(*run, "--idmap", "0:0:65536", "host", "true").refused("maps to the host's root")
    mesocosm(*run, "--idmap", "1:100000:9", "host", "true").refused("does not map root")
    mesocosm(*run, "--idmap", "0:100000", "host", "true").refused("--idmap: '0:100000' is not a range")
    mesocosm(*run, "--idmap", MAP, "none", "true").refused("cannot be mapped")
    mesocosm(*run, "--idmap", MAP, "--pids-limit", "1", "host", "true").refused("--pids-limit")
    mesocosm(*run, "--pids-limit", "1", "host", "true").accepted()
    volume = f"{tmp_path}:/v"
    mesocosm(*run, "-v", f"{volume}:idmap", "host", "true").refused("no idmap that this volume could share")
    mesocosm(*run, "-v", f"{volume}:suid,idmap=1000-0-1", "host", "true").refused("set-user-ID programs")
    mesocosm(*run, "-v", f"{volume}:rslave,idmap=1-2-3", "host", "true").refused("propagation")
    mesocosm(*run, "-v", f"{volume}:idmap=1-2", "host", "true").refused("is not a range of IDs")
    mesocosm(*run, "-v", "/proc:/v:idmap=0-1-1", "host", "true").refused("no id-mapped mounts")
