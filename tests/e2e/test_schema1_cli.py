"""An image in docker's schema 1 as its users meet it: by the command line, refused and allowed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from attacks.commandline import Answer, CommandLine
from fixtures.images import Layout
from fixtures.registry import Registry

HOST = """\
set -e
mount -t tmpfs policy "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" policy /etc
mkdir -p /etc/mesocosm
printf '%s' "$2" >/etc/mesocosm/policy.toml
shift 2
exec "$@"
"""
"""Runs a command where /etc has a policy, which is gone with the command."""


class AllowingHost:
    """The command on a host with a policy of its own."""

    def __init__(self, commands: CommandLine, folder: Path, rules: str) -> None:
        self._commands = commands
        self._before = [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            HOST,
            "sh",
            str(folder),
            rules,
        ]

    def __call__(self, *words: str | Path) -> Answer:
        done = subprocess.run(
            [*self._before, *self._commands.words(*words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=self._commands.environment,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)


def test_it_is_refused_with_the_reason_and_runs_where_policy_allows_it(
    mesocosm: CommandLine, registry: Registry, busybox_oci: Layout, tmp_path: Path
) -> None:
    name = registry.push(busybox_oci, "old/box:1", "--format", "v2s1")
    assert "allow-schema1" in mesocosm("pull", name).refused("is in docker's schema 1")
    memory = tmp_path / "memory"
    memory.mkdir()
    allowing = AllowingHost(mesocosm, memory, 'allow-schema1 = ["127.0.0.1:*/old/*"]\n')
    assert allowing("run", "--rm", "-q", name).accepted() == "hello from busybox\n"
    (told,) = json.loads(allowing("image", "inspect", name).accepted())
    assert told["RepoDigests"] == [f"{registry.host}/old/box@{told['Origin']}"]
    pinned = allowing("pull", "-q", told["RepoDigests"][0]).accepted()
    assert pinned.strip() == told["Digest"] != told["Origin"]
    assert "sound" in allowing("image", "verify", name).accepted()
    assert allowing("push", "-q", name, f"{registry.host}/new/box:1").accepted().strip() == told["Digest"]
    mesocosm("run", "--rm", "-q", name).refused("allow-schema1")
    assert mesocosm("run", "--rm", "-q", f"{registry.host}/new/box:1").status == 0
