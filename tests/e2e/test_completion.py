"""The Tab key in real shells, on a terminal, with the script that the command prints."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from attacks.commandline import PROGRAM, CommandLine
from fixtures import host
from provisions import image_of
from registry_fixtures import write_layout
from tarballs import file

SETUP = {
    "bash": ("--norc", "--noprofile", "-i"),
    "zsh": ("-f", "-i"),
}
BEFORE = {
    "bash": "bind 'set bell-style none'; bind 'set completion-query-items 0'",
    "zsh": "autoload -U compinit; compinit -u -D; unsetopt beep; setopt no_list_ambiguous no_auto_menu",
}


class Terminal:
    """A shell on a terminal of its own, in which ``mesocosm`` means the command on the test's roots."""

    def __init__(self, shell: str, mesocosm: CommandLine, folder: Path) -> None:
        program = host.tool(shell)
        environment = {
            **mesocosm.environment,
            "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}",
            "MESOCOSM_ROOT": str(mesocosm.root),
            "MESOCOSM_RUNTIME": str(mesocosm.runtime),
            "TERM": "dumb",
            "PS1": "",
            "COLUMNS": "400",
        }
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(program, [shell, *SETUP[shell]], environment)
        self.type(f"{BEFORE[shell]}; stty cols 400\n")
        self.type(f'eval "$(_MESOCOSM_COMPLETE={shell}_source mesocosm)"; echo set-$((40 + 2))\n')
        self.seen("set-42")

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.fd, text.encode())

    def seen(self, wanted: str, seconds: float = 30) -> str:
        """Wait until a text is on the screen, and return everything since the last time."""
        found, end = "", time.monotonic() + seconds
        while wanted not in found:
            if not select.select([self.fd], [], [], max(0.0, end - time.monotonic()))[0]:
                pytest.fail(f"{wanted!r} is not in {found!r}")
            found += os.read(self.fd, 4096).decode(errors="replace")
        return found

    def completed(self, typed: str) -> list[str]:
        """The words of a command line after Tab was pressed once, as the shell would run it."""
        self.type("\x15" + typed + "\t")
        time.sleep(1)
        self.type("\x01printf '<%s>' \x05; echo end-$((40 + 2))\n")
        shown = self.seen("end-42")
        return re.findall(r"<([^>\r\n]*)>", shown[shown.rindex("\n", 0, shown.rindex("end-42")) :])

    def close(self) -> None:
        """Leave."""
        self.type("\x15exit\n")
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest, mesocosm: CommandLine, tmp_path: Path) -> Terminal:
    """A shell, with two images in the store and an archive in its directory."""
    for number in (1, 2):
        path = f"oci:{write_layout(image_of([[file(b'a', b'%d' % number)]]), tmp_path / f'layout-{number}')}"
        mesocosm("pull", "-q", path).accepted()
        mesocosm("tag", path, f"example.org/app{number}:v1").accepted()
        mesocosm("rmi", path).accepted()
    (tmp_path / "here").mkdir()
    (tmp_path / "here/saved.tar").write_bytes(b"")
    return Terminal(str(request.param), mesocosm, tmp_path / "here")


WORDS = [
    ("mesocosm image ins", ["mesocosm", "image", "inspect"]),
    ("mesocosm image inspect example.org/app1", ["mesocosm", "image", "inspect", "example.org/app1:v1"]),
    ("mesocosm rmi example.org/app2:", ["mesocosm", "rmi", "example.org/app2:v1"]),
    ("mesocosm image tree example.org/app2:v", ["mesocosm", "image", "tree", "example.org/app2:v1"]),
    ("mesocosm run --rm example.org/app1:", ["mesocosm", "run", "--rm", "example.org/app1:v1"]),
    ("mesocosm image convert --compression z", ["mesocosm", "image", "convert", "--compression", "zstd"]),
    ("mesocosm load -i sav", ["mesocosm", "load", "-i", "saved.tar"]),
]


def test_the_tab_key(terminal: Terminal) -> None:
    try:
        assert [terminal.completed(typed) for typed, _ in WORDS] == [words for _, words in WORDS]
    finally:
        terminal.close()


VERBS = [
    "inspect",
    "history",
    "tree",
    "diff",
    "tag",
    "pin",
    "unpin",
    "rm",
    "save",
    "convert",
    "verify",
    "push",
]
SCRIPT = """
eval "$(_MESOCOSM_COMPLETE=bash_source mesocosm)"
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE}; COMPREPLY=(); compopt() { COMPREPLY=("$2"); }
    _mesocosm_completion mesocosm
    printf '%s|' "${COMPREPLY[@]}"; echo
done
"""


def test_every_verb_of_images_offers_them(mesocosm: CommandLine, tmp_path: Path) -> None:
    """And options, and what options take; nothing else."""
    path = f"oci:{write_layout(image_of([[file(b'a')]]), tmp_path / 'layout')}"
    mesocosm("pull", "-q", path).accepted()
    mesocosm("tag", path, "example.org/app:1").accepted()
    mesocosm("rmi", path).accepted()
    asked = {f"mesocosm image {verb} ": "example.org/app:1|" for verb in VERBS}
    asked |= {f"mesocosm {verb} ex": "example.org/app:1|" for verb in ("run", "create", "explain", "push")}
    asked |= {
        "mesocosm image inspect example.org/app:": "1|",
        "mesocosm image inspect nothing": "|",
        "mesocosm image prune --ab": "--above|",
        "mesocosm image pull --policy n": "never|newer|",
        "mesocosm load -i ": "default|",
        "mesocosm image import ": "default|",
        "mesocosm image du --f": "--format|",
    }
    done = subprocess.run(
        [host.tool("bash"), "-c", SCRIPT],
        input="".join(f"{line}\n" for line in asked),
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **mesocosm.environment,
            "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}",
            "MESOCOSM_ROOT": str(mesocosm.root),
        },
        check=False,
    )
    assert done.stderr == ""
    assert dict(zip(asked, done.stdout.splitlines(), strict=True)) == asked
