"""Contributions of namespaces/*."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from fixtures.isolation import host, prepare
from mesocosm.errors import InvalidConfig
from mesocosm.model import NamespaceModes
from mesocosm.plan import Contribution
from mesocosm.plan.operations import LoopbackUp, SetHostname


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("pid", Contribution(namespaces=("pid",), notes=("process IDs: its own",))),
        ("ipc", Contribution(namespaces=("ipc",), notes=("shared memory: its own",))),
        ("cgroup", Contribution(namespaces=("cgroup",), notes=("cgroup names: its own",))),
        (
            "net",
            Contribution(namespaces=("net",), steps=(LoopbackUp(),), notes=("network: none but loopback",)),
        ),
        (
            "uts",
            Contribution(
                namespaces=("uts",),
                steps=(SetHostname(name="0123456789ab"),),
                notes=("host name: 0123456789ab",),
            ),
        ),
    ],
)
def test_each_gives_a_namespace_of_its_own(kind: str, expected: Contribution, tmp_path: Path) -> None:
    assert prepare(f"namespaces/{kind}", host(tmp_path)) == expected


@pytest.mark.parametrize("kind", ["pid", "ipc", "cgroup", "net", "uts"])
def test_sharing_the_hosts_contributes_a_note_only(kind: str, tmp_path: Path) -> None:
    found = prepare(
        f"namespaces/{kind}", host(tmp_path), namespaces=msgspec.convert({kind: "host"}, NamespaceModes)
    )
    assert found == Contribution(notes=found.notes)
    assert found.notes[0].endswith("the host's")


def test_a_host_name_is_taken_as_asked(tmp_path: Path) -> None:
    assert prepare("namespaces/uts", host(tmp_path), hostname="web-1.example").steps == (
        SetHostname(name="web-1.example"),
    )


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a b", "a\n127.0.0.1 bank.example", "a" * 65, "\u0663", "a/b", "a\x00"]
)
def test_a_host_name_cannot_smuggle_lines_into_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="is not allowed"):
        prepare("namespaces/uts", host(tmp_path), hostname=name)


def test_a_host_name_with_the_hosts_namespace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="would become the host's own"):
        prepare("namespaces/uts", host(tmp_path), hostname="a", namespaces=NamespaceModes(uts="host"))


def test_a_shm_size_with_the_hosts_namespace_is_refused_ns_ipc_1(tmp_path: Path) -> None:
    shared = NamespaceModes(ipc="host")
    with pytest.raises(InvalidConfig, match="size of /dev/shm cannot be chosen"):
        prepare("namespaces/ipc", host(tmp_path), shm_size=1 << 20, namespaces=shared)
    assert prepare("namespaces/ipc", host(tmp_path), namespaces=shared).namespaces == ()


@pytest.mark.parametrize(
    ("id", "name"),
    [("a", "a"), ("pod.web", "web"), ("0123456789a-bcd", "0123456789a"), ("x_", "x")],
)
def test_the_default_name_is_the_short_id(id: str, name: str, tmp_path: Path) -> None:
    assert prepare("namespaces/uts", host(tmp_path), id=id).steps == (SetHostname(name=name),)


def test_a_shared_name_is_the_hosts_own(tmp_path: Path) -> None:
    steps = prepare("image/runtime", host(tmp_path), namespaces=NamespaceModes(uts="host"))
    assert f"HOSTNAME={os.uname().nodename}" in steps.environment
