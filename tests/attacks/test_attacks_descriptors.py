"""Attacks through what a launcher leaves open: R-01, R-02, R-04, R-29 to R-31, R-33, R-42."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attacks.commandline import PROGRAM, CommandLine
from counts import counts
from fixtures.canary import Canary
from mesocosm import ContainerConfig, ContainerID, Containerizer
from mesocosm.errors import InvalidConfig

Image = Callable[..., Path]

WATCH = """
    # Prints every link of another process' /proc entries, and tries to write to what they show, until told.
    import json, os, sys
    seen, written = set(), set()
    own = str(os.getpid())
    print("watching", flush=True)
    while not os.path.exists("/enough"):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if pid in (own, "1"):
                continue
            place = f"/proc/{pid}"
            links = [f"{place}/exe", f"{place}/root", f"{place}/cwd"]
            for folder in ("fd", "map_files"):
                try:
                    links += [f"{place}/{folder}/{name}" for name in os.listdir(f"{place}/{folder}")]
                except OSError:
                    pass
            for link in links:
                try:
                    target = os.readlink(link)
                except OSError:
                    continue
                seen.add(target)
                if "python" in target or target.endswith(".so"):
                    try:
                        os.close(os.open(link, os.O_WRONLY | os.O_APPEND))
                        written.add(target)
                    except OSError:
                        pass
    print(json.dumps({"seen": sorted(seen), "written": sorted(written)}))
"""


def _programs() -> Iterator[Path]:
    """The interpreter, what of it is mapped, our command and our package."""
    yield Path(sys.executable).resolve()
    yield Path(PROGRAM)
    with open("/proc/self/maps") as maps:
        yield from {Path(line.split()[-1]) for line in maps if line.rstrip().endswith(".so")}
    yield from (Path(sys.modules["mesocosm"].__path__[0])).rglob("*.py")


PROGRAMS = frozenset(_programs())


def _digests() -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in PROGRAMS}


def _watched(mesocosm: CommandLine, root: Path, *options: str, execs: int) -> dict[str, list[str]]:
    """What a watching container saw while processes entered it."""
    container = mesocosm.start(root, "python3", "-I", "-c", textwrap.dedent(WATCH), options=options)

    async def enter() -> None:
        async with Containerizer.open(root=mesocosm.root, runtime=mesocosm.runtime) as containers:
            running = containers.find(container)
            for _ in range(execs):
                session = await containers.execute(running, ("true",))
                await session.wait()
                await session.close()

    asyncio.run(enter())
    mesocosm.exec(container, "touch", "/enough").accepted()
    mesocosm("wait", container).accepted()
    lines = mesocosm("logs", container).accepted().splitlines()
    found: dict[str, list[str]] = json.loads(lines[-1])
    return found


def _of_the_host(links: list[str], mesocosm: CommandLine) -> list[str]:
    """Those that name something outside of the container."""
    outside = (
        str(mesocosm.root),
        str(mesocosm.runtime),
        os.path.dirname(sys.executable),
        "/.venv",
        "/.pyenv",
    )
    names = ("containers", "supervisor", "plan.json", "mesocosm")
    return [
        link for link in links if link.startswith(outside) or any(name in link.split("/") for name in names)
    ]


@counts("execs", 12, 200)
def test_r01_r02_a_container_that_watches_those_who_enter_it_sees_nothing(
    execs: int, mesocosm: CommandLine, debian_root: Path, canary: Canary
) -> None:
    """R-01 (CVE-2019-5736), R-02 (CVE-2016-9962): ``/proc/PID/exe``, ``map_files``, ``fd``, ``root`` and
    ``cwd`` of each entering process are read and opened for writing.
    """
    before = _digests()
    found = _watched(mesocosm, debian_root, execs=execs)
    assert _of_the_host(found["seen"], mesocosm) == []
    assert not [path for path in found["written"] if not (debian_root / path.lstrip("/")).exists()]
    assert _digests() == before


@counts("execs", 12, 200)
def test_r01_a_container_that_may_trace_cannot_write_to_the_interpreter(
    execs: int, mesocosm: CommandLine, debian_root: Path, canary: Canary
) -> None:
    """R-01 with CAP_SYS_PTRACE, which shows everything: what it shows of ours cannot be opened for writing,
    and no descriptor is a file or folder of the host.
    """
    before = _digests()
    found = _watched(mesocosm, debian_root, "--cap-add", "SYS_PTRACE", execs=execs)
    assert not [path for path in found["written"] if not (debian_root / path.lstrip("/")).exists()]
    assert [path for path in _of_the_host(found["seen"], mesocosm) if "containers" in path] == []
    assert _digests() == before


def test_r01_an_entrypoint_that_is_the_launcher_itself(
    mesocosm: CommandLine, image: Image, debian_root: Path
) -> None:
    """R-01: the image's entrypoint is ``#!/proc/self/exe``; benign twin: an ordinary script."""
    before = _digests()
    root = image()
    for name, interpreter in (("evil", "/proc/self/exe"), ("fine", "/bin/sh")):
        (root / name).write_text(f"#!{interpreter}\necho ran\n")
        (root / name).chmod(0o755)
    assert mesocosm.run(root, "/evil").status != 0
    assert mesocosm.run(root, "/fine").accepted() == "ran\n"
    assert _digests() == before


SEIZE = """
    # Traces whoever enters at its birth and looks at its descriptors before it has done anything.
    import ctypes, os
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes = [ctypes.c_long] * 4
    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
    print("watching", flush=True)
    caught = 0
    newest = os.getpid()
    while not os.path.exists("/enough"):
        for _ in range(2000):
            for pid in (newest + 1, newest + 2):
                if call(SEIZE, pid, 0, 0) == 0:
                    break
            else:
                continue
            newest = pid
            call(INTERRUPT, pid, 0, 0)
            os.waitpid(pid, 0x40000000)
            caught += 1
            for name in os.listdir(f"/proc/{pid}/fd"):
                try:
                    print("fd", os.readlink(f"/proc/{pid}/fd/{name}"))
                except OSError:
                    pass
            call(DETACH, pid, 0, 0)
    print("caught", caught)
"""


@counts("execs", 4, 200)
def test_r02_a_tracer_catches_no_descriptor_of_the_host(
    execs: int, mesocosm: CommandLine, debian_root: Path
) -> None:
    """R-02 with CAP_SYS_PTRACE (CVE-2016-9962, CVE-2016-8649): an entering process is traced from its birth
    on; none of its descriptors is a file or folder of the host.
    """
    container = mesocosm.start(
        debian_root, "python3", "-I", "-c", textwrap.dedent(SEIZE), options=("--cap-add", "SYS_PTRACE")
    )
    for _ in range(execs):
        mesocosm.exec(container, "true")
    mesocosm.exec(container, "touch", "/enough").accepted()
    mesocosm("wait", container).accepted()
    lines = mesocosm("logs", container).accepted().splitlines()
    assert int(lines[-1].split()[1]) > 0
    paths = {line.partition(" ")[2] for line in lines if line.startswith("fd ")}
    assert {path for path in paths if path.startswith("/") and not path.startswith("/dev/null")} == set()


def test_r04_descriptors_of_the_caller_stay_outside(
    mesocosm: CommandLine, image: Image, canary: Canary
) -> None:
    """R-04: the caller holds ``/``, a file and a pipe inheritable; run and exec hand on 0 to 2 alone."""
    root = image()
    held = [os.open("/", os.O_RDONLY), os.open(canary.secret, os.O_RDONLY), *os.pipe()]
    for fd in held:
        os.set_inheritable(fd, True)
    # No command substitution: its pipe would be one more descriptor of the shell.  3 is the listing's own.
    listing = "for fd in /proc/$$/fd/*; do echo ${fd##*/}; readlink $fd || true; done"
    try:
        container = mesocosm("run", "-d", "-q", f"dir:{root}", "sleep", "600", close_fds=False).accepted()
        ran = mesocosm("run", "--rm", "-q", f"dir:{root}", "sh", "-c", listing, close_fds=False)
        entered = mesocosm("exec", container.strip(), "sh", "-c", listing, close_fds=False)
    finally:
        for fd in held:
            os.close(fd)
    for answer in (ran, entered):
        assert re.fullmatch(r"0\n/dev/null\n1\npipe:\S+\n2\npipe:\S+\n(3\n)?", answer.accepted())


def test_r29_no_abstract_sockets(mesocosm: CommandLine, image: Image) -> None:
    """R-29: nothing of ours listens by a name that a container in the host's network could connect to
    (CVE-2020-15257).
    """
    with open("/proc/net/unix") as file:
        before = {line.split()[-1] for line in file if "@" in line}
    done = mesocosm.shell(image(), "cat /proc/net/unix", "--network", "host")
    found = {line.split()[-1] for line in done.accepted().splitlines() if "@" in line}
    assert not {name for name in found - before if "mesocosm" in name or str(mesocosm.runtime) in name}
    alone = mesocosm.shell(image(), "grep -c @ /proc/net/unix")
    assert alone.out == "0\n"


NAMES = (
    *("../x", "..", ".", "a/b", "/etc", "a\n", "a b", "-a", "", "\N{ARABIC-INDIC DIGIT THREE}", "a\0b"),
    *("x" * 129, "\N{FULLWIDTH LATIN SMALL LETTER A}", "a;b", "$(id)", "\x1b[2J"),
)


def test_r30_names_and_ids_are_no_paths(mesocosm: CommandLine, image: Image, canary: Canary) -> None:
    """R-30: names and IDs with separators, newlines, spaces, other alphabets; crun accepts space and newline.
    Benign twin: an ordinary name.
    """
    root = image()
    for name in ("../x", "a\n", "a/b"):
        mesocosm.run(root, "true", options=("--name", name)).refused("name")
        mesocosm("rm", "--force", name).refused("container")
        mesocosm("exec", name, "true").refused("container")
    for name in NAMES:
        with pytest.raises(InvalidConfig):
            ContainerConfig(name=name)
        if "\0" not in name:
            with pytest.raises(InvalidConfig):
                ContainerID.parse(name)
    assert mesocosm.run(root, "echo", "named", options=("--name", "a.b-c_1")).accepted() == "named\n"


def test_r31_nobody_but_the_container_is_moved(mesocosm: CommandLine, image: Image) -> None:
    """R-31: a cgroup is made of the ID alone, below our own; the caller stays in its own."""
    before = Path("/proc/self/cgroup").read_text()
    with pytest.raises(InvalidConfig):
        ContainerID(("..", "..", "x"))
    container = mesocosm.start(image(), "sleep", "600")
    pid = json.loads(mesocosm("inspect", container).accepted())[0]["process"]["pid"]
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert {line.rpartition("/")[2] for line in lines if container in line} == {container}
    assert any(container in line for line in lines)
    assert Path("/proc/self/cgroup").read_text() == before


def test_r33_the_environment_is_exactly_what_was_asked_for(mesocosm: CommandLine, image: Image) -> None:
    """R-33: nothing of the caller's environment is inside, in run, as pid 1's, or in exec (CVE-2021-21334);
    benign twin: what ``-e`` names.
    """
    secret = {"SECRET_TOKEN": "hidden", "LD_PRELOAD_X": "hidden", "ASKED": "value"}
    root = image()
    shown = "cat /proc/$$/environ | tr '\\0' '\\n' | sort"
    done = mesocosm("run", "--rm", "-q", "-e", "ASKED", f"dir:{root}", "sh", "-c", shown, env=secret)
    names = [line.partition("=")[0] for line in done.accepted().splitlines()]
    assert names == ["ASKED", "HOME", "HOSTNAME", "PATH"]
    container = mesocosm("run", "-d", "-q", f"dir:{root}", "sleep", "600", env=secret).accepted().strip()
    both = mesocosm(
        "exec", container, "sh", "-c", f"{shown}; cat /proc/1/environ | tr '\\0' '\\n'", env=secret
    )
    assert "hidden" not in both.accepted()
    assert "HOSTNAME=" in both.out


def test_r42_nobody_outside_can_be_traced(mesocosm: CommandLine, debian_root: Path) -> None:
    """R-42: with the host's process IDs, a container can neither trace nor read the supervisor, the zygote,
    or the caller; benign twin: a child of its own.
    """
    script = """
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        trace = lambda request, pid: libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), 0, 0)
        def reach(pid):
            for request in (16, 0x4206):
                if trace(request, pid) == 0:
                    print("traced", pid)
            for name in ("mem", "environ", "maps", "exe", "root/etc/hostname", "cwd", "fd/0"):
                try:
                    os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
                    print("opened", pid, name)
                except OSError:
                    pass
        for pid in map(int, sys.argv[1:]):
            assert os.path.exists(f"/proc/{pid}"), pid
            reach(pid)
        child = os.fork()
        if child == 0:
            import time
            time.sleep(600)
        assert trace(0x4206, child) == 0
        os.kill(child, 9)
        print("benign")
    """
    container = mesocosm.start(debian_root, "sleep", "600")
    report = json.loads(mesocosm("inspect", container).accepted())[0]
    pids = [report["supervisor"]["pid"], os.getpid(), os.getppid()]

    done = mesocosm.run(
        debian_root,
        "python3",
        "-I",
        "-c",
        textwrap.dedent(script),
        *map(str, pids),
        options=("--pid", "host"),
    )
    assert done.accepted() == "benign\n"
