"""Bad input to the commands of images: one line that says what, where and what to do; nothing left behind."""

from __future__ import annotations

import gzip
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attacks.commandline import Answer, CommandLine
from fixtures.isolated import run as isolated
from mesocosm.linux import mounts, syscalls
from provisions import docker_archive, image_of, tar_of
from registry_fixtures import write_layout
from tarballs import file

SCRIPT = Path(__file__).parent / "interrupted_command.py"
IMAGE = image_of([[file(b"a", os.urandom(300_000))], [file(b"b", b"b")]])
NAME = "example.org/app:1"


@pytest.fixture
def here(mesocosm: CommandLine, tmp_path: Path) -> Path:
    """A directory with the image in every form, whole and not; the store has it as NAME."""
    layout = write_layout(IMAGE, tmp_path / "layout")
    mesocosm("pull", "-q", f"oci:{layout}").accepted()
    mesocosm("tag", f"oci:{layout}", NAME).accepted()
    mesocosm("save", "-o", tmp_path / "whole.tar", NAME).accepted()
    whole = (tmp_path / "whole.tar").read_bytes()
    docker = docker_archive(IMAGE, tmp_path / "docker.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:200_000])
    (tmp_path / "cut-docker.tar").write_bytes(docker[:200_000])
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(whole)[:200_000])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("This is no image.\n")
    (tmp_path / "noise").write_bytes(b"\xd8\xb6q" * 50_000)
    (tmp_path / "folder").mkdir()
    tar_of({"x": b"x"}, tmp_path / "root.tar")
    tar_of({"oci-layout": b"{}"}, tmp_path / "layout.tar")
    return tmp_path


def left(mesocosm: CommandLine, here: Path) -> list[str]:
    """What lies about in the store, and beside what was to be written."""
    images = mesocosm.root / "images"
    found = [f"{name}/{entry}" for name in ("ingest", "trash") for entry in os.listdir(images / name)]
    return found + [path.name for path in here.glob(".*.tar.*")] + [path.name for path in here.glob("out*")]


REFUSED = [
    ("load -i cut.tar", 1, "cut.tar is truncated"),
    ("load -i cut-docker.tar", 1, "cut-docker.tar is truncated"),
    ("load -i cut.tar.gz", 1, r"cut.tar.gz: gzip stream ends early \(the source is truncated\)"),
    ("load -i empty", 1, "empty"),
    ("load -i text", 1, r"text: tar: the file is shorter than any archive \(is it one\?\)"),
    (
        "load -i noise",
        1,
        r"noise: tar header: (no|wrong) checksum \(it is no tar archive, or a damaged one\)",
    ),
    ("load -i folder", 1, "folder is not a regular file"),
    ("load -i none", 1, "no file none"),
    ("load -i root.tar", 1, r"root.tar has neither manifest.json nor repositories \(mesocosm import takes"),
    ("pull -q docker-archive:layout.tar", 1, r"nor repositories \(it is an OCI layout: oci-archive:PATH\)"),
    ("load nonsense", 2, "unexpected extra argument"),
    ("import cut.tar example.org/x:1", 1, "cut.tar|truncated"),
    ("import cut.tar.gz example.org/x:1", 1, "cut.tar.gz: gzip stream ends early"),
    ("import empty example.org/x:1", 1, "empty is empty"),
    ("import text example.org/x:1", 1, "org/x:1: layer sha256:.*the file is shorter than any archive"),
    ("import noise example.org/x:1", 1, "org/x:1: layer sha256:.*it is no tar archive"),
    ("import folder example.org/x:1", 1, "folder is not a regular file"),
    ("import root.tar BAD", 1, "repository names are lower case"),
    ("image inspect host", 1, r"host is no image that is kept here \(such roots are run as they are\)"),
    ("save -o out.tar dir:folder", 1, r"folder is no image that is kept here \(such roots are run"),
    ("import -c NONSENSE root.tar", 1, "'NONSENSE' is not understood"),
    ("import", 2, "missing argument 'FILE'"),
    ("pull -q tarball:empty", 1, "empty is empty"),
    ("pull -q tarball:noise", 1, "tarball:.*noise: layer sha256:.*it is no tar archive"),
    ("pull -q oci-archive:empty", 1, "archive .*empty is empty"),
    ("pull -q docker-archive:empty", 1, "archive .*empty is empty"),
    ("pull -q none", 1, "none has nothing to pull"),
    ("pull -q --platform bogus x", 1, r"platform 'bogus' is malformed .*OS/ARCH\[/VARIANT\], or arm64"),
    ("pull -q tarball:cut.tar.gz", 1, "cut.tar.gz: gzip stream ends early"),
    ("pull -q oci:text", 1, "text"),
    ("pull -q aci:text", 1, "no App Container image"),
    ("pull -q erofs:text", 1, "no EROFS image"),
    ("pull -q dir:folder", 1, "nothing to pull"),
    ("pull -q ::", 1, "not a repository name"),
    ("pull --limit-rate 10k x", 1, r"--limit-rate: 10 KiB a second is too slow \(at least 16k\)"),
    ("pull -q oci-archive:docker.tar", 1, r"no file 'oci-layout' \(docker-archive:PATH is what docker save"),
    ("pull -q oci-archive:root.tar", 1, r"no file 'oci-layout' \(it is no OCI layout\)"),
    (f"save -o none/out.tar {NAME}", 1, "'none/out.tar': there is no directory none"),
    (f"save -o folder {NAME}", 1, "'folder': that is a directory"),
    (f"save -o /proc/out.tar {NAME}", 1, "/proc/out.tar: "),
    ("save -o out.tar nothere:1", 1, r"nothere:1 is not on this host \(mesocosm pull nothere:1\)"),
    (f"save --format nonsense {NAME}", 2, "'nonsense' is not one of"),
    (f"tag {NAME}", 2, "missing argument 'NAME'"),
    (f"tag {NAME} x@sha256:12", 1, "not a digest"),
    (f"image convert --compression lz4 {NAME} x:1", 2, "'lz4' is not one of"),
    ("image scrub --rate 0", 1, "--rate: 0 bytes a second would never end"),
    ("image scrub --for x", 1, "--for: 'x' is not a duration"),
    ("image prune --budget -1", 1, "not a size"),
    ("image prune --above 50% --down-to 80%", 1, "more than --above"),
    (f"image diff {NAME} nothere:1", 1, "nothere:1 is not on this host"),
    ("image verify nothere:1", 1, "nothere:1 is not on this host"),
    ("image rm nothere:1", 1, "nothere:1 is not on this host"),
    ("image nonsense", 2, "no command 'nonsense'"),
    ("image ls --nonsense", 2, "no such option"),
    ("images --filter x", 1, "KEY=VALUE"),
    ("images --format {{.X}}", 1, "there is no X"),
    ("images --format tabel", 1, "'tabel' shows nothing .*table, json"),
    ("images --filter dangling=maybe", 1, "dangling=maybe is neither true nor false"),
    (f"image inspect --format table {NAME}", 1, "'table' shows nothing"),
    (f"image inspect --manifest --config {NAME}", 1, "two documents"),
    ("login a b", 2, "unexpected extra argument"),
    ("login -u x -p y example.org", 1, "does not belong on the command line"),
    ("logout example.org", 1, "no credentials are kept for example.org"),
]


def test_one_line_and_nothing_left(mesocosm: CommandLine, here: Path) -> None:
    before = mesocosm("images", "-q").accepted()
    for line, status, pattern in REFUSED:
        done = mesocosm(*line.split(), cwd=here)
        words = done.refused(pattern)
        assert done.status == status, words
        assert len(words) < 400 and "Traceback" not in words, words
        assert left(mesocosm, here) == [], line
    assert mesocosm("images", "-q").accepted() == before


def test_a_list_that_is_none_is_told_how_one_is_written(mesocosm: CommandLine, here: Path) -> None:
    words = ("import", "-c", "CMD [/bin/sh]", "root.tar")
    mesocosm(*words, cwd=here).refused(r"'CMD \[/bin/sh\]': that is no JSON list of words, as in \[\"/bin/sh")


def test_what_came_through_a_pipe_is_called_standard_input(mesocosm: CommandLine, here: Path) -> None:
    """The file of ours that it lies in meanwhile is nobody's business."""
    for line, pattern in (
        ("load -i -", "^mesocosm: archive standard input has neither"),
        ("load", "^mesocosm: archive standard input has neither"),
        ("import -", "^mesocosm: imported from standard input: layer sha256:.*the file is shorter"),
    ):
        with open(here / ("root.tar" if line.startswith("load") else "text")) as stream:
            words = mesocosm(*line.split(), stdin=stream).refused(pattern)
        assert "spool" not in words
    (here / "root.tar.gz").write_bytes(gzip.compress((here / "root.tar").read_bytes()))
    words = mesocosm("load", "-i", "root.tar.gz", cwd=here).refused("archive root.tar.gz has neither")
    assert "spool" not in words


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("load", "archive is empty"),
        ("import -", "archive is empty"),
        ("login -u x --password-stdin example.org", "standard input holds no password"),
        ("login example.org", "who is logging in"),
    ],
)
def test_a_closed_standard_input_is_an_empty_one(mesocosm: CommandLine, line: str, pattern: str) -> None:
    words = shlex.join(mesocosm.words(*line.split()))
    done = subprocess.run(["sh", "-c", f"{words} <&-"], capture_output=True, text=True, timeout=60)
    assert Answer(done.returncode, done.stdout, done.stderr).refused(pattern)


def test_prune_without_any_input_asks_nobody(mesocosm: CommandLine) -> None:
    words = shlex.join(mesocosm.words("image", "prune"))
    done = subprocess.run(["sh", "-c", f"{words} <&-"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "mesocosm: nothing to remove\n")


@pytest.mark.parametrize("line", ["images", "image inspect NAME", "save NAME", "--help"])
def test_a_full_disk_behind_standard_output(mesocosm: CommandLine, here: Path, line: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            mesocosm.words(*line.replace("NAME", NAME).split()),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "mesocosm: standard output: No space left on device\n")


def test_the_honest_twins(mesocosm: CommandLine, here: Path) -> None:
    assert NAME in mesocosm("load", "-q", "-i", "whole.tar", cwd=here).accepted().splitlines()
    assert NAME in mesocosm("load", "-q", "-i", "docker.tar", cwd=here).accepted().splitlines()
    assert mesocosm("import", "-q", "root.tar", "example.org/root:1", cwd=here).accepted()
    assert "all done" in mesocosm("image", "scrub", "--rate", "1g").accepted()
    assert left(mesocosm, here) == []


def test_a_full_disk_beside_the_store(mesocosm: CommandLine, here: Path) -> None:
    """Where an archive does not fit, its name is told and nothing of it stays."""
    small = here / "small"
    small.mkdir()

    def save() -> tuple[str, list[str]]:
        fd = mounts.new_mount("tmpfs", [("size", "64k")])
        mounts.attach(fd, os.open(small, os.O_PATH))
        words = mesocosm("save", "-o", small / "out.tar", NAME).refused(
            "small/out.tar: No space left on device"
        )
        return words, os.listdir(small)

    words, there = isolated(save, flags=syscalls.CLONE_NEWNS)
    assert there == [] and "Traceback" not in words


def test_another_users_store(mesocosm: CommandLine, here: Path) -> None:
    os.chown(mesocosm.root / "images", 1000, 1000)
    for words in (("images",), ("pull", "-q", f"oci:{here}/layout"), ("rmi", NAME), ("image", "verify")):
        mesocosm(*words).refused(r"images belong to user 1000 \(.*chown")
    assert mesocosm("run", "--rm", NAME, "x").status == 125
    os.chown(mesocosm.root / "images", 0, 0)
    assert NAME in mesocosm("images").accepted()


def test_a_store_that_cannot_be_written(mesocosm: CommandLine, here: Path) -> None:
    def look() -> list[str]:
        root = str(mesocosm.root)
        fd = mounts.clone_tree(root)
        mounts.set_attributes(fd, mounts.ATTRIBUTES["ro"])
        mounts.attach(fd, os.open(root, os.O_PATH))
        lines = (f"pull -q oci:{here}/layout", f"tag {NAME} x:1", f"rmi {NAME}", "load -q -i whole.tar")
        return [mesocosm(*line.split(), cwd=here).refused("Read-only file system") for line in lines]

    assert len(isolated(look, flags=syscalls.CLONE_NEWNS)) == 4


@pytest.mark.parametrize("used", [False, True], ids=["without containers", "with containers"])
def test_a_root_that_cannot_be_written(used: bool, mesocosm: CommandLine, here: Path) -> None:
    """What only looks works; what would write says what to do, and leaves nothing to be mended."""
    if used:
        (mesocosm.root / "containers").mkdir(mode=0o700)

    def look() -> tuple[list[str], list[str]]:
        root = str(mesocosm.root)
        fd = mounts.clone_tree(root)
        mounts.set_attributes(fd, mounts.ATTRIBUTES["ro"])
        mounts.attach(fd, os.open(root, os.O_PATH))
        refused = "Read-only file system .*mount it writable"
        assert mesocosm("run", "--rm", NAME, "true").status == 125
        told = [mesocosm(*line.split()).refused(refused) for line in (f"rmi {NAME}", "image prune -f")]
        told += [mesocosm(verb, NAME, "true").err for verb in ("run", "create")]
        shown = [mesocosm("explain", NAME, "true"), mesocosm("ps", "-a"), mesocosm("images")]
        return told, [one.err for one in shown if one.accepted()]

    told, complaints = isolated(look, flags=syscalls.CLONE_NEWNS)
    assert all("Read-only file system" in one and "mount it writable" in one for one in told), told
    assert complaints == ["", "", ""]
    assert os.listdir(mesocosm.runtime / "containers") == []


WORDS = {
    "pull": "pull -q oci:layout",
    "load": "load -q -i docker.tar",
    "import": "import -q root.tar example.org/root:1",
    "rm": f"rmi {NAME}",
    "prune": "image prune --all --force",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("verb", WORDS)
def test_an_interrupt_at_any_moment(verb: str, mesocosm: CommandLine, here: Path) -> None:
    """At each named point: 130 or done, no word, no half archive; the store is sound, the next try works."""
    words = mesocosm.words(*WORDS[verb].split())[1:]
    points = here / "points"

    def again() -> None:
        mesocosm("image", "prune", "--all", "--force").accepted()
        if verb not in ("pull", "load", "import"):
            mesocosm("load", "-q", "-i", here / "whole.tar").accepted()

    again()
    subprocess.run(
        [sys.executable, SCRIPT, "--list", points, *words], check=True, cwd=here, stdout=subprocess.DEVNULL
    )
    passed = list(dict.fromkeys(points.read_text().splitlines()))
    assert passed
    for point in passed:
        again()
        done = subprocess.run(
            [sys.executable, SCRIPT, "SIGINT", point, *words],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=here,
            check=False,
        )
        assert done.returncode in (0, 128 + signal.SIGINT), (point, done)
        assert done.returncode == 0 or done.stderr == "", (point, done.stderr)
        assert mesocosm("image", "verify", "--check-only").status == 0, point
        if verb in ("pull", "load", "import"):
            mesocosm(*WORDS[verb].split(), cwd=here).accepted()
        mesocosm("image", "prune", "--all", "--force").accepted()
        assert left(mesocosm, here) == [], point


@pytest.mark.parametrize("words", ["save -o out.tar", "image convert --compression zstd"])
def test_an_interrupt_at_any_time(words: str, mesocosm: CommandLine, here: Path) -> None:
    """An archive is whole or not there, and nothing lies beside it or in the store."""
    target = () if "save" in words else ("example.org/app:zstd",)
    statuses = set()
    for step in range(16):
        with subprocess.Popen(
            mesocosm.words(*words.split(), NAME, *target),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=mesocosm.environment,
            cwd=here,
            text=True,
        ) as begun:
            time.sleep(step * 0.03)
            begun.send_signal(signal.SIGINT)
            _, err = begun.communicate(timeout=60)
        statuses.add(begun.returncode)
        assert begun.returncode in (0, 130, -signal.SIGINT), err
        assert not step or "Traceback" not in err, err  # in the first moment Python itself may not be there
        if (here / "out.tar").exists():
            assert (here / "out.tar").read_bytes() == (here / "whole.tar").read_bytes()
            (here / "out.tar").unlink()
        assert left(mesocosm, here) == []
    assert statuses - {0}
    assert "sound" in mesocosm("image", "verify").accepted()


def test_where_several_images_are_named_a_failure_says_which(mesocosm: CommandLine, here: Path) -> None:
    """The registry does not answer, so nothing in the failure's own words tells one image from the other."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        registry = f"127.0.0.1:{closed.getsockname()[1]}"
        far = [f"{registry}/a:1", f"{registry}/b:1"]
        for words in (["pull", "-q"], ["image", "rm", "--remote"]):
            done = mesocosm(*words, far[0], far[1])
            lines = done.err.splitlines()
            assert done.status == 1 and len(lines) == 2, done.err
            for image, line in zip(far, lines, strict=True):
                assert line.startswith(f"mesocosm: {image}: registry {registry}"), line
        mesocosm("push", "-q", NAME, far[0]).refused(f"^mesocosm: {far[0]}: registry {registry}")
    for words in (
        ["save", "-o", "out.tar", NAME, "gone:1"],
        ["image", "inspect", NAME, "gone:1"],
        ["image", "verify", "-q", "--check-only", NAME, "gone:1"],
        ["image", "pin", "gone:1"],
        ["tag", "gone:1", "x:1"],
    ):
        assert mesocosm(*words, cwd=here).refused().count("gone:1 is not on this host") == 1
    mesocosm("image", "inspect", "--platform", "x/y/z/!", NAME).refused(f"^mesocosm: {NAME}: ")


def test_a_failure_in_an_archive_says_which_of_its_images(mesocosm: CommandLine, tmp_path: Path) -> None:
    one = image_of([[file(b"a", os.urandom(300_000))]])
    layout = write_layout(one, tmp_path / "layout", NAME)
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[::-1])
    tar = tmp_path / "damaged.tar"
    subprocess.run(["tar", "-C", layout, "-cf", tar, "."], check=True)
    mesocosm("load", "-q", "-i", tar).refused(f"^mesocosm: {NAME}: .*{blob.name}")


@pytest.mark.parametrize("command", ["pull", "rmi", "run", "image verify", "image inspect"])
def test_a_name_with_control_characters_is_told_on_one_line(command: str, mesocosm: CommandLine) -> None:
    """It is quoted as it was typed, and may have come from a file or a web page."""
    told = mesocosm(*command.split(), "x\n\x1b[31my").err
    assert told.count("\n") == 1 and told.endswith("\n")
    assert told.removesuffix("\n").isprintable() and "y" in told
