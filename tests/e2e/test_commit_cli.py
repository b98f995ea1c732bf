"""Containers made into images and archives: by the command line, with a real registry and others' tools."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from attacks.commandline import PATIENCE, CommandLine
from fixtures.command import run
from fixtures.images import Layout
from fixtures.registry import Registry
from mesocosm.linux.cgroups.tree import CgroupTree
from mesocosm.paths import Paths

IMAGE = "example.org/debian:1"
MADE = "example.org/made:1"
EPOCH = "1600000000"
PLACES = ("/scratch", "/dev", "/proc", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
"""Where something is mounted: an archive of the whole root has them, empty."""
CHANGE = """
echo new > /new; rm /etc/issue; chmod 700 /srv; rm -r /opt; mkdir /opt; echo in > /opt/in
ln /new /newer; mkfifo /pipe; printf odd > "/$(printf 'a\\nb')"; truncate -s 30M /sparse
"""
INTERRUPTED = """
import os, signal, sys
from mesocosm import trace
from mesocosm.frontends.cli.main import main
trace.observe(lambda point: os.kill(os.getpid(), signal.SIGINT) if point == "pause.frozen" else None)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def debian(mesocosm: CommandLine, debian_image_oci: Layout) -> CommandLine:
    """The command on roots that have a Debian image."""
    layout = f"oci:{debian_image_oci.path}:{debian_image_oci.tag}"
    mesocosm("pull", "-q", layout).accepted()
    mesocosm("tag", layout, IMAGE).accepted()
    mesocosm("rmi", layout).accepted()
    return mesocosm


def started(mesocosm: CommandLine, script: str = "true", *options: str | Path) -> str:
    """A container that goes on, in which a script has been run; its ID."""
    container = mesocosm("run", "-d", "-q", *options, IMAGE, "sleep", "600").accepted().strip()
    mesocosm("exec", container, "sh", "-ec", script).accepted()
    return container


def decoded(text: str) -> Any:  # noqa: ANN401
    return json.loads(text)


def frozen(mesocosm: CommandLine, container: str) -> bool:
    """What the kernel says of a container's processes."""
    tree = CgroupTree.detect(Paths(mesocosm.root, mesocosm.runtime).cgroup_parent)
    group = tree.tracking(container)
    if group.version == 2:
        return group.read_table("cgroup.events")["frozen"] == 1
    return group.read("freezer.state").strip() != "THAWED"


def until_thawed(mesocosm: CommandLine, container: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while frozen(mesocosm, container):
        assert time.monotonic() < deadline, "still paused"


def test_diff_commit_run_push_and_pull(debian: CommandLine, registry: Registry, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "secret").write_text("not of the image")
    options = ("-v", f"{volume}:/data/volume", "--tmpfs", "/scratch", "-e", "TOKEN=x")
    container = started(debian, CHANGE, *options)
    lines = debian("diff", container).accepted().splitlines()
    assert {"A /new", "A /newer", "A /pipe", "C /etc", "D /etc/issue", "C /opt"} < set(lines)
    assert {"A /opt/in", "C /srv"} < set(lines)
    assert [line for line in lines if line.startswith("A /a") and line.endswith("b")]
    assert not [line for line in lines if "data" in line or "scratch" in line or "proc" in line], lines
    told = decoded(debian("diff", "--format", "json", container).accepted())
    assert {"path": "/new", "kind": "added"} in told
    assert "A /new" in debian("diff", "--format", "{{.Letter}} {{.Path}}", container).accepted()

    words = ("commit", "-q", "-a", "somebody", "-m", "for a test", "-c", "ENV A=b", "--timestamp", EPOCH)
    digest = debian(*words, container, MADE).accepted().strip()
    assert debian(*words, container).accepted().strip() == digest, "the same changes, another image"
    assert not frozen(debian, container)
    by_epoch = debian(*words[:-2], container, env={"SOURCE_DATE_EPOCH": EPOCH}).accepted().strip()
    assert by_epoch == digest
    report = decoded(debian("commit", "-q", "--no-pause", "--format", "json", container).accepted())
    assert report["left_out"] == []

    (inspected,) = decoded(debian("image", "inspect", MADE).accepted())
    assert "A=b" in inspected["Config"]["Env"]
    assert "TOKEN" not in json.dumps(inspected)
    assert "for a test" in debian("history", MADE).accepted()
    differing = debian("image", "diff", IMAGE, MADE).accepted().splitlines()
    assert "D /etc/issue" in differing and "A /new" in differing
    assert not [line for line in differing if "data" in line or "scratch" in line]
    script = "cat /new /opt/in; ls /etc/issue /data 2>&1 || true; ls -A /opt; stat -c %h:%s /newer /sparse"
    shown = debian("run", "--rm", "-q", MADE, "sh", "-c", script).accepted()
    assert shown.startswith("new\nin\n")
    assert "secret" not in shown and "2:4" in shown and "1:31457280" in shown

    target = f"{registry.host}/team/made:1"
    debian("push", "-q", MADE, target).accepted()
    debian("rm", "--force", container).accepted()
    debian("rmi", "--force", digest).accepted()
    assert debian("pull", "-q", target).accepted().strip() == digest
    assert "new" in debian("run", "--rm", "-q", target, "cat", "/new").accepted()
    seen = decoded(run("skopeo", "inspect", "--tls-verify=false", f"docker://{target}"))
    assert seen["Digest"] == digest
    config = decoded(run("skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{target}"))
    assert (config["author"], config["created"]) == ("somebody", "2020-09-13T12:26:40Z")
    assert config["history"][-1]["comment"] == "for a test"


def test_export_and_import_give_the_same_root(debian: CommandLine, tmp_path: Path) -> None:
    container = started(debian, CHANGE, "--tmpfs", "/scratch")
    file = tmp_path / "root.tar"
    debian("export", "-o", file, container).accepted()
    piped = subprocess.run(
        debian.words("export", "--pause", "-o", "-", container),
        capture_output=True,
        timeout=PATIENCE,
        env=debian.environment,
        check=True,
    )
    assert piped.stdout == file.read_bytes()
    debian("import", "-q", file, "example.org/imported:1").accepted()
    debian("commit", "-q", container, MADE).accepted()
    changes = debian("image", "diff", MADE, "example.org/imported:1").accepted().splitlines()
    assert [line for line in changes if line.split()[1] not in PLACES] == []
    listed = run("tar", "-tf", file).splitlines()
    assert "new" in listed and "etc/issue" not in listed

    main, other = pty.openpty()
    try:
        refused = subprocess.run(
            debian.words("export", container),
            stdin=subprocess.DEVNULL,
            stdout=other,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            env=debian.environment,
            check=False,
        )
    finally:
        os.close(other)
        os.close(main)
    assert refused.returncode == 1 and b"nothing for a terminal" in refused.stderr
    assert debian("export", "-o", tmp_path / "none.tar", "nobody").status == 1
    assert not (tmp_path / "none.tar").exists()


@pytest.mark.parametrize("backend", ["erofs", "overlay"])
def test_owners_of_a_mapped_root_are_those_of_the_container(
    debian: CommandLine, backend: str, tmp_path: Path
) -> None:
    """With ``--idmap`` changed files lie on the disk as the host's IDs have them; in an image they do not."""
    options = ("--idmap", "0:100000:65536", "--backend", backend, "--root-changes", tmp_path / "kept")
    script = "echo new > /new; touch /other; chown 12:34 /other; echo more >> /etc/issue"
    container = started(debian, script, *options)
    assert (tmp_path / "kept/upper/etc/issue").stat().st_uid == 100_000
    lines = set(debian("diff", container).accepted().splitlines())
    assert lines == {"A /new", "A /other", "C /etc", "C /etc/issue"}
    debian("commit", "-q", container, MADE).accepted()
    shown = debian("run", "--rm", "-q", MADE, "stat", "-c", "%u:%g", "/new", "/other", "/etc/issue")
    assert shown.accepted().split() == ["0:0", "12:34", "0:0"]
    debian("stop", "-t", "0", container).accepted()
    assert set(debian("diff", container).accepted().splitlines()) == lines
    file = tmp_path / "root.tar"
    debian("export", "-o", file, container).accepted()
    assert " 12/34 " in run("tar", "--numeric-owner", "-tvf", file, "other")


def test_kept_changes_are_committed_after_the_end(debian: CommandLine, tmp_path: Path) -> None:
    kept = ("--root-changes", tmp_path / "kept")
    first = debian("run", "-d", "-q", *kept, IMAGE, "sh", "-c", "echo kept > /note").accepted().strip()
    debian("wait", first).accepted()
    assert debian("diff", first).accepted() == "A /note\n"
    debian("commit", "-q", first, MADE).accepted()
    assert debian("run", "--rm", "-q", MADE, "cat", "/note").accepted() == "kept\n"
    second = started(debian, "true", *kept)
    debian("commit", first).refused(f"not those of container {first} any more.*{second}")
    debian("rm", "--force", second).accepted()
    debian("commit", second).refused("no container")


def test_a_copied_root_is_committed_like_one_of_layers(debian: CommandLine, tmp_path: Path) -> None:
    """The same changes, found by comparing with the image, make an image with the same files."""
    script = f"{CHANGE}\nchown 5:6 /srv; ln -sfn /nowhere /etc/localtime"
    told, made = [], []
    for backend in ("overlay", "copy"):
        container = started(
            debian, script, "--backend", backend, "--tmpfs", "/scratch", "--idmap", "0:100000:65536"
        )
        told.append(debian("diff", container).accepted().splitlines())
        made.append(debian("commit", "-q", "--timestamp", EPOCH, container).accepted().strip())
        debian("export", "-o", tmp_path / backend, container).accepted()
        debian("rm", "-f", container).accepted()
    assert told[0] == told[1]
    differing = [debian("image", "diff", IMAGE, one).accepted() for one in made]
    assert differing[0] == differing[1]
    left = [line for line in debian("image", "diff", *made).accepted().splitlines() if line[0] != "C"]
    assert left == []
    assert {"new", "opt/in", "newer"} < set(run("tar", "-tf", tmp_path / "copy").splitlines())
    shown = debian("run", "--rm", "-q", made[1], "sh", "-c", "cat /new /opt/in; stat -c %u:%g /srv")
    assert shown.accepted().split() == ["new", "in", "5:6"]


def test_what_cannot_be_committed_is_said(debian: CommandLine, busybox_root: Path, tmp_path: Path) -> None:
    gone = debian("run", "-d", "-q", IMAGE, "true").accepted().strip()
    debian("wait", gone).accepted()
    for verb in ("commit", "export", "diff"):
        debian(verb, gone).refused("went with its end.*--root-changes")
        debian(verb, "nobody").refused("no container")
    read_only = started(debian, "true", "--read-only")
    debian("commit", read_only).refused("read-only: there is nothing to commit")
    assert debian("diff", read_only).accepted() == ""
    debian("export", "-o", tmp_path / "read-only.tar", read_only).accepted()
    for image in ("host", f"dir:{busybox_root}"):
        container = debian("run", "-d", "-q", image, "sleep", "600").accepted().strip()
        for verb in ("commit", "export", "diff"):
            debian(verb, container).refused("no image of layers")
    bare = debian("run", "-d", "-q", "none", "sleep", "600").accepted().strip()
    debian("commit", bare).refused("has no root of its own")
    container = started(debian, "true")
    debian("commit", "-c", "RUN true", container).refused("not understood")
    debian("commit", container, "example.org/UPPER:1").refused("UPPER")
    debian("commit", "--timestamp", "-5", container).refused("no date")
    held = debian("create", "-q", IMAGE, "true").accepted().strip()
    assert debian("commit", "-q", held).accepted().startswith("sha256:")
    assert not frozen(debian, held)


def test_what_is_no_file_is_told(debian: CommandLine) -> None:
    script = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/s')"
    container = started(
        debian,
        f'python3 -c "{script}" || perl -MSocket -e "socket(S,AF_UNIX,SOCK_STREAM,0);'
        f'bind(S,sockaddr_un(q(/s)))"',
    )
    done = debian("commit", "-q", container, MADE)
    assert "warning: /s is a socket and left out" in done.err
    assert done.accepted().startswith("sha256:")


def test_a_container_goes_on_after_a_kill_of_who_paused_it(debian: CommandLine) -> None:
    """By itself, when only the command is killed; by the next command, when all of it was."""
    container = started(debian)
    dying = Path(__file__).parents[1] / "crash/dying_command.py"
    roots = ("--root", debian.root, "--runtime", debian.runtime)
    done = subprocess.run(
        [sys.executable, dying, "--at", "pause.frozen", *roots, "commit", "-q", container],
        capture_output=True,
        timeout=PATIENCE,
        env=debian.environment,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    until_thawed(debian, container)
    tree = CgroupTree.detect(Paths(debian.root, debian.runtime).cgroup_parent)
    for path, _ in tree.thawing(container):
        Path(path).write_text("FROZEN" if path.endswith("state") else "1")
    assert (debian.runtime / "containers" / container / "paused").exists()
    assert debian("exec", container, "echo", "on").accepted() == "on\n"
    assert not frozen(debian, container)
    assert debian("commit", "-q", container).accepted().startswith("sha256:")
    assert not (debian.runtime / "containers" / container / "paused").exists()


def test_an_interrupt_resumes_it_and_leaves_no_image(debian: CommandLine) -> None:
    container = started(debian)
    roots = ("--root", debian.root, "--runtime", debian.runtime)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *roots, "commit", "-q", container, MADE],
        capture_output=True,
        timeout=PATIENCE,
        env=debian.environment,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert not frozen(debian, container)
    assert MADE not in debian("images").accepted()
    assert os.listdir(debian.root / "images/ingest") == []


def test_an_interrupt_ends_an_export_that_nobody_reads(debian: CommandLine) -> None:
    container = started(debian)
    with subprocess.Popen(
        debian.words("export", "--pause", container),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=debian.environment,
    ) as export:
        assert export.stdout is not None
        assert export.stdout.read(1), "it writes, and the pipe is full soon"
        assert frozen(debian, container)
        export.send_signal(signal.SIGINT)
        assert export.wait(PATIENCE) == 130
    assert not frozen(debian, container)
