"""Images as their users meet them: by the command line, against a real registry and other people's tools."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import re
import shutil
import signal
import stat
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attacks.commandline import PATIENCE, CommandLine
from fixtures import leaks
from fixtures.command import run
from fixtures.images import Layout
from fixtures.registry import Registry
from provisions import docker_archive, image_of, tar_of
from registry_fixtures import sha256, write_index_layout, write_layout
from tarballs import directory, file

USER, PASSWORD = "someone", "c0rrect-horse-battery"
LABELS: dict[str, object] = {"Cmd": ["/hello"], "Labels": {"team": "a"}}
ONE = image_of([[file(b"base", b"b" * 70_000)], [directory(b"d"), file(b"d/one", b"1")]], runtime=LABELS)
TWO = image_of([[file(b"base", b"b" * 70_000)], [file(b"two", b"2")]])


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants a password."""
    with Registry(tmp_path_factory.mktemp("locked"), user=USER, password=PASSWORD) as running:
        leaks.outlives_test(running.pid)
        yield running


@pytest.fixture
def two(mesocosm: CommandLine, tmp_path: Path) -> CommandLine:
    """The command on roots that have ONE as example.org/app:1 and TWO as example.org/app:2."""
    for number, image in enumerate((ONE, TWO), 1):
        path = f"oci:{write_layout(image, tmp_path / f'layout-{number}')}"
        mesocosm("pull", "-q", path).accepted()
        mesocosm("tag", path, f"example.org/app:{number}").accepted()
        mesocosm("rmi", path).accepted()
    return mesocosm


def piped(mesocosm: CommandLine, data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    """The command with bytes on its standard input, through a pipe."""
    return subprocess.run(
        mesocosm.words(*words),
        input=data,
        capture_output=True,
        timeout=60,
        env=mesocosm.environment,
        check=False,
    )


def on_terminal(
    mesocosm: CommandLine, question: bytes, answer: bytes, *words: str
) -> tuple[int, bytes, bool]:
    """The command on a terminal of its own: its status, what was seen, whether it hid what was typed."""
    pid, fd = pty.fork()
    if pid == 0:
        whole = mesocosm.words(*words)
        os.execve(whole[0], whole, mesocosm.environment)
    seen = b""
    while question not in seen:
        seen += os.read(fd, 4096)
    hidden = not termios.tcgetattr(fd)[3] & termios.ECHO
    os.write(fd, answer)
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while more := os.read(fd, 4096):
            seen += more
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(fd)
    return status, seen, hidden


def decoded(text: str) -> Any:  # noqa: ANN401
    return json.loads(text)


# --- registries -----------------------------------------------------------------------------------------


def test_a_login_that_nobody_looked_at_is_told(mesocosm: CommandLine, registry: Registry) -> None:
    done = piped(mesocosm, b"anything", "login", "-u", USER, "--password-stdin", registry.host)
    told = f"mesocosm: {registry.host} asks for no credentials; these are kept, but nobody has checked them\n"
    assert (done.returncode, done.stderr.decode()) == (0, told)


def test_login_push_pull_logout(two: CommandLine, locked: Registry) -> None:
    """Credentials are tried before they are kept, kept 0600, used, forgotten; and said nowhere."""
    config = two.root.parent / ".docker" / "config.json"
    target = f"{locked.host}/team/app:1"
    said = []

    wrong = piped(two, b"wrong\n", "login", "-u", USER, "--password-stdin", locked.host)
    assert (wrong.returncode, config.exists()) == (1, False)
    refused = two("push", "example.org/app:1", target)
    refused.refused("credentials|denied|unauthorized|authentic")

    right = piped(
        two, f"{PASSWORD}\n".encode(), "--debug", "login", "-u", USER, "--password-stdin", locked.host
    )
    assert right.returncode == 0, right.stderr
    assert f"mesocosm: {locked.host} knows you now" in right.stderr.decode()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert list(decoded(config.read_text())["auths"]) == [locked.host]

    pushed = two("--debug", "push", "example.org/app:1", target)
    assert pushed.accepted().strip() == ONE.digest
    raw = run(
        *("skopeo", "inspect", "--raw", "--tls-verify=false", "--creds", f"{USER}:{PASSWORD}"),
        f"docker://{target}",
    )
    assert sha256(raw.encode()) == ONE.digest
    pulled = two("image", "pull", target)
    assert pulled.accepted().strip() == ONE.digest

    assert two("logout", locked.host).accepted() == ""
    two("logout", locked.host).refused("no credentials are kept")
    after = two("pull", "-q", target)
    assert after.status == 1
    said += [wrong.stderr.decode(), refused.err, right.stderr.decode(), pushed.err, pulled.err, after.err]
    assert [text for text in said if PASSWORD in text] == []
    assert PASSWORD not in config.read_text()


def test_g10_no_password_on_the_command_line(mesocosm: CommandLine) -> None:
    """G-10: an argument vector is readable by every user; refused without repeating it."""
    refused = mesocosm("login", "-u", USER, "-p", PASSWORD, "registry.invalid").refused("password-stdin")
    assert PASSWORD not in refused
    mesocosm("login", "-u", USER, "registry.invalid").refused("no terminal to ask")
    mesocosm("login", "user:pw@host").refused("is not a registry")


def test_a_password_typed_is_not_shown(mesocosm: CommandLine, locked: Registry) -> None:
    words = ("login", "-u", USER, locked.host)
    status, seen, hidden = on_terminal(mesocosm, b"Password", f"{PASSWORD}\n".encode(), *words)
    assert (status, hidden, PASSWORD.encode() in seen) == (0, True, False), seen
    status, seen, _ = on_terminal(mesocosm, b"Password", b"\x03", *words)
    assert (status, seen.count(b"\n")) == (130, 1), seen


def test_what_another_repository_has_is_mounted(two: CommandLine, registry: Registry) -> None:
    first, second = f"{registry.host}/mount/first:1", f"{registry.host}/mount/second:1"
    two("push", "example.org/app:1", first).accepted()
    two("tag", "example.org/app:1", first).accepted()
    before = len(registry.requests())
    told = two("push", "--format", "json", "example.org/app:1", second).accepted().splitlines()
    requests = registry.requests()[before:]
    assert [line for line in requests if line.startswith(("PATCH", "PUT")) and "/blobs/" in line] == []
    mounts = [line for line in requests if "mount=sha256" in line and "from=mount/first" in line]
    assert len(mounts) == 3, requests
    events = [decoded(line) for line in told]
    assert [event["already"] for event in events if event["event"] == "progress" and event["finished"]] == [
        True
    ] * 3
    assert events[-1] == {
        "event": "pushed",
        "image": "example.org/app:1",
        "digest": ONE.digest,
        "target": second,
    }
    manifest = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{second}")
    assert sha256(manifest.encode()) == ONE.digest


def test_events_of_a_pull(mesocosm: CommandLine, registry: Registry, pushed_busybox: str) -> None:
    done = mesocosm("pull", "--format", "json", pushed_busybox, f"{registry.host}/none:1")
    events = [decoded(line) for line in done.out.splitlines()]
    assert done.status == 1
    assert {event["phase"] for event in events if event["event"] == "progress"} >= {
        "resolve",
        "download",
        "unpack",
    }
    assert [event["event"] for event in events if event["event"] != "progress"] == ["pulled", "failed"]
    assert events[-1]["code"] == "not-found"
    assert done.err.count("\n") == 1
    again = mesocosm("pull", pushed_busybox)
    assert "fetched" not in again.err


# --- archives -------------------------------------------------------------------------------------------


def test_saved_layouts_are_what_umoci_and_skopeo_read(two: CommandLine, tmp_path: Path) -> None:
    archive = tmp_path / "saved.tar"
    two("save", "-o", archive, "example.org/app:1", "example.org/app:2").accepted()
    layout = tmp_path / "unpacked"
    layout.mkdir()
    run("tar", "-C", layout, "-xf", archive)
    listed = decoded(run("umoci", "stat", "--json", "--image", f"{layout}:1"))
    assert len(listed["history"]) == 2
    run("umoci", "unpack", "--image", f"{layout}:2", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/two").read_text() == "2"
    run("skopeo", "copy", f"oci-archive:{archive}:1", f"oci:{tmp_path / 'copied'}:1")
    # Written twice, it is the same; a file that could not be finished is not there.
    again = piped(two, b"", "save", "example.org/app:1", "example.org/app:2")
    assert sha256(again.stdout) == sha256(archive.read_bytes())
    two("save", "-o", tmp_path / "none.tar", "example.org/none:1").refused("not on this host")
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["saved.tar"]


def test_docker_archives_are_plain(two: CommandLine, tmp_path: Path) -> None:
    """What tools of 2016 read: plain layers by name, no OCI documents; skopeo finds the same image."""
    archive = tmp_path / "docker.tar"
    two("image", "save", "--format", "docker-archive", "-o", archive, "example.org/app:1").accepted()
    names = run("tar", "--list", "--file", archive).split()
    assert "oci-layout" not in names
    config = run("skopeo", "inspect", "--config", "--raw", f"docker-archive:{archive}:example.org/app:1")
    assert decoded(config) == decoded(ONE.config.decode())
    run("skopeo", "copy", f"docker-archive:{archive}:example.org/app:1", f"oci:{tmp_path / 'copied'}:1")
    run("umoci", "unpack", "--image", f"{tmp_path / 'copied'}:1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/d/one").read_text() == "1"


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_names_in_archives_are_whole(two: CommandLine, form: str, tmp_path: Path) -> None:
    """Of a short name in RepoTags podman makes one of ``localhost``."""
    archive = tmp_path / "named.tar"
    two("tag", "example.org/app:1", "app:7").accepted()
    two("tag", "example.org/app:2", "example.org/other:7").accepted()
    two("save", "--format", form, "-o", archive, "app:7", "example.org/other:7").accepted()
    (listed,) = [decoded(run("tar", "--to-stdout", "-xf", archive, "manifest.json"))]
    assert [entry["RepoTags"] for entry in listed] == [["docker.io/library/app:7"], ["example.org/other:7"]]
    for name in ("app:7", "docker.io/library/app:7"):
        pulled = two("pull", "-q", f"{form}:{archive}:{name}").accepted()
        assert pulled == two("images", "-q", "app:7").accepted() or form == "docker-archive"
    two("pull", "-q", f"{form}:{archive}:app:8").refused("docker.io/library/app:7.*example.org/other:7")
    if form == "oci-archive":
        two("pull", "-q", f"{form}:{archive}:7").refused("means 2 images.*docker.io/library/app:7")


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_load_reads_what_skopeo_writes(
    mesocosm: CommandLine, busybox_oci: Layout, transport: str, tmp_path: Path
) -> None:
    """From a file, through a pipe, and compressed; then it runs."""
    archive = tmp_path / "image.tar"
    name = "example.org/busybox:1" if transport == "docker-archive" else "1"
    run("skopeo", "copy", busybox_oci.skopeo, f"{transport}:{archive}:{name}")
    first = mesocosm("load", "-q", "-i", archive).accepted().strip()
    packed = piped(mesocosm, gzip.compress(archive.read_bytes(), 1), "load", "-q")
    assert packed.stdout.decode().strip() == first, packed.stderr
    done = mesocosm("run", "--rm", "-q", first.removeprefix("sha256:"), "-c", "echo loaded")
    assert done.accepted() == "loaded\n"


def test_every_platform_of_what_is_one_image_for_another(
    mesocosm: CommandLine, registry: Registry, tmp_path: Path
) -> None:
    """It has one, whichever this host's is."""
    tar_of({"x": b"x"}, tmp_path / "root.tar")
    name, archive = f"{registry.host}/single:1", tmp_path / "saved.tar"
    foreign, every = ("--platform", "s390x"), ("--platform", "all")
    made = mesocosm("import", "-q", *foreign, tmp_path / "root.tar", name).accepted()
    mesocosm("push", "-q", *every, name).accepted()
    mesocosm("save", *every, "-o", archive, name).accepted()
    for words in (("pull", "-q", *every, name), ("pull", "-q", *every, f"oci-archive:{archive}")):
        mesocosm("image", "prune", "--all", "--force").accepted()
        assert mesocosm(*words).accepted() == made
    mesocosm("image", "prune", "--all", "--force").accepted()
    assert mesocosm("load", "-q", *every, "-i", archive).accepted() == f"{name}\n"
    assert mesocosm("images", "--format", "{{.Name}} {{.Platform}}").accepted() == f"{name} linux/s390x\n"


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_one_image_by_two_names_travels(two: CommandLine, form: str, tmp_path: Path) -> None:
    archive = tmp_path / "named.tar"
    two("tag", "example.org/app:1", "example.org/same:7").accepted()
    names = ["example.org/app:1", "example.org/same:7"]
    two("save", "--format", form, "-o", archive, *names).accepted()
    assert sorted(two("load", "-q", "-i", archive).accepted().split()) == names
    with open(archive) as stream:
        assert sorted(two("load", "-q", "-i", "-", stdin=stream).accepted().split()) == names
    assert two("pull", "-q", f"{form}:{archive}").accepted().startswith("sha256:")


def test_digests_and_failures_have_lines_of_their_own_on_a_terminal(
    mesocosm: CommandLine, tmp_path: Path
) -> None:
    """Beside bars, which are gone by then."""
    mesocosm.environment["TERM"] = "xterm"
    layout, none = write_layout(ONE, tmp_path / "layout"), tmp_path / "none"
    _, seen, _ = on_terminal(mesocosm, b"resolve", b"", "pull", f"oci:{layout}", f"oci:{none}")
    digest, failure = ONE.digest.encode(), f"mesocosm: oci:{none}: no such file or directory".encode()
    for line in (digest, failure):
        assert re.search(rb"(?:\x1b\[2K|\n)" + re.escape(line) + rb"\r\n", seen), seen


def test_load_prints_the_names_that_it_gave(two: CommandLine, tmp_path: Path) -> None:
    """And no others that the image has here."""
    two("tag", "example.org/app:1", "example.org/kept:1").accepted()
    for form in ("oci-archive", "docker-archive"):
        two("save", "--format", form, "-o", tmp_path / form, "example.org/app:1").accepted()
        assert two("load", "-q", "-i", tmp_path / form).accepted() == "example.org/app:1\n"


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_an_interrupt_ends_a_save_that_nobody_reads(form: str, mesocosm: CommandLine, tmp_path: Path) -> None:
    big = image_of([[file(b"big", os.urandom(1 << 20))]])
    path = f"oci:{write_layout(big, tmp_path / 'layout')}"
    mesocosm("pull", "-q", path).accepted()
    with subprocess.Popen(
        mesocosm.words("save", "--format", form, path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=mesocosm.environment,
    ) as save:
        assert save.stdout is not None
        assert save.stdout.read(1), "it writes, and the pipe is full soon"
        save.send_signal(signal.SIGINT)
        assert save.wait(PATIENCE) == 130


def test_a_store_that_is_mounted_read_only_can_be_looked_at(two: CommandLine, tmp_path: Path) -> None:
    """What would write says so; what is seen is what is seen of a store that can be written."""
    looks = (
        *(("images",), ("images", "--format", "json"), ("history", "example.org/app:1")),
        *(("image", "inspect", "example.org/app:2"), ("image", "tree", "example.org/app:1"), ("image", "du")),
        ("image", "diff", "example.org/app:1", "example.org/app:2"),
        ("save", "-o", tmp_path / "saved.tar", "example.org/app:1"),
    )
    before = [two(*words).accepted() for words in looks]
    saved = (tmp_path / "saved.tar").read_bytes()
    run("mount", "--bind", two.root, two.root)
    try:
        run("mount", "-o", "remount,bind,ro", two.root)
        after = [two(*words).accepted() for words in looks]
        two("tag", "example.org/app:1", "example.org/app:3").refused("Read-only.*mount it writable")
    finally:
        run("umount", two.root)
    assert [_timeless(text) for text in after] == [_timeless(text) for text in before]
    assert (tmp_path / "saved.tar").read_bytes() == saved


def _timeless(text: str) -> str:
    return re.sub(r"(less than a|\d+) seconds? ago", "", text).replace(" ", "")


def test_i20_hostile_archives_add_nothing(mesocosm: CommandLine, tmp_path: Path) -> None:
    """I-20: names in an archive are looked up in the archive alone; its honest twin loads."""
    canary = tmp_path / "canary"
    canary.write_bytes(ONE.config)
    honest = docker_archive(ONE, tmp_path / "honest.tar")
    config = {"manifest.json": b"", "config.json": ONE.config, "l.tar": b""}

    def with_manifest(name: str, entry: dict[str, object], links: dict[str, str] | None = None) -> Path:
        document = json.dumps([{"RepoTags": ["example.org/evil:1"], **entry}]).encode()
        return tar_of({**config, "manifest.json": document}, tmp_path / name, links)

    hostile = [
        with_manifest(
            "config.tar", {"Config": f"../../../../../../../..{canary}", "Layers": ["l.tar", "l.tar"]}
        ),
        with_manifest("absolute.tar", {"Config": "config.json", "Layers": ["/etc/shadow", "/etc/shadow"]}),
        with_manifest(
            "link.tar", {"Config": "config.json", "Layers": ["x.tar", "x.tar"]}, {"x.tar": "/etc/passwd"}
        ),
    ]
    for path in hostile:
        mesocosm("load", "-q", "-i", path).refused()
        assert piped(mesocosm, path.read_bytes(), "load", "-q").returncode == 1
    escaping = json.dumps([{"Config": "config.json", "RepoTags": ["\x1b[2J:1"], "Layers": []}]).encode()
    answer = mesocosm("load", "-q", "-i", tar_of({**config, "manifest.json": escaping}, tmp_path / "tag.tar"))
    assert answer.status == 1
    assert "\x1b" not in answer.err
    assert mesocosm("images", "-q").accepted() == ""
    assert mesocosm("load", "-q", "-i", honest).accepted() == "example.org/app:1\n"


def test_an_image_of_a_tarball_runs(mesocosm: CommandLine, busybox_root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    run("tar", "-C", busybox_root, "-cf", archive, ".")
    words = ("import", "-q", "-c", 'CMD ["echo", "imported"]', "-c", "ENV A=b", "-m", "by hand")
    digest = mesocosm(*words, archive, "example.org/root:1").accepted().strip()
    assert mesocosm("run", "--rm", "-q", "example.org/root:1").accepted() == "imported\n"
    shown = decoded(mesocosm("image", "inspect", "example.org/root:1").accepted())[0]
    assert shown["Digest"] == digest
    assert shown["Config"] == {"Cmd": ["echo", "imported"], "Env": ["A=b"]}
    assert shown["History"][0]["comment"] == "by hand"
    through = piped(
        mesocosm, gzip.compress(archive.read_bytes(), 1), "import", "-q", "-", "example.org/root:2"
    )
    assert through.returncode == 0, through.stderr
    assert mesocosm("run", "--rm", "-q", "example.org/root:2", "echo", "2").accepted() == "2\n"
    assert mesocosm("image", "diff", "example.org/root:1", "example.org/root:2").accepted() == ""
    mesocosm("import", "-c", "RUN rm -rf /", archive).refused("not understood")
    assert piped(mesocosm, b"", "import", "-").returncode == 1


# --- one image, otherwise -------------------------------------------------------------------------------


@pytest.mark.parametrize(("compression", "suffix"), [("zstd", "+zstd"), ("none", ""), ("gzip", "+gzip")])
def test_converted_images_are_the_same_files(
    two: CommandLine, compression: str, suffix: str, tmp_path: Path
) -> None:
    made = two(
        "image", "convert", "-q", "--compression", compression, "example.org/app:1", "example.org/app:c"
    )
    digest = made.accepted().strip()
    assert (digest == ONE.digest) is (compression == "gzip")
    shown = decoded(two("image", "inspect", "example.org/app:c").accepted())[0]
    types = {layer["mediaType"] for layer in shown["Manifest"]["layers"]}
    assert types == {f"application/vnd.oci.image.layer.v1.tar{suffix}"}
    assert shown["RootFS"]["Layers"] == decoded(ONE.config.decode())["rootfs"]["diff_ids"]
    assert two("image", "diff", "example.org/app:1", "example.org/app:c").accepted() == ""
    two("save", "-o", tmp_path / "c.tar", "example.org/app:c").accepted()
    run("skopeo", "copy", f"oci-archive:{tmp_path / 'c.tar'}:c", f"dir:{tmp_path / 'copied'}")
    again = two(
        "image", "convert", "-q", "--compression", compression, "example.org/app:1", "example.org/x:2"
    )
    assert again.accepted().strip() == digest


def flip(path: Path) -> None:
    """Change one bit in the middle of a file, keeping its size and times."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_verify_tells_what_is_here_in_another_form(mesocosm: CommandLine, tmp_path: Path) -> None:
    """Made ready as directory trees on a host that mounts EROFS files: nothing is absent, and it starts."""
    path = f"oci:{write_layout(ONE, tmp_path / 'layout')}"
    mesocosm("pull", "-q", "--backend", "overlay", path).accepted()
    images = mesocosm.root / "images"
    assert os.listdir(images / "layers") == []
    sound = mesocosm("image", "verify", path).accepted()
    assert re.fullmatch(rf"{path}: sound \(\d+ blobs and layers\); (.*)\n", sound)
    assert sound.endswith("; 2 layers only as directory trees: made anew when it is started here\n")
    (finding,) = decoded(mesocosm("image", "verify", "--format", "json", path).accepted())
    assert (finding["absent"], set(finding["only_as"].values())) == ([], {"tree"})
    gone = next((images / "trees").iterdir())
    shutil.rmtree(gone)
    only = mesocosm("image", "verify", "--check-only", path)
    assert (only.status, only.out) == (1, f"{path}: absent sha256:{gone.name}: still so\n")


def test_names_in_refusals_are_as_people_write_them(two: CommandLine, registry: Registry) -> None:
    two("tag", "example.org/app:1", "alias").accepted()
    digest = two("images", "-q", "alias").accepted().strip()
    two("rmi", digest).refused(r"has several names: alias:latest, example\.org/app:1 \(name one of them")
    target = f"{registry.host}/app@{digest}"
    two("push", "alias", target).refused(f"^mesocosm: {target} is no name to push by")
    two("inspect", "alias").refused(r"no container 'alias' \(.*; mesocosm image inspect tells of images\)")


def test_verify_calls_an_image_as_it_was_asked_for(two: CommandLine) -> None:
    two("tag", "example.org/app:1", "alias").accepted()
    for name in ("alias", "example.org/app:1"):
        assert two("image", "verify", name).accepted().startswith(f"{name}: sound")
    assert "alias:latest: sound" in two("image", "verify").accepted()


def test_flipped_bits_are_found_and_brought_back(
    mesocosm: CommandLine, registry: Registry, pushed_busybox: str
) -> None:
    mesocosm("pull", "-q", pushed_busybox).accepted()
    assert mesocosm("image", "verify").accepted().startswith(f"{pushed_busybox}: sound")
    shown = decoded(mesocosm("image", "inspect", pushed_busybox).accepted())[0]
    layer = shown["Layers"][0]
    images = mesocosm.root / "images"
    kept = {
        layer["digest"]: images / "blobs/sha256" / layer["digest"].partition(":")[2],
        shown["Id"]: images / "blobs/sha256" / shown["Id"].partition(":")[2],
        layer["diff_id"]: next(images.glob(f"*/{layer['diff_id'].partition(':')[2]}/layer.erofs")),
    }
    for digest, path in kept.items():
        flip(path)
        only = mesocosm("image", "verify", "--check-only", "-q", pushed_busybox)
        assert only.status == 1
        assert only.out == f"{pushed_busybox}: damaged {digest}: still so\n"
        repaired = mesocosm("image", "verify", "-q", pushed_busybox)
        assert repaired.accepted() == f"{pushed_busybox}: damaged {digest}: brought back\n"
        assert mesocosm("image", "verify", "-q").accepted() == ""
    flip(kept[layer["diff_id"]])
    kept[layer["digest"]].unlink()
    assert "brought back" in mesocosm("image", "verify", "-q").accepted()
    assert mesocosm("run", "--rm", "-q", pushed_busybox, "-c", "echo still").accepted() == "still\n"


def test_what_no_source_has_is_told(two: CommandLine, tmp_path: Path) -> None:
    flip(two.root / "images/blobs/sha256" / sha256(ONE.layers[0]).partition(":")[2])
    done = two("image", "verify", "--format", "json", "example.org/app:1")
    assert done.status == 1
    found = decoded(done.out)[0]
    assert found["damaged"] == [sha256(ONE.layers[0])]
    assert "no source has it" in found["failure"]
    two("save", "-o", tmp_path / "x.tar", "example.org/app:1").refused("not kept on this host")


def test_a_diff_says_what_changed(mesocosm: CommandLine, tmp_path: Path) -> None:
    old = image_of([[file(b"same", b"s"), file(b"content", b"1"), file(b"mode", b"m"), file(b"gone", b"g")]])
    new = image_of(
        [
            [
                file(b"same", b"s"),
                file(b"content", b"2"),
                file(b"mode", b"m", mode=0o755),
                file(b"gone", b"g"),
            ],
            [file(b".wh.gone", b""), directory(b"new"), file(b"new/er", b"n")],
        ]
    )
    for name, image in (("old", old), ("new", new)):
        mesocosm("pull", "-q", f"oci:{write_layout(image, tmp_path / name)}").accepted()
    names = [f"oci:{tmp_path / name}" for name in ("old", "new")]
    assert mesocosm("image", "diff", "-v", *names).accepted().splitlines() == [
        "C /content  (content)",
        "D /gone",
        "C /mode  (mode)",
        "A /new",
        "A /new/er",
    ]
    short = mesocosm("image", "diff", "--format", "{{.Letter}}{{.After}}", *names).accepted()
    assert short.split() == ["C1", "D0", "C1", "A0", "A1"]


# --- looking --------------------------------------------------------------------------------------------


def test_lists_filters_and_formats(two: CommandLine) -> None:
    assert two("images", "--format", "{{.Repository}}:{{.Tag}}").accepted().split() == [
        "example.org/app:2",
        "example.org/app:1",
    ]
    assert two("image", "ls", "-q", "--filter", "label=team=a").accepted().split() == [ONE.digest]
    assert two("images", "-q", "--filter", "reference=*:2").accepted().split() == [TWO.digest]
    assert two("images", "-q", "example.org/app").accepted().split() == [TWO.digest, ONE.digest]
    assert two("images", "-q", "--filter", "dangling=true").accepted() == ""
    table = two("images", "--format", r"table {{.Tag}}\t{{.ID}}").accepted().splitlines()
    assert table[0].split() == ["TAG", "ID"]
    assert len(table) == 3
    listed = decoded(two("images", "--format", "json").accepted())
    assert [image["digest"] for image in listed] == [TWO.digest, ONE.digest]
    two("images", "--filter", "colour=red").refused("reference, label")
    two("images", "--format", "{{.Nope}}").refused("there is no Nope")


def test_everything_known_of_an_image(two: CommandLine) -> None:
    assert two("image", "inspect", "--manifest", "example.org/app:1").accepted() == ONE.manifest.decode()
    assert two("image", "inspect", "--config", ONE.digest).accepted() == ONE.config.decode()
    template = "{{.Id}} {{.Config.Cmd}} {{index .Config.Labels `team`}} {{.Os}} {{join .RepoTags `,`}}"
    assert two("image", "inspect", "-f", template, "x").status == 2
    told = two("image", "inspect", "--format", template, "example.org/app:1").accepted()
    assert told == f"{sha256(ONE.config)} [/hello] a linux example.org/app:1\n"
    steps = decoded(two("history", "--format", "json", "example.org/app:1").accepted())
    assert [step["created_by"] for step in steps] == ["step 1", "step 0"]
    assert [bool(step["layer"]) for step in steps] == [True, True]
    assert two("history", "--format", "{{.CreatedBy}}", "example.org/app:1").accepted() == "step 1\nstep 0\n"


def test_who_shares_and_who_holds(two: CommandLine) -> None:
    usage = decoded(two("image", "du", "--format", "json").accepted())
    shared = [layer for layer in usage["by_layer"] if len(layer["images"]) == 2]
    assert usage["shared"] == shared[0]["size"]
    assert usage["layers"] == sum(layer["size"] for layer in usage["by_layer"])
    two("image", "pin", "example.org/app:2").accepted()
    assert two("image", "du", "--format", "{{.Name}}={{.HeldBy}}").accepted().split() == [
        "example.org/app:2=pin",
        "example.org/app:1=-",
    ]
    lines = two("image", "tree", "example.org/app:1").accepted().splitlines()
    assert len(lines) == 3
    assert "shared with example.org/app:2" in lines[2]
    assert "shared" not in lines[1]
    assert "held by pin" in two("image", "tree").accepted()
    two("image", "unpin", "example.org/app:2").accepted()


# --- removing -------------------------------------------------------------------------------------------


def test_pins_and_names_protect(two: CommandLine) -> None:
    two("image", "pin", "example.org/app:1").accepted()
    two("rmi", "example.org/app:1").refused("pinned")
    plan = two("image", "prune", "--all", "--dry-run")
    assert plan.accepted().split() == [TWO.digest]
    assert f"example.org/app:2 ({TWO.digest[7:19]}): would be removed" in plan.err
    assert f"example.org/app:1 ({ONE.digest[7:19]}) stays: it is pinned" in plan.err
    assert two("images", "-q").accepted().split() == [TWO.digest, ONE.digest]
    nothing = two("image", "prune")
    assert (nothing.accepted(), nothing.err) == ("", "mesocosm: nothing to remove\n")
    gone = decoded(two("image", "prune", "-a", "-f", "--format", "json").accepted())
    assert gone["images"] == [TWO.digest]
    assert two("images", "-q").accepted().split() == [ONE.digest]
    two("image", "unpin", "example.org/app:1").accepted()
    two("image", "prune", "--older", "1h").accepted()
    assert two("images", "-q").accepted().split() == [ONE.digest]
    two("image", "prune", "--budget", "0").accepted()
    assert two("images", "-q").accepted() == ""
    files = [path for path in (two.root / "images/blobs/sha256").iterdir()]
    assert files == []


def test_prune_asks_on_a_terminal(two: CommandLine) -> None:
    ask = ("image", "prune", "--all")
    for answer, status, left in ((b"\x03", 130, 2), (b"n\n", 1, 2), (b"y\n", 0, 0)):
        ended, seen, _ = on_terminal(two, b"[y/N]", answer, *ask)
        assert (ended, len(two("images", "-q").accepted().split())) == (status, left), seen
        assert b"2 images, 3 layers" in seen


def test_what_a_container_has_stays(mesocosm: CommandLine, pushed_busybox: str) -> None:
    container = mesocosm("run", "-d", "-q", pushed_busybox, "-c", "sleep 1000").accepted().strip()
    mesocosm("rmi", pushed_busybox).refused("used by container")
    assert mesocosm("image", "prune", "-a", "-f").accepted() == ""
    assert container[:12] in mesocosm("image", "du").accepted()
    mesocosm("rm", "-f", container).accepted()
    mesocosm("rmi", pushed_busybox).accepted()


@pytest.mark.parametrize("verb", ["pull", "push", "tag", "save", "load", "import", "history"])
def test_short_forms_are_the_same_verbs(mesocosm: CommandLine, verb: str) -> None:
    short, long = mesocosm(verb, "--help").accepted(), mesocosm("image", verb, "--help").accepted()
    assert short.partition("\n")[2] == long.partition("\n")[2]
    assert len(short.splitlines()) > 5


def test_verbs_that_are_not_there(mesocosm: CommandLine) -> None:
    mesocosm("image", "psuh", "x").refused("did you mean push")
    assert "prune" in mesocosm("image").accepted()


# --- what registries have -------------------------------------------------------------------------------


def test_tags_and_removal_in_a_registry(two: CommandLine, registry: Registry) -> None:
    """Removed there is not removed here; a manifest goes with all its tags, and only when that is said."""
    name = f"{registry.host}/remote/app"
    for tag in ("1", "2"):
        two("push", "-q", "example.org/app:1", f"{name}:{tag}").accepted()
    assert two("image", "tags", name).accepted().split() == ["1", "2"]
    assert decoded(two("image", "tags", "--format", "json", name).accepted()) == ["1", "2"]
    two("image", "rm", "--remote", name).refused("says no tag")
    two("image", "rm", "--remote", f"{name}:1").refused("no single tags .*@DIGEST")
    assert two("image", "tags", name).accepted().split() == ["1", "2"]
    pinned = f"{name}@{ONE.digest}"
    assert two("image", "rm", "--remote", pinned).accepted().strip() == pinned
    assert two("image", "tags", name).accepted() == ""
    assert "example.org/app" in two("images").accepted()
    two("image", "tags", f"{registry.host}/remote/none").refused("has no|unknown")
    two("image", "tags", f"{name}:1").refused("is one image")
    two("image", "tags", "oci:/somewhere").refused("not a name in a registry")
    assert two("image", "referrers", f"{name}@{ONE.digest}").accepted().split()[0] == "DIGEST"


def test_every_platform_is_tagged_shown_and_checked(mesocosm: CommandLine, tmp_path: Path) -> None:
    images = {one: image_of([[file(b"who", one.encode())]], architecture=one) for one in ("amd64", "arm64")}
    write_index_layout(images, tmp_path / "layout")
    source, name = f"oci:{tmp_path / 'layout'}", "example.org/several:1"
    mesocosm("pull", "-q", "--platform", "all", source).accepted()
    mesocosm("tag", "--platform", "all", source, name).accepted()
    mesocosm("rmi", "--platform", "all", source).accepted()
    every = ("--platform", "all", name)
    found = decoded(mesocosm("image", "inspect", *every).accepted())
    assert [one["Architecture"] for one in found] == ["amd64", "arm64"]
    digests = mesocosm("image", "inspect", "--format", "{{.Digest}}", *every).accepted().split()
    assert digests == [one.digest for one in images.values()]
    manifests = mesocosm("image", "inspect", "--manifest", *every).accepted()
    assert manifests.encode() == b"".join(one.manifest for one in images.values())
    steps = decoded(mesocosm("history", "--format", "json", *every).accepted())
    assert {key: len(value) for key, value in steps.items()} == {"linux/amd64": 1, "linux/arm64": 1}
    assert mesocosm("history", "-q", *every).accepted().count("sha256:") == 2
    assert "linux/arm64:\n" in mesocosm("history", *every).accepted()
    verified = mesocosm("image", "verify", *every).accepted()
    assert verified.splitlines() == [
        f"{name} for linux/amd64: sound (4 blobs and layers)",
        f"{name} for linux/arm64: sound (4 blobs and layers)",
    ]
    mesocosm("image", "verify", "--platform", "linux/s390x", name).refused("is on this host for")


def test_referrers_by_the_command_line(two: CommandLine, registry: Registry, tmp_path: Path) -> None:
    """Listed, sent along, refused where the form cannot hold them."""
    name = f"{registry.host}/refer/cli:1"
    two("push", "-q", "--referrers", "example.org/app:1", name).accepted()
    two("pull", "-q", "--referrers", name).accepted()
    two("save", "--referrers", "-o", str(tmp_path / "saved.tar"), name).accepted()
    two("save", "--referrers", "--format", "docker-archive", name).refused("holds images alone")
