"""What an image says of itself, used against the host: volumes that lead out of it (I-17, I-18)."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.commandline import CommandLine
from provisions import pack

SECRET = "only for the host"


@pytest.mark.parametrize("backend", ["erofs", "overlay", "copy"])
def test_i07_an_images_set_user_id_programs_are_out_of_reach(
    backend: str, mesocosm: CommandLine, image: Callable[..., Path], tmp_path: Path
) -> None:
    """CVE-2021-41103: on the host, in a layer or in a mount of one, by a user to whom they are nothing."""
    root = image()
    (root / "become").mkdir()
    shutil.copyfile(root / "bin/busybox", root / "become/busybox")
    (root / "become/busybox").chmod(0o4755)
    mesocosm("import", pack(root, tmp_path / "root.tar"), "example.org/s:1").accepted()
    run = ("run", "-q", "--pull", "never", "--backend", backend)
    mesocosm(*run, "-d", "example.org/s:1", "sleep", "600").accepted()
    for above in (mesocosm.root.parent, *mesocosm.root.parent.parents):
        if above != Path("/tmp") and above.exists() and "pytest" in str(above):
            above.chmod(0o755)
    found = [path for place in (mesocosm.root, mesocosm.runtime) for path in place.rglob("become/busybox")]
    assert found, "it is there, for whoever could reach it"
    for path in found:
        assert path.stat().st_mode & stat.S_ISUID
        subprocess.run([path, "true"], check=True)
        with pytest.raises(PermissionError):
            subprocess.run([path, "true"], user=1000, group=1000, extra_groups=(), check=False)
    script = "stat -c %a /become/busybox; /become/busybox id -u"
    inside = mesocosm(*run, "--rm", "-u", "1000", "example.org/s:1", "sh", "-c", script)
    assert inside.accepted().split() == ["4755", "1000"]


def test_i18_an_images_volume_leads_nowhere_but_into_the_image(
    mesocosm: CommandLine, image: Callable[..., Path], tmp_path: Path
) -> None:
    """CVE-2022-23648, CVE-2020-1726: copy-up through a link that the image put at its volume's place."""
    host = tmp_path / "HOST"
    host.mkdir()
    (host / "secret").write_text(SECRET)
    root = image()
    (root / "v").symlink_to(host)
    (root / "w").mkdir()
    (root / "w/link").symlink_to(host / "secret")
    (root / "honest").mkdir()
    (root / "honest/data").write_text("the image's own\n")
    volumes = 'VOLUME ["/v", "/w", "/honest"]'
    mesocosm("import", "-c", volumes, pack(root, tmp_path / "root.tar"), "example.org/v:1").accepted()
    script = "cat /v/secret /w/link; echo planted > /v/planted; echo planted > /w/link; cat /honest/data"
    answer = mesocosm("run", "--rm", "--pull", "never", "example.org/v:1", "sh", "-c", script)
    assert SECRET not in answer.out + answer.err
    assert answer.out == "the image's own\n"
    assert sorted(path.name for path in host.iterdir()) == ["secret"]
    assert (host / "secret").read_text() == SECRET


def test_r05_an_image_shown_at_a_link_stays_in_the_root(
    mesocosm: CommandLine, image: Callable[..., Path], tmp_path: Path
) -> None:
    """The image's root leads its own target to the host, or over the kernel's file systems."""
    host = tmp_path / "HOST"
    host.mkdir()
    root, data = image(), tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "sub/file").write_text("shown\n")
    (root / "out").symlink_to(host)
    (root / "climb").symlink_to("../../../.." + str(host))
    (root / "kernel").symlink_to("/proc")
    (root / "inside").symlink_to("etc")
    mesocosm("import", pack(root, tmp_path / "root.tar"), "example.org/r:1").accepted()
    mesocosm("import", pack(data, tmp_path / "data.tar"), "example.org/d:1").accepted()

    def at(target: str, *options: str) -> tuple[str, ...]:
        mount = ",".join(("type=image", "source=example.org/d:1", f"target={target}", *options))
        return "run", "--rm", "--pull", "never", "--mount", mount, "example.org/r:1"

    for target in ("/out/new", "/climb/new", "/inside/new"):
        assert mesocosm(*at(target), "cat", f"{target}/sub/file").accepted() == "shown\n"
    file = at("/out/a", "subpath=sub/file")
    assert mesocosm(*file, "cat", "/out/a").accepted() == "shown\n"
    assert list(host.iterdir()) == []
    for target in ("/kernel", "/kernel/sys", "/kernel/self"):
        mesocosm(*at(target), "true").refused()


def test_r41_an_image_shown_as_a_volume_gives_no_rights(mesocosm: CommandLine, tmp_path: Path) -> None:
    """Neither its set-user-ID programs nor its devices count; of a volume that says so they do."""
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copyfile("/usr/bin/id", tools / "id")
    (tools / "id").chmod(0o4755)
    os.mknod(tools / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    mesocosm("import", pack(tools, tmp_path / "tools.tar"), "example.org/t:1").accepted()
    script = "head -c 1 /v/zero | wc -c; exec /v/id -u"
    user = ("--user", "1000", "--security-opt", "no-new-privileges=false")

    def seen(*mount: str) -> list[str]:
        return mesocosm("run", "--rm", *user, *mount, "host", "sh", "-c", script).out.split()

    assert seen("--mount", "type=image,source=example.org/t:1,target=/v") == ["0", "1000"]
    assert seen("-v", f"{tools}:/v:suid,dev") == ["1", "0"]
