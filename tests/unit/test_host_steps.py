"""What the host's side does before the fork, in plain directories; the kernel's part is in tests/kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fixtures.isolation import NAME, host
from mesocosm import host_steps
from mesocosm.errors import Busy, InvalidConfig, MesocosmError, NotFound, Unsupported
from mesocosm.isolators.host import Host
from mesocosm.linux.cgroups import Cgroup, CgroupTree
from mesocosm.model import ContainerID
from mesocosm.plan import (
    AllowDevices,
    Contribution,
    HostAction,
    MakeCgroup,
    MakeHostDirectory,
    WriteCgroup,
    WriteHostFile,
)
from mesocosm.plan.operations import JoinCgroup

ID = ContainerID.parse(NAME)


def apply(where: Host, *steps: HostAction) -> None:
    host_steps.apply(steps, ID, where)


def test_directories_are_made_with_their_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        apply(host(tmp_path), MakeHostDirectory(path=f"{tmp_path}/a/b", mode=0o755))
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o7777 for name in ("a", "a/b")] == [0o755, 0o755]


def test_a_directory_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    apply(host(tmp_path), MakeHostDirectory(path=f"{tmp_path}/a", mode=0o777))
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_files_are_written_whole_and_again(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    for content in ("a longer text\n", "short\n"):
        apply(host(tmp_path), WriteHostFile(path=str(path), content=content, mode=0o604))
        assert path.read_text() == content
    assert path.stat().st_mode & 0o7777 == 0o604


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("kept")
    (tmp_path / "hosts").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidConfig, match="cannot write"):
        apply(host(tmp_path), WriteHostFile(path=f"{tmp_path}/hosts", content="x"))
    assert (tmp_path / "secret").read_text() == "kept"


def test_a_file_in_the_way_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for path in ("a", "a/b"):
        with pytest.raises(InvalidConfig, match=f"cannot make directory {tmp_path}/{path}"):
            apply(host(tmp_path), MakeHostDirectory(path=f"{tmp_path}/{path}"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Which cgroups are made, without any."""
    seen: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(
        CgroupTree,
        "create",
        lambda self, container, controllers: seen.append((container, tuple(controllers))),
    )
    return seen


def test_cgroups_are_made_as_one(tmp_path: Path, made: list[tuple[str, tuple[str, ...]]]) -> None:
    apply(host(tmp_path), *(MakeCgroup(controller=name) for name in ("tree", "cpu", "memory")))
    assert made == [(NAME, ("cpu", "memory"))]


def test_none_are_made_unasked(tmp_path: Path, made: list[tuple[str, tuple[str, ...]]]) -> None:
    apply(host(tmp_path), MakeHostDirectory(path=f"{tmp_path}/a"))
    assert made == []


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.EINVAL, InvalidConfig, "refuses the processor limit"),
        (errno.EBUSY, InvalidConfig, "refuses '1 2'"),
        (errno.EACCES, Unsupported, "not allowed to write"),
    ],
)
def test_what_the_kernel_refuses_is_said_in_words(
    code: int, kind: type[MesocosmError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Cgroup, name: str, value: str) -> None:
        raise OSError(code, os.strerror(code), f"{self.path}/{name}")

    monkeypatch.setattr(Cgroup, "write", refuse)
    with pytest.raises(kind, match=words):
        apply(host(tmp_path), WriteCgroup(controller="cpu", file="cpu.max", value="1 2"))


def test_a_limit_in_use_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Cgroup, name: str, value: str) -> None:
        raise OSError(errno.EBUSY, "busy", name)

    monkeypatch.setattr(Cgroup, "write", refuse)
    with pytest.raises(Busy, match="cannot become 1 MiB"):
        apply(host(tmp_path), WriteCgroup(controller="memory", file="memory.max", value=str(1 << 20)))


def test_a_file_that_this_kernel_lacks_is_unsupported(tmp_path: Path) -> None:
    where = host(tmp_path)
    step = WriteCgroup(controller="memory", file="memory.swap.max", value="1")
    with pytest.raises(NotFound, match="the container has no such cgroup"):
        apply(where, step)
    Path(where.cgroups.of(NAME, "memory").path).mkdir(parents=True)
    with pytest.raises(Unsupported, match=r"this kernel has no memory.swap.max"):
        apply(where, step)


def test_cgroups_that_cannot_be_made_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: CgroupTree, container: str, controllers: list[str]) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/sys/fs/cgroup/x")

    monkeypatch.setattr(CgroupTree, "create", refuse)
    with pytest.raises(Unsupported, match="cannot make cgroup /sys/fs/cgroup/x: Permission denied"):
        apply(host(tmp_path), MakeCgroup(controller="tree"))


def test_a_device_list_that_cannot_be_set_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="the device list of .* cannot be set"):
        apply(host(tmp_path, "v1"), AllowDevices(rules=("c 1:3 rwm",)))
    with pytest.raises(InvalidConfig, match="device rule"):
        apply(host(tmp_path, "v1"), AllowDevices(rules=("c 1:3",)))


def test_the_process_tree_is_joined_where_nobody_is_born_into_it(tmp_path: Path) -> None:
    made = MakeCgroup(controller="tree")
    for where in (host(tmp_path, "hybrid"), host(tmp_path, "v2")):
        assert host_steps.process_tree(ID, where) == Contribution(host=(made,))
    tasks = f"{tmp_path}/cgroup/freezer/mesocosm-test/{NAME}/tasks"
    assert host_steps.process_tree(ID, host(tmp_path, "v1")) == Contribution(
        host=(made,), steps=(JoinCgroup(source=tasks),)
    )
