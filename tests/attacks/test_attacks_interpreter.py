"""Attacks that exist because we are Python: P-01 to P-06, P-08."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mesocosm as package
from attacks.commandline import CommandLine, spoil
from counts import counts
from fixtures.canary import Canary
from mesocosm import ContainerConfig, Containerizer
from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import grammar
from mesocosm.launch.accounts import MAX_ID, parse_id

Image = Callable[..., Path]
SOURCES = Path(package.__path__[0])

# --- P-01: nothing of the image runs as us ---

TROJANS = (
    "usr/lib/python3.11/encodings/utf_8.py",
    "usr/lib/python3.11/encodings/idna.py",
    "usr/lib/python3.11/sitecustomize.py",
    "sitecustomize.py",
    "json.py",
    "lib/x86_64-linux-gnu/libnss_files.so.2",
    "lib/x86_64-linux-gnu/libgcc_s.so.1",
    "lib/x86_64-linux-gnu/libc.so.6",
    "etc/nsswitch.conf",
    "etc/ld.so.preload",
    "etc/ld.so.cache",
    "usr/lib/locale/locale-archive",
    "usr/share/zoneinfo/UTC",
    "etc/localtime",
)


def _trojan_root(root: Path, canary: Canary) -> Path:
    """Everything that an interpreter or a C library might load late, as FIFOs: whoever opens one hangs."""
    for name in TROJANS:
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(place)
    return root


def test_p01_nothing_of_the_image_is_opened_by_us(
    mesocosm: CommandLine, image: Image, canary: Canary
) -> None:
    """P-01 (CVE-2019-14271): modules, name-service libraries, locales of the image are FIFOs, on which any
    of us would hang; run, exec with a name to look up, and a failing start.
    """
    root = _trojan_root(image(), canary)
    assert mesocosm.run(root, "id", "-un", options=("-u", "worker")).accepted() == "worker\n"
    mesocosm.run(root, "/nowhere").refused("nowhere")
    container = mesocosm.start(root, "sleep", "600")
    assert mesocosm("exec", "-u", "worker", container, "echo", "inside").accepted() == "inside\n"
    mesocosm("exec", container, "/nowhere").refused("nowhere")


_OPENED = re.compile(r"^(\d+) +(?:open|openat|openat2)\(.*?\"([^\"]*)\".* = \d+")


def _after_entering(trace: str) -> Iterator[str]:
    """Paths that a process opened between entering another root and its execve."""
    inside: set[str] = set()
    for line in trace.splitlines():
        pid = line.split(" ", 1)[0]
        if "pivot_root(" in line or ("setns(" in line and "CLONE_NEWNS" in line):
            inside.add(pid)
        elif "execve(" in line:
            inside.discard(pid)
        elif pid in inside and (found := _OPENED.match(line)):
            yield found[2]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace: run scripts/install-test-tools")
def test_p01_no_library_and_no_module_is_opened_between_the_root_and_execve(
    mesocosm: CommandLine, image: Image, tmp_path: Path
) -> None:
    """P-01: under strace, zero ``openat`` of a library or ``.py`` file from pivot_root or setns to execve."""
    root, log = image(), tmp_path / "trace"
    container = mesocosm.start(root, "sleep", "600")
    seen = ""
    for words in (("run", "--rm", "-q", f"dir:{root}", "true"), ("exec", container, "true")):
        calls = "trace=open,openat,openat2,execve,pivot_root,setns,clone3"
        subprocess.run(
            ["strace", "-f", "-qq", "-o", log, "-e", calls, *mesocosm.words(*words)],
            env=mesocosm.environment, stdin=subprocess.DEVNULL, timeout=60, check=True,
        )  # fmt: skip
        seen += log.read_text()
    assert "pivot_root(" in seen
    assert [path for path in _after_entering(seen) if re.search(r"\.(py|pyc|so[.\d]*)$", path)] == []


# --- P-02: the caller's surroundings ---


def test_p02_environment_and_directory_do_not_steer_the_interpreter(
    mesocosm: CommandLine, image: Image, tmp_path: Path
) -> None:
    """P-02: PYTHON* variables, and modules that lie in the current directory; each would leave a mark."""
    here, path, mark = tmp_path / "here", tmp_path / "path", tmp_path / "mark"
    code = f"open({str(mark)!r}, 'a').write(__name__)\nraise SystemExit(99)\n"
    for folder, names in (
        (here, ("json", "os", "sitecustomize", "usercustomize", "click", "mesocosm", "encodings")),
        (
            path,
            ("json", "click", "asyncio", "re", "os", "site", "sitecustomize", "usercustomize", "encodings"),
        ),
    ):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.py").write_text(code)
    root = image()
    assert mesocosm("run", "--rm", "-q", f"dir:{root}", "echo", "fine", cwd=here).accepted() == "fine\n"
    for name, value in {
        "PYTHONPATH": str(path),
        "PYTHONHOME": str(here),
        "PYTHONSTARTUP": str(here / "json.py"),
        "PYTHONINSPECT": "1",
        "PYTHONUSERBASE": str(here),
    }.items():
        answer = mesocosm("run", "--rm", "-q", f"dir:{root}", "env", env={name: value}, cwd=here)
        assert "PYTHON" not in answer.accepted()
    assert not mark.exists()


# --- P-03: no fork among threads ---


@contextlib.contextmanager
def _thread_at_work() -> Iterator[None]:
    """Meanwhile a thread takes and frees memory, with the interpreter's lock and without."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            hashlib.sha256(bytes(1 << 16)).digest()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@counts("clients, number", (16, 32), (64, 10_000))
def test_p03_many_launches_at_once(clients: int, number: int, mesocosm: CommandLine, image: Image) -> None:
    """P-03: launches from many clients of one process with a thread at work: none hangs."""
    root = image()

    async def launches() -> list[int]:
        async with Containerizer.open(root=mesocosm.root, runtime=mesocosm.runtime) as containers:
            gate = asyncio.Semaphore(clients)

            async def one() -> int:
                async with gate, asyncio.timeout(100):
                    container = await containers.create(
                        ContainerConfig(image=f"dir:{root}", command=("true",))
                    )
                    await containers.start(container)
                    status = (await containers.wait(container)).status
                    await containers.remove(container)
                    return status

            return await asyncio.gather(*(one() for _ in range(number)))

    with _thread_at_work():
        assert asyncio.run(launches()) == [0] * number


# --- P-04, P-05: gates over the source ---

BANNED_MODULES = {
    "tarfile",
    "zipfile",
    "pickle",
    "marshal",
    "shelve",
    "yaml",
    "pwd",
    "grp",
    "xml",
    "multiprocessing",
}
BANNED_CALLS = {
    *("os.system", "os.popen", "os.spawnl", "os.spawnv", "shutil.unpack_archive"),
    *("ctypes.util.find_library", "eval", "exec", "compile", "__import__"),
}


def _nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            yield f"{path.relative_to(SOURCES)}:{getattr(node, 'lineno', 0)}", node


def test_p04_p05_no_shell_and_nothing_that_runs_foreign_data() -> None:
    """P-04: no shell, no look-up in PATH, no preexec_fn; P-05: no tarfile, pickle, eval and their kin."""
    found = []
    for where, node in _nodes():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [f"{where} {name}" for name in names if name.partition(".")[0] in BANNED_MODULES]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in BANNED_CALLS:
                found.append(f"{where} {called}")
            found += [
                f"{where} {keyword.arg}"
                for keyword in node.keywords
                if keyword.arg in ("shell", "preexec_fn") and called.startswith(("subprocess.", "asyncio."))
            ]
    assert found == []


# --- P-06: numbers ---


@given(st.text(max_size=12) | st.integers(-5, 1 << 33).map(str))
def test_p06_ids_are_ascii_digits_below_the_limit(text: str) -> None:
    """P-06: accepted if and only if the grammar says so; no other alphabet's digits, no underscore."""
    valid = re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) is not None and int(text) <= MAX_ID
    assert (parse_id(text) is not None) == valid


@given(
    st.text(alphabet="0123456789_ \n.kmgKMGibB\N{ARABIC-INDIC DIGIT THREE}\N{SUPERSCRIPT TWO}-+e", max_size=8)
)
def test_p06_sizes_are_ascii_and_whole(text: str) -> None:
    """P-06: a size that is accepted is made of ASCII digits and a unit, and nothing follows it."""
    try:
        value = grammar.size(text, "--memory")
    except InvalidConfig:
        return
    assert text.strip().isascii()
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)? ?[kmgKMG]?i?[bB]?", text.strip(), re.ASCII)
    assert value >= 0


# --- P-08: memory ---


def test_p08_output_of_any_length_costs_no_memory(
    mesocosm: CommandLine, image: Image, tmp_path: Path
) -> None:
    """P-08: 200 MiB of output without a newline pass through; the command's resident memory stays small."""
    report = tmp_path / "status"
    script = "head -c 209715200 /dev/zero; head -c 1048576 /dev/zero >&2"
    measure = (
        "import os, subprocess, sys; p = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL,"
        "stderr=subprocess.DEVNULL); _, status, usage = os.wait4(p.pid, 0);"
        "open(sys.argv[1], 'w').write(f'{status} {usage.ru_maxrss}')"
    )
    words = mesocosm.words("run", "--rm", "-q", f"dir:{image()}", "sh", "-c", script)
    subprocess.run(
        [sys.executable, "-c", measure, report, *words], env=mesocosm.environment, timeout=60, check=True
    )
    status, resident = map(int, report.read_text().split())
    assert status == 0
    assert resident < 128 << 10  # KiB


def test_p08_a_failing_image_says_little(mesocosm: CommandLine, image: Image) -> None:
    """P-08: a name of 100 KiB in the image does not become a message of 100 KiB; benign twin: it runs."""
    root = spoil(image(), {"long": "x/" * 2000})
    done = mesocosm.run(root, "/long")
    assert done.status in (126, 127)
    assert len(done.err) < 8192
    assert mesocosm.run(root, "true").accepted() == ""
