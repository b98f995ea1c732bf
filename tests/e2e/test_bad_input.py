"""Bad input from outside: one clear line on standard error that says what, where and what to do, the right
exit status, and nothing left behind.

125 when it is us who refuse, 127 when the command is missing, 126 when it cannot be executed; ``pull`` and
the other commands without a payload answer 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.commandline import Answer, CommandLine, copy_root, spoil
from e2e.leftovers import assert_nothing_left, names_in
from fixtures.canary import Canary
from malicious_registry import Fault, MaliciousRegistry, change, flip_bit, mute, raw, stall, status, truncate
from registry_fixtures import SmallImage, small_image, write_layout

IMPATIENT = Path(__file__).parent / "impatient_command.py"
BYTES = os.urandom(200_000)
"""Content that does not compress: half of a layer of it is missing much."""


def refuses(mesocosm: CommandLine, done: Answer, code: int, *words: str) -> None:
    """One line with these words, this exit status, and nothing left."""
    line = done.refused()
    assert done.status == code, line
    missing = [word for word in words if word not in line]
    assert not missing, f"{missing} not in: {line}"
    assert "Traceback" not in line
    assert len(line) < 400, line
    assert_nothing_left(mesocosm)


# --- registries ---


class Lying:
    """A registry with one image, and the command that has little patience with it."""

    def __init__(self, mesocosm: CommandLine, registry: MaliciousRegistry) -> None:
        self.mesocosm = mesocosm
        self.registry = registry
        self.image = small_image([{"big": BYTES}])
        registry.add(self.image, "a/b", "latest")

    def reference(self, rest: str = "a/b:latest") -> str:
        return f"{self.registry.host}/{rest}"

    async def __call__(self, *words: str) -> Answer:
        return await asyncio.to_thread(self._run, *words)

    def _run(self, *words: str) -> Answer:
        arguments = [sys.executable, str(IMPATIENT), *self.mesocosm.words(*words)[1:]]
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.mesocosm.environment,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)


def layer_of(image: SmallImage) -> str:
    """The path of the image's only layer."""
    layer = image.layers[0]
    return next(digest for digest, data in image.blobs.items() if data is layer)


async def test_an_honest_registry_is_not_refused(mesocosm: CommandLine) -> None:
    """The benign twin of all that follows."""
    async with MaliciousRegistry() as registry:
        lying = Lying(mesocosm, registry)
        done = await lying("pull", "-q", lying.reference())
    assert done.accepted().strip() == lying.image.digest


Case = tuple[str, Fault, tuple[str, ...]]

WEB_PAGE = change(lambda answer: type(answer)(200, {"Content-Type": "text/html"}, b"<html>Welcome</html>"))

ANSWERS: list[Case] = [
    ("/manifests/", status(401), ("asks for credentials", "mesocosm login")),
    ("/manifests/", status(403), ("refuses", "a/b:latest", "mesocosm login")),
    ("/manifests/", status(404), ("has no", "a/b:latest", "check its name and tag")),
    ("/manifests/", status(429, {"Retry-After": "0"}), ("limits the rate of requests", "wait")),
    ("/manifests/", status(500), ("answered 500", "a/b:latest", "its own logs say why")),
    ("/manifests/", mute(), ("does not answer", "check the network")),
    ("/manifests/", raw(b"+OK mail\r\n"), ("cannot be read as HTTP: bad status line (check its name",)),
    ("/manifests/", WEB_PAGE, ("a/b:latest is a web page, not JSON", "another kind of server, or a proxy")),
    ("/blobs/", status(401), ("asks for credentials", "mesocosm login")),
    ("/blobs/", status(404), ("has no",)),
    ("/blobs/", status(429, {"Retry-After": "0"}), ("limits the rate of requests",)),
    ("/blobs/", status(500), ("answered 500",)),
    ("/blobs/", mute(), ("does not answer",)),
]


@pytest.mark.parametrize(
    ("part", "fault", "words"),
    ANSWERS,
    ids=["401", "403", "404", "429", "500", "hangs", "mail", "web-page"]
    + [f"blob-{name}" for name in ("401", "404", "429", "500", "hangs")],
)
async def test_a_registry_that_refuses(
    mesocosm: CommandLine, part: str, fault: Fault, words: tuple[str, ...]
) -> None:
    async with MaliciousRegistry() as registry:
        lying = Lying(mesocosm, registry)
        registry.always(part, fault)
        command = ("run", "--rm") if part == "/manifests/" else ("pull",)
        done = await lying(*command, "-q", lying.reference())
        refuses(mesocosm, done, 125 if command[0] == "run" else 1, registry.host, *words)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (truncate(1000), ("broke off",)),
        (stall(1000), ("nothing came for",)),
        (flip_bit(5000), ("sha256:",)),
        (change(lambda answer: type(answer)(answer.status, {}, answer.body[:1000])), ()),
    ],
    ids=["truncated", "stalls", "other-bytes", "shorter"],
)
async def test_a_layer_that_does_not_arrive_whole(
    mesocosm: CommandLine, fault: Fault, words: tuple[str, ...]
) -> None:
    """What was received of an honest beginning may stay, to be resumed; nothing is published."""
    async with MaliciousRegistry() as registry:
        lying = Lying(mesocosm, registry)
        registry.always(layer_of(lying.image), fault)
        done = await lying("pull", "-q", lying.reference())
        line = done.refused()
        assert done.status == 1
        assert registry.host in line or layer_of(lying.image)[:19] in line, line
        assert not words or any(word in line for word in words), line
    assert mesocosm("images", "-q").accepted() == ""
    assert names_in(mesocosm.root / "images/layers") == []
    assert names_in(mesocosm.root / "images/trees") == []
    for name in names_in(mesocosm.root / "images/ingest"):
        (mesocosm.root / "images/ingest" / name).unlink()


async def test_a_wrong_digest(mesocosm: CommandLine) -> None:
    async with MaliciousRegistry() as registry:
        lying = Lying(mesocosm, registry)
        other = "sha256:" + "0" * 64
        registry.manifests["a/b", other] = (lying.image.manifest, lying.image.media_type)
        done = await lying("run", "--rm", "-q", lying.reference(f"a/b@{other}"), "/hello")
        refuses(mesocosm, done, 125, "sha256:00000000")
        honest = await lying("pull", "-q", lying.reference(f"a/b@{lying.image.digest}"))
        assert honest.accepted()


async def test_an_unknown_image_and_an_unknown_registry(mesocosm: CommandLine) -> None:
    async with MaliciousRegistry() as registry:
        lying = Lying(mesocosm, registry)
        done = await lying("run", "--rm", "-q", lying.reference("a/other:latest"), "/hello")
        refuses(mesocosm, done, 125, registry.host, "has no", "a/other:latest", "check its name")
        gone = lying.reference()
    done = await lying("run", "--rm", "-q", gone, "/hello")
    refuses(mesocosm, done, 125, gone.partition("/")[0], "cannot be reached", "check that it runs")


# --- images on disk ---


def test_layouts_and_archives_that_are_not_there_or_not_whole(mesocosm: CommandLine, tmp_path: Path) -> None:
    for reference in (f"dir:{tmp_path}/none", f"oci:{tmp_path}/none", f"oci-archive:{tmp_path}/none.tar"):
        refuses(mesocosm, mesocosm("run", "-q", reference, "x"), 125, f"{tmp_path}/none", "no such")
    text = tmp_path / "text"
    text.write_text("This is not an image.\n" * 100)
    for transport in ("docker-archive", "oci-archive"):
        refuses(mesocosm, mesocosm("run", "-q", f"{transport}:{text}", "x"), 125, str(text))
    layout = write_layout(small_image([{"big": BYTES}]), tmp_path / "layout")
    assert mesocosm("pull", "-q", f"oci:{layout}:latest").accepted()
    assert mesocosm("rmi", f"oci:{layout}:latest").accepted()
    largest = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, 1000)
    done = mesocosm("run", "-q", f"oci:{layout}:latest", "x")
    line = done.refused()
    assert done.status == 125
    assert largest.name[:12] in line or str(layout) in line, line
    assert mesocosm("images", "-q").accepted() == ""
    for name in names_in(mesocosm.root / "images/ingest"):
        (mesocosm.root / "images/ingest" / name).unlink()


@pytest.mark.parametrize("backend", ["erofs", "overlay"])
def test_no_space_in_the_store(mesocosm: CommandLine, tmp_path: Path, backend: str) -> None:
    """A full disk says so, names the store, and leaves room again."""
    layout = write_layout(small_image([{"big": BYTES * 40}]), tmp_path / "layout")
    mesocosm.root.mkdir(parents=True)
    with mounted_tmpfs(mesocosm.root, "size=4m"):
        done = mesocosm("run", "-q", "--backend", backend, f"oci:{layout}:latest", "/x")
        line = done.refused(f"no space for .* {mesocosm.root}.* rmi")
        assert done.status == 125, line
        free = os.statvfs(mesocosm.root)
        assert free.f_bavail * free.f_frsize > 3 << 20, "what did not fit is still there"
        assert mesocosm("ps", "-aq").accepted() == ""
    assert not names_in(mesocosm.root)


@contextlib.contextmanager
def mounted_tmpfs(where: Path, options: str) -> Iterator[None]:
    """A tmpfs while inside."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "full", where], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", where], check=True)


# --- requests ---


@pytest.fixture
def root(busybox_root: Path) -> Path:
    """An honest image."""
    return busybox_root


@pytest.mark.parametrize(
    ("options", "command", "code", "words"),
    [
        ((), ("nosuch",), 127, ("cannot execute nosuch", "no such file", "PATH")),
        ((), ("/bin/nosuch",), 127, ("cannot execute /bin/nosuch", "no such file")),
        (
            (),
            ("/etc/passwd",),
            126,
            ("cannot execute /etc/passwd", "permission denied", "execute permission"),
        ),
        ((), ("/etc",), 126, ("cannot execute /etc", "permission denied")),
        (("-u", "nobodyelse"), ("true",), 125, ("user nobodyelse", "/etc/passwd", "number")),
        (("-u", "0:nogroupatall"), ("true",), 125, ("group nogroupatall", "/etc/group", "number")),
        (("-w", "/etc/passwd"), ("true",), 125, ("/etc/passwd", "not a directory")),
        (("--isolation", "cgroups/memm"), ("true",), 125, ("cgroups/memm", "did you mean cgroups/mem?")),
        (("-m", "12q"), ("true",), 125, ("--memory", "'12q'", "512m")),
        (("-m", "-5"), ("true",), 125, ("--memory", "-5")),
        (("-m", "1k"), ("true",), 125, ("memory", "1 KiB is less than 4 MiB")),
        (("--cpus", "much"), ("true",), 125, ("--cpus", "much")),
        (("--pids-limit", "many"), ("true",), 125, ("--pids-limit", "many")),
        (("--backend", "zip"), ("true",), 125, ("zip", "known are")),
        (("--cap-add", "FLY"), ("true",), 125, ("FLY",)),
        (("--ulimit", "nofile=x"), ("true",), 125, ("--ulimit", "nofile=x")),
        (("--security-opt", "seccomp=/none.json"), ("true",), 125, ("/none.json", "No such file")),
        (("--cidfile", "/none/id"), ("true",), 125, ("--cidfile", "/none/id", "No such file")),
        (("-v", "relative:/x"), ("true",), 125, ("--volume", "relative")),
        (("--no-such-option",), ("true",), 125, ("--no-such-option",)),
        (("-it",), ("sh",), 125, ("--tty", "no terminal", "leave -t out")),
    ],
    ids=lambda value: " ".join(value)[:24] if isinstance(value, tuple) else None,
)
def test_requests_that_make_no_sense(
    mesocosm: CommandLine,
    root: Path,
    options: tuple[str, ...],
    command: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    refuses(mesocosm, mesocosm.run(root, *command, options=options), code, *words)


def test_a_script_whose_interpreter_is_missing(mesocosm: CommandLine, root: Path, tmp_path: Path) -> None:
    image = copy_root(root, tmp_path / "image")
    (image / "script").write_text("#!/no/such/interpreter\n")
    (image / "script").chmod(0o755)
    refuses(mesocosm, mesocosm.run(image, "/script"), 127, "cannot execute /script", "interpreter")


def test_a_missing_volume_source(mesocosm: CommandLine, root: Path, tmp_path: Path) -> None:
    """``--mount`` refuses; ``-v`` makes the folder, as docker's does."""
    source = tmp_path / "missing"
    options = ("--mount", f"type=bind,source={source},target=/x")
    done = mesocosm.run(root, "true", options=options)
    refuses(mesocosm, done, 125, f"volume source {source} does not exist", f"mkdir -p {source}")
    assert not source.exists()
    assert mesocosm.run(root, "true", options=("-v", f"{source}:/x")).status == 0
    assert source.is_dir()


def test_a_missing_container_and_a_name_that_is_taken(mesocosm: CommandLine, root: Path) -> None:
    for words in (("start", "nobody"), ("exec", "nobody", "true"), ("logs", "nobody"), ("stop", "nobody")):
        done = mesocosm(*words)
        refuses(mesocosm, done, 125 if words[0] == "exec" else 1, "nobody")
    mesocosm.start(root, "sleep", "1000", options=("--name", "taken"))
    line = mesocosm.run(root, "true", options=("--name", "taken")).refused("taken")
    assert "mesocosm rm" in line or "another" in line, line


HOSTILE = {
    "proc": "HOST/folder",
    "dev": "HOST/folder",
    "sys": "HOST/folder",
    "tmp": "HOST/folder",
    "run": "HOST/folder",
    "etc/hosts": "HOST/secret",
    "etc/hostname": "HOST/secret",
    "etc/resolv.conf": "HOST/secret",
    "etc/passwd": "HOST/secret",
    "etc/group": "HOST/secret",
    "work": "HOST/folder",
    "volume": "HOST/folder",
    "bin/tool": "HOST/secret",
    "loop": "loop",
    "up": "../../../../../../HOST/folder",
    "descriptor": "/proc/self/fd/3",
}
"""Links in an image to the world outside, and the ones that turn in circles."""


@pytest.fixture
def hostile(root: Path, tmp_path: Path, canary: Canary) -> Iterator[Path]:
    """A root full of them."""
    image = copy_root(root, tmp_path / "hostile")
    yield spoil(image, {name: to.replace("HOST", str(canary.host)) for name, to in HOSTILE.items()})


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ((), ("true",)),
        (("-u", "worker"), ("true",)),
        (("-w", "/work"), ("true",)),
        (("-w", "/loop"), ("true",)),
        (("-w", "/up"), ("touch", "there")),
        (("--tmpfs", "/volume"), ("touch", "/volume/there")),
        (("--tmpfs", "/descriptor"), ("true",)),
        ((), ("/bin/tool",)),
        ((), ("cat", "/etc/hosts", "/etc/passwd", "/etc/hostname")),
    ],
)
def test_a_rootfs_full_of_hostile_links(
    mesocosm: CommandLine, hostile: Path, canary: Canary, options: tuple[str, ...], command: tuple[str, ...]
) -> None:
    """Either it is refused in one line, or it runs and the links lead nowhere outside (R-05, R-06, R-07)."""
    done = mesocosm.run(hostile, *command, options=options)
    if done.err.startswith("mesocosm: "):
        refuses(mesocosm, done, done.status)
    canary.assert_unseen(done.out, done.err)
    canary.assert_unread()
    canary.assert_untouched()
