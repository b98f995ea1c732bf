"""The installed command as an attacker's victim would use it, and what to demand of its answers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PROGRAM = os.path.join(os.path.dirname(sys.executable), "mesocosm")
PATIENCE = 60
"""Seconds after which an answer counts as a hang (attacks §1.0)."""


class Answer(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    def accepted(self) -> str:
        """The output of a command that did what it should."""
        assert self.status == 0, f"status {self.status}\n{self.out[-2000:]}\n{self.err[-2000:]}"
        return self.out

    def refused(self, pattern: str = "") -> str:
        """The one line of a command that refused, with a status that is not the payload's."""
        assert self.status in (1, 2, 125, 126, 127), f"status {self.status}\n{self.out}\n{self.err}"
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("mesocosm: "), self.err
        assert "fault of ours" not in self.err
        assert re.search(pattern, self.err), self.err
        return lines[0]


class CommandLine:
    """One pair of roots below ``base`` and the command that works on them.  Call it with the words."""

    def __init__(self, base: Path) -> None:
        self.root = base / "state"
        self.runtime = base / "run"
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(base)}

    def words(self, *words: str | Path) -> list[str]:
        """The whole command."""
        return [PROGRAM, "--root", str(self.root), "--runtime", str(self.runtime), *map(str, words)]

    def __call__(
        self,
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        **options: Any,  # noqa: ANN401  (subprocess.run's own)
    ) -> Answer:
        done = subprocess.run(
            self.words(*words),
            stdin=options.pop("stdin", subprocess.DEVNULL),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=PATIENCE,
            env={**self.environment, **(env or {})},
            check=False,
            **options,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def run(self, image: Path, *words: str | Path, options: tuple[str | Path, ...] = ()) -> Answer:
        """``run --rm`` of a directory as the image."""
        return self("run", "--rm", "-q", *options, f"dir:{image}", *words)

    def shell(self, image: Path, script: str, *options: str | Path) -> Answer:
        """A shell script in a container of its own."""
        return self.run(image, "sh", "-c", textwrap.dedent(script), options=options)

    def python(self, image: Path, script: str, *options: str | Path) -> Answer:
        """A Python script in a container of an image with Python."""
        return self.run(image, "python3", "-I", "-c", textwrap.dedent(script), options=options)

    def start(self, image: Path, *words: str, options: tuple[str | Path, ...] = ()) -> str:
        """A container that goes on; its ID."""
        return self("run", "-d", "-q", *options, f"dir:{image}", *words).accepted().strip()

    def exec(self, container: str, *words: str) -> Answer:
        """A further process in it."""
        return self("exec", container, *words)

    def leave(self) -> None:
        """End everything; nothing of it may be left."""
        listed = self("ps", "-aq").accepted().split()
        if listed:
            self("rm", "--force", *listed).accepted()
        assert self("ps", "-aq").accepted() == ""


@contextlib.contextmanager
def exchanging(folder: Path, name: str, other: str, *, forgiving: bool = False) -> Iterator[None]:
    """Meanwhile a process of its own swaps two names in a folder as fast as it can.

    With ``forgiving`` it may end before it is told to: what it swaps goes away.
    """
    script = Path(__file__).parent / "exchanger.py"
    with subprocess.Popen(
        [sys.executable, script, folder, name, other],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "swapping\n"
            yield
            assert forgiving or process.poll() is None
        finally:
            process.kill()


def copy_root(source: Path, target: Path, *without: str) -> Path:
    """A root of the test's own to spoil, less some paths."""
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)
    for name in without:
        place = target / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    return target


def spoil(root: Path, links: Mapping[str, str | Path]) -> Path:
    """Put symbolic links into a root, in place of what is there."""
    for name, target in links.items():
        place = root / name
        if place.is_symlink() or place.is_file():
            place.unlink()
        elif place.is_dir():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    return root
