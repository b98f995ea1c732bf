"""The material that other tests stand on is what it says it is, judged by tools that are not ours."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import urllib.request
from pathlib import Path

import pytest

from fixtures.canary import Canary
from fixtures.command import run
from fixtures.images import Layout
from fixtures.registry import Registry
from fixtures.view import View


def _in_root(root: Path, *words: str) -> bytes:
    """Run something in a root by other people's means: bubblewrap, all namespaces, nothing of the host."""
    command = ["bwrap", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    command += [
        "--unshare-all",
        "--die-with-parent",
        "--cap-drop",
        "ALL",
        "--clearenv",
        "--setenv",
        "PATH",
        "/bin:/usr/bin",
        "--",
    ]
    done = subprocess.run([*map(str, command), *words], stdout=subprocess.PIPE, check=True)
    return done.stdout


def test_busybox_root_runs_every_shell_payload(busybox_root: Path) -> None:
    assert _in_root(busybox_root, "/payload/eat-memory.sh", "3") == b"ate 3 MiB\n"
    assert _in_root(busybox_root, "/payload/write-file.sh", "/tmp/x", "some text") == b"some text\n"
    assert _in_root(busybox_root, "/payload/fork.sh", "3") == b"forked 3\n"
    assert _in_root(busybox_root, "/bin/id", "-un") == b"root\n"
    for word, status in (("0", 0), ("7", 7), ("-9", -9), ("-15", -15)):
        done = subprocess.run([busybox_root / "bin/busybox", "sh", busybox_root / "payload/exit.sh", word])
        assert done.returncode == status


def test_report_tells_what_a_process_sees(busybox_root: Path) -> None:
    view = View(_in_root(busybox_root, "/payload/report.sh"))
    assert view.environment["PATH"] == "/bin:/usr/bin"
    assert view.status["NoNewPrivs"] == "1"
    assert view.capabilities("Eff") == 0
    assert view.namespaces["pid"] != os.readlink("/proc/self/ns/pid")
    assert view.mount("/proc").kind == "proc"
    assert "ro" in view.mount("/").options
    assert view.links == {"lo"}
    assert set(view.descriptors) == {0, 1, 2}
    assert view.limits["Max open files"][0].isdigit()
    assert 1 in view.processes
    assert view.text("cwd") == "/"


def test_canary_notices_a_write_a_read_and_a_text(canary: Canary) -> None:
    canary.assert_untouched()
    canary.assert_unread()
    canary.secret.read_text()
    with pytest.raises(AssertionError):
        canary.assert_unread()
    with pytest.raises(AssertionError):
        canary.assert_unseen(f"... {canary.text} ...")
    inner = canary.folder / "inner"
    before = inner.stat()
    text = inner.read_text()
    inner.write_text("changed\n")
    with pytest.raises(AssertionError):
        canary.assert_untouched()
    # Even when everything that can be put back is put back: the change time cannot.
    inner.write_text(text)
    os.utime(inner, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(AssertionError):
        canary.assert_untouched()
    canary.look_again()


def test_busybox_image_has_its_configuration(busybox_oci: Layout) -> None:
    config = json.loads(run("skopeo", "inspect", "--config", busybox_oci.skopeo))["config"]
    assert config["User"] == "worker"
    assert config["Entrypoint"] == ["/bin/sh"]
    assert config["Cmd"] == ["-c", "echo hello from busybox"]
    assert config["StopSignal"] == "SIGUSR1"
    assert config["Volumes"] == {"/data": {}}


def test_registry_serves_what_was_pushed(
    registry: Registry, pushed_busybox: str, busybox_oci: Layout
) -> None:
    assert pushed_busybox == f"{registry.host}/busybox:test"
    with urllib.request.urlopen(f"http://{registry.host}/v2/busybox/tags/list") as answer:
        assert json.load(answer) == {"name": "busybox", "tags": ["test"]}
    there = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{pushed_busybox}"))
    here = json.loads(run("skopeo", "inspect", busybox_oci.skopeo))
    assert there["Layers"] == here["Layers"]
    assert "GET /v2/busybox/tags/list" in registry.requests()


def test_registry_with_a_password_lets_only_the_right_one_in(tmp_path: Path, busybox_oci: Layout) -> None:
    with Registry(tmp_path / "registry", user="alice", password="secret") as registry:
        reference = registry.push(busybox_oci, "busybox:test")
        inspect = ("inspect", "--tls-verify=false", f"docker://{reference}")
        assert json.loads(run("skopeo", *inspect, "--creds", "alice:secret"))["Name"]
        with pytest.raises(RuntimeError, match="unauthorized"):
            run("skopeo", *inspect, "--creds", "alice:wrong")


@pytest.mark.slow
def test_debian_root_runs_python_payloads(debian_root: Path) -> None:
    printed = json.loads(_in_root(debian_root, "/payload/compute.py", "/tmp"))
    digest = "a1e51f6ffd2566a4ec7afa08d875242ade1cc82ab172c98fded3648376096e19"
    assert printed == {"digest": digest, "files": 16}
    assert json.loads(_in_root(debian_root, "/payload/fork_bomb.py", "5"))["forked"] == 5
    assert View(_in_root(debian_root, "/payload/report.sh")).text("cwd") == "/"


@pytest.mark.slow
def test_debian_image_has_layers_of_every_kind(debian_image_oci: Layout, tmp_path: Path) -> None:
    run("umoci", "unpack", "--image", debian_image_oci.umoci, tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    assert (root / "srv/replaced").read_text() == "from the third layer\n"
    assert not (root / "srv/removed").exists()
    assert os.listdir(root / "srv/hidden") == ["only"]
    assert (root / "srv/plain").stat().st_nlink == 2
    assert os.getxattr(root / "srv/attribute", "user.mesocosm") == b"\x00value\xff"
    assert len(os.getxattr(root / "srv/capable", "security.capability")) == 20
    assert (root / "srv/set-uid").stat().st_mode & 0o7777 == 0o4755


@pytest.mark.slow
def test_docker_archive_holds_the_same_layers(docker_archive: Path, debian_image_oci: Layout) -> None:
    with tarfile.open(docker_archive) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        [image] = json.load(manifest)
    layers = json.loads(run("skopeo", "inspect", debian_image_oci.skopeo))["Layers"]
    assert image["RepoTags"] == ["example.org/debian:test"]
    assert len(image["Layers"]) == len(layers) == 5


@pytest.mark.slow
def test_debian_image_is_in_the_registry(pushed_image: str) -> None:
    there = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{pushed_image}"))
    assert there["RepoTags"] == ["test"]
