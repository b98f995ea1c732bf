"""From options to one request, as click reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli.request import config_of, limits, options, resources_of
from mesocosm.model import ContainerConfig, Resources


def read(*words: str) -> ContainerConfig:
    """The request that these words after ``run`` make."""
    found: list[ContainerConfig] = []

    @click.command(context_settings={"allow_interspersed_args": False})
    @options
    def command(**given: Any) -> None:  # noqa: ANN401  (click hands options over by name)
        found.append(config_of(given))

    command.main(list(words), standalone_mode=False)
    return found[0]


def changed(base: Resources, *words: str) -> Resources:
    """The limits after ``update`` with these words."""
    found: list[Resources] = []

    @click.command()
    @limits
    def command(**given: Any) -> None:  # noqa: ANN401
        found.append(resources_of(given, base))

    command.main(list(words), standalone_mode=False)
    return found[0]


def test_an_image_alone_asks_for_nothing_else() -> None:
    assert read("host") == ContainerConfig(image="host")


def test_nothing_after_the_image_is_ours() -> None:
    config = read("--name", "a", "host", "ls", "--name", "b", "-m", "--help", "--", "--rm")
    assert config.command == ("ls", "--name", "b", "-m", "--help", "--", "--rm")
    assert config.name == "a"


def test_the_word_none_is_no_image() -> None:
    assert read("none", "true").image is None


def test_every_option_reaches_its_field() -> None:
    config = read(
        *("--name", "n", "-e", "A=1", "-v", "/s:/t", "--tmpfs", "/tmp", "-w", "/w", "-u", "1:2"),
        *("-h", "box", "--entrypoint", "/e", "--read-only", "--cap-add", "NET_ADMIN", "--cap-drop", "ALL"),
        *("--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges=false"),
        *("--ulimit", "core=0", "-m", "1g", "--memory-reservation", "512m", "--memory-swap", "2g"),
        *("--cpus", "1.5", "-c", "512", "--pids-limit", "10", "--shm-size", "1m", "--init", "-l", "k=v"),
        *("--stop-signal", "INT", "--stop-timeout", "3", "--pull", "never", "--platform", "linux/arm64"),
        *("--backend", "copy", "--isolation", "cgroups/cpu, linux/seccomp", "--pid", "host", "--ipc", "host"),
        *("--uts", "host", "--cgroupns", "host", "--net", "host", "--idmap", "0:100000:65536"),
        *("image", "cmd"),
    )
    assert config.image == "image"
    assert config.command == ("cmd",)
    assert config.entrypoint == ("/e",)
    assert config.env == ("A=1",)
    assert [mount.target for mount in config.mounts] == ["/t", "/tmp"]
    assert (config.workdir, config.user, config.hostname) == ("/w", "1:2", "box")
    assert config.read_only
    assert config.init
    assert config.capabilities.add == ("NET_ADMIN",)
    assert config.capabilities.drop == ("ALL",)
    assert config.seccomp == "unconfined"
    assert not config.no_new_privileges
    assert config.rlimits[0].name == "core"
    assert config.resources == Resources(
        cpus=1.5, cpu_shares=512, memory=1 << 30, memory_request=512 << 20, memory_swap=2 << 30, pids=10
    )
    assert config.shm_size == 1 << 20
    assert config.labels == {"k": "v"}
    assert (config.stop_signal, config.stop_timeout) == ("2", 3.0)
    assert config.idmap is not None and config.idmap.describe() == "0:100000:65536"
    assert (config.pull, config.platform, config.backend) == ("never", "linux/arm64", "copy")
    assert config.isolation == ("cgroups/cpu", "linux/seccomp")
    spaces = config.namespaces
    assert {spaces.pid, spaces.ipc, spaces.uts, spaces.cgroup, spaces.net} == {"host"}


def test_an_empty_entrypoint_removes_the_images() -> None:
    assert read("--entrypoint", "", "host").entrypoint == ()
    assert read("host").entrypoint is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("-m", "12q"), "--memory: '12q' is not a size"),
        (("-m", "1k"), "memory: 1 KiB is less than 4 MiB"),
        (("--cpus", "many"), "--cpus: 'many'"),
        (("--security-opt", "apparmor=x"), "--security-opt"),
        (("-u", "a\0b"), "zero byte"),
        (("-w", "relative"), "not an absolute path"),
        (("--tmpfs", "relative"), "not an absolute path"),
        (("--name", "-x"), "name '-x' is not allowed"),
        (("--idmap", ""), "--idmap: '' is not a range"),
        (("--idmap", "0:0:1"), "maps to the host's root"),
        (("--idmap", "1:1:1"), "does not map root"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        read(*words, "host")


@pytest.mark.parametrize("text", ["unconfined", "default", "", "[]"])
def test_a_file_that_is_no_profile_lifts_no_filter(tmp_path: Path, text: str) -> None:
    """CVE-2023-2431's neighbour: the word for no filter counts on the command line, not in a file."""
    file = tmp_path / "profile.json"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=r"seccomp profile .*profile.json is not a JSON object"):
        read("--security-opt", f"seccomp={file}", "host")
    file.write_text(' {"defaultAction": "SCMP_ACT_ALLOW"}')
    assert "SCMP_ACT_ALLOW" in read("--security-opt", f"seccomp={file}", "host").seccomp


def test_an_update_changes_what_is_named_and_nothing_else() -> None:
    base = Resources(memory=64 << 20, cpus=2.0, pids=5)
    assert changed(base, "-m", "128m") == Resources(memory=128 << 20, cpus=2.0, pids=5)
    assert changed(base, "--pids-limit", "-1", "--cpus", "-1") == Resources(memory=64 << 20)
    assert changed(base) == base
