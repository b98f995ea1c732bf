"""The gate must see each kind of leak, or it guards nothing; and see none where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from fixtures import leaks, reaper

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_nothing_is_reported_when_nothing_was_left(tmp_path: Path) -> None:
    before = leaks.take()
    (tmp_path / "file").write_text("inside the test's own folder")
    subprocess.run(["true"], check=True)
    assert leaks.left_behind(before) == []


def test_descriptor_is_seen(tmp_path: Path) -> None:
    before = leaks.take()
    fd = os.open(tmp_path, os.O_RDONLY)
    found = leaks.left_behind(before)
    os.close(fd)
    assert found == [f"descriptor: {fd} -> {tmp_path}"]


def test_missing_descriptor_is_seen(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    before = leaks.take()
    os.close(fd)
    assert leaks.left_behind(before) == [f"descriptor gone: {fd} -> {tmp_path}"]


def test_process_is_seen_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE", 0.0)
    before = leaks.take()
    process = subprocess.Popen(["sleep", "600"])
    found = leaks.left_behind(before)
    leaks.put_right(before)
    assert found == [f"process: {process.pid} sleep 600 (state {found[0][-2]})"]
    assert leaks.left_behind(before) == []
    process.wait()


def test_orphaned_process_is_seen_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon: new session, its parent gone, an empty environment."""
    monkeypatch.setattr(leaks, "GRACE", 0.0)
    before = leaks.take()
    script = "setsid sleep 601 </dev/null >/dev/null 2>&1 & echo $!"
    printed = subprocess.run(
        ["env", "-i", "/bin/sh", "-c", script], capture_output=True, text=True, check=True
    )
    found = leaks.left_behind(before)
    leaks.put_right(before)
    assert [line.split(" ")[:2] for line in found] == [["process:", printed.stdout.strip()]]
    assert leaks.left_behind(before) == []


def test_process_that_is_just_ending_is_waited_for() -> None:
    before = leaks.take()
    read, write = os.pipe()
    subprocess.run(["/bin/sh", "-c", "exec 3<&0; read -r _ <&3 &"], check=True, stdin=read)
    assert set(leaks.take().processes) - before.processes
    os.close(read)
    os.close(write)
    assert leaks.left_behind(before) == []


def test_zombie_is_seen() -> None:
    before = leaks.take()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    found = leaks.left_behind(before)
    os.waitpid(pid, 0)
    assert len(found) == 1
    assert found[0].endswith("(state Z, ended and never waited for)")


def test_orphans_are_reaped_as_by_an_init() -> None:
    script = "/bin/true & echo $!"
    printed = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    fd = os.pidfd_open(reaper.session().reaper)
    os.close(fd)
    assert int(printed.stdout) not in reaper.children(os.getpid())


def test_thread_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE", 0.0)
    before = leaks.take()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left over")
    thread.start()
    found = leaks.left_behind(before)
    stop.set()
    thread.join()
    assert found == [f"thread: left over ({thread.ident})"]


def test_sockets_are_seen(tmp_path: Path) -> None:
    before = leaks.take()
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as named:
        abstract.bind(f"\0{leaks.RUN}")
        named.bind(str(tmp_path / "socket"))
        found = leaks.left_behind(before)
    assert f"socket: @{leaks.RUN}" in found
    assert f"socket: {tmp_path}/socket" in found


def test_file_in_a_shared_place_is_seen() -> None:
    path = Path("/dev/shm") / leaks.RUN
    before = leaks.take()
    path.touch()
    found = leaks.left_behind(before)
    path.unlink()
    assert found == [f"file: {path}"]


@as_root
def test_mount_is_seen_and_removed(tmp_path: Path) -> None:
    target = tmp_path / "with space"
    target.mkdir()
    before = leaks.take()
    subprocess.run(["mount", "-t", "tmpfs", "left", target], check=True)
    found = leaks.left_behind(before)
    leaks.put_right(before)
    assert len(found) == 1
    assert "with\\040space" in found[0]
    assert leaks.left_behind(before) == []


@as_root
def test_mounts_of_other_programs_do_not_show(tmp_path: Path) -> None:
    before = leaks.take()
    subprocess.run(
        ["nsenter", f"--mount=/proc/{reaper.session().reaper}/ns/mnt", "mount", "-t", "tmpfs", "o", tmp_path],
        check=True,
    )
    found = leaks.left_behind(before)
    subprocess.run(
        ["nsenter", f"--mount=/proc/{reaper.session().reaper}/ns/mnt", "umount", tmp_path], check=True
    )
    assert found == []


@as_root
def test_cgroup_is_seen_and_removed(cgroup_root: str) -> None:
    hierarchy = next(path for path in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") if os.path.isdir(path))
    path = Path(hierarchy) / cgroup_root / "below"
    before = leaks.take()
    path.mkdir(parents=True)
    found = leaks.left_behind(before)
    leaks.put_right(before)
    assert found == [f"cgroup: {path.parent}", f"cgroup: {path}"]
    assert not path.parent.exists()


def test_changes_by_others_count_only_where_the_machine_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    before = leaks.take()
    strange = {"/dev/shm/mesocosm-of-another-run", "/dev/shm/of-another-program"}
    other = before._replace(files=before.files | strange, links=before.links | {"veth0"})
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("MESOCOSM_REQUIRE_ALL", raising=False)
    assert list(leaks._differences(before, other)) == []
    monkeypatch.setenv("CI", "true")
    assert list(leaks._differences(before, other)) == [
        "link: veth0",
        "file: /dev/shm/mesocosm-of-another-run",
    ]
