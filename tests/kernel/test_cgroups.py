"""linux/cgroups on this host: created, limited, joined, killed, removed, in all hierarchies as one."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from fixtures import host
from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.linux import processes, syscalls
from mesocosm.linux.cgroups import Cgroup, CgroupTree, Hierarchy, Layout
from mesocosm.linux.devices import DEFAULT, DeviceRule, allow_only, read_v1


@pytest.fixture
async def tree(cgroup_root: str) -> AsyncIterator[CgroupTree]:
    """A tree of this test's own; every container in it is killed and removed at the end."""
    made = CgroupTree.detect(cgroup_root)
    yield made
    for container in reversed(made.list()):
        await made.kill_all(container)
        await made.remove(container)
    made.remove_parent()


class Member(NamedTuple):
    """A child in a container's cgroups, and what it wrote."""

    pid: int
    pidfd: int
    output: int

    def close(self) -> int:
        """Reap, when it has ended; exit status as of `processes.wait`."""
        try:
            return processes.wait(self.pidfd)
        finally:
            os.close(self.pidfd)
            os.close(self.output)

    def read(self) -> str:
        """Everything it writes until it ends."""
        text = b""
        while piece := os.read(self.output, 65536):
            text += piece
        return text.decode()


def enter(tree: CgroupTree, container: str, act: Callable[[int], object]) -> Member:
    """Start ``act(writer)`` in all cgroups of the container: born in v2's, joined to v1's."""
    targets = tree.join_targets(container)
    directory = None if targets.directory is None else os.open(targets.directory, os.O_RDONLY)
    reader, writer = os.pipe()
    pid, pidfd = syscalls.clone3(0, exit_signal=signal.SIGCHLD, pidfd=True, cgroup_fd=directory)
    if pid == 0:
        with suppress(BaseException):
            for path in targets.files:
                fd = os.open(path, os.O_WRONLY)
                os.write(fd, b"0")
                os.close(fd)
            act(writer)
            os._exit(0)
        os._exit(1)
    os.close(writer)
    if directory is not None:
        os.close(directory)
    return Member(pid, pidfd, reader)


def pause(writer: int) -> None:
    os.write(writer, b"in")
    while True:
        signal.pause()


@contextmanager
def waiting(tree: CgroupTree, container: str):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """A member that is in its cgroups and waits; killed at the end."""
    member = enter(tree, container, pause)
    assert os.read(member.output, 2) == b"in"
    try:
        yield member
    finally:
        with suppress(ProcessLookupError):
            syscalls.pidfd_send_signal(member.pidfd, signal.SIGKILL)
        member.close()


# --- making and removing ------------------------------------------------------------------------------------


async def test_create_and_remove_in_every_hierarchy(tree: CgroupTree) -> None:
    tree.create("a", tree.controllers)
    tree.create("a", tree.controllers)
    for controller in (*tree.controllers, "tree"):
        group = tree.of("a", controller)
        assert group.exists() and group.has("cgroup.procs"), controller
        assert group.version == tree.version(controller)
    assert tree.exists("a") and not tree.populated("a")
    assert tree.list() == ("a",)
    await tree.remove("a")
    await tree.remove("a")
    assert not tree.exists("a") and tree.list() == ()


async def test_only_what_is_asked_for_is_made(tree: CgroupTree) -> None:
    tree.create("a", ["pids"])
    assert tree.of("a", "pids").exists()
    assert tree.tracking("a").exists()
    if tree.version("memory") == 1:
        assert not tree.of("a", "memory").exists()
    await tree.remove("a")


async def test_unknown_controllers_and_ids_are_refused_before_anything_is_made(tree: CgroupTree) -> None:
    with pytest.raises(Unsupported, match="flux"):
        tree.create("a", ["memory", "flux"])
    for name in ("../x", "a/b", "", "."):
        with pytest.raises(InvalidConfig):
            tree.create(name, ["memory"])
    assert tree.list() == ()


async def test_nested_containers_are_below_their_parents_and_go_with_them(tree: CgroupTree) -> None:
    tree.create("a", ["pids"])
    tree.create("a.b.c", ["pids"])
    assert tree.list() == ("a", "a.b", "a.b.c")
    assert tree.of("a.b.c", "pids").path == tree.of("a", "pids").path + "/b/c"
    with waiting(tree, "a.b.c") as inner, waiting(tree, "a") as outer:
        assert set(tree.pids("a")) == {inner.pid, outer.pid}
        assert tree.pids("a.b") == tree.pids("a.b.c") == [inner.pid]
        with pytest.raises(OSError) as raised:
            await tree.remove("a", within=0)
        assert raised.value.errno == errno.EBUSY
        await tree.kill_all("a.b")
        assert tree.pids("a") == [outer.pid]
        await tree.kill_all("a")
    await tree.remove("a")
    assert tree.list() == ()


async def test_an_interface_files_name_is_not_taken_for_a_cgroup(tree: CgroupTree) -> None:
    tree.create("a", ["pids"])
    with pytest.raises(FileExistsError):
        Cgroup(f"{tree.of('a', 'pids').path}/cgroup.procs", tree.version("pids")).create()


async def test_a_cpuset_may_be_entered_at_once(tree: CgroupTree) -> None:
    """A v1 cpuset refuses processes until it has been told its processors and memory nodes."""
    if "cpuset" not in tree.controllers:
        host.refuse("this host has no cpuset controller")
    tree.create("a.b", ["cpuset"])
    with waiting(tree, "a.b") as member:
        assert member.pid in tree.of("a.b", "cpuset").all_procs()


# --- files --------------------------------------------------------------------------------------------------


async def test_limits_are_written_read_and_refused_with_the_path(tree: CgroupTree) -> None:
    tree.create("a", ["pids", "memory"])
    pids = tree.of("a", "pids")
    assert pids.read_limit("pids.max") is None
    pids.write("pids.max", 17)
    assert (pids.read_limit("pids.max"), pids.read_int("pids.current")) == (17, 0)
    with pytest.raises(OSError, match="many") as raised:
        pids.write("pids.max", "many")
    assert (raised.value.errno, raised.value.filename) == (errno.EINVAL, f"{pids.path}/pids.max")
    assert pids.read_limit("pids.max") == 17
    with pytest.raises(FileNotFoundError) as missing:
        pids.write("pids.nonsense", 1)
    assert missing.value.filename == f"{pids.path}/pids.nonsense"
    memory = tree.of("a", "memory")
    name = {1: "memory.limit_in_bytes", 2: "memory.max"}[memory.version]
    assert memory.read_limit(name) is None
    memory.write(name, 8 << 20)
    assert memory.read_limit(name) == 8 << 20
    assert memory.read_table("memory.stat")[{1: "rss", 2: "anon"}[memory.version]] == 0


async def test_what_is_gone_reads_as_empty_or_missing(tree: CgroupTree) -> None:
    group = tree.of("gone", "pids")
    assert group.procs() == [] and group.children() == [] and not group.populated()
    with pytest.raises(FileNotFoundError):
        group.read("cgroup.procs")
    group.remove()
    await tree.kill_all("gone")
    await tree.wait_empty("gone")
    await tree.remove("gone")


# --- joining ------------------------------------------------------------------------------------------------


async def test_a_member_is_in_every_cgroup_of_the_container(tree: CgroupTree) -> None:
    tree.create("a", tree.controllers)
    with waiting(tree, "a") as member:
        text = Path(f"/proc/{member.pid}/cgroup").read_text()
        served = [line for line in text.splitlines() if f"/{tree.parent}/a" in line]
        hierarchies = {tree.of("a", controller).path for controller in (*tree.controllers, "tree")}
        assert len(served) == len(hierarchies)
        assert tree.pids("a") == [member.pid]
        assert tree.populated("a")
        child_of_test = os.getpid()
        assert f"/{tree.parent}/" not in Path(f"/proc/{child_of_test}/cgroup").read_text()


@contextmanager
def delegated(tree: CgroupTree):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """A host of pure v2 where all we may use is a cgroup that holds a process already: a container's view."""
    unified = tree.layout.unified
    if unified is None or not unified.controllers:
        host.refuse("this host has no v2 hierarchy with a controller")
    base = Cgroup(f"{unified.base}/{tree.parent}", 2)
    outer = CgroupTree(Layout("v2", (unified,)), tree.parent)
    outer.create("base", unified.controllers)
    inner = base.child("base").child("inner")
    handed_down = " ".join(f"+{controller}" for controller in unified.controllers)
    Cgroup(f"{base.path}/base", 2).write("cgroup.subtree_control", handed_down)
    inner.create()
    view = Layout("v2", (Hierarchy(2, unified.mount_point, inner.path, unified.controllers),))
    yield CgroupTree(view, "pair"), inner
    inner.remove()


def _most_awkward(controllers: tuple[str, ...]) -> str:
    """One that the kernel hands down in spite of processes, by making the group a threaded domain."""
    return next((c for c in ("pids", "cpuset", "cpu") if c in controllers), controllers[0])


async def test_a_delegated_cgroup_with_processes_in_it_is_made_room_in(tree: CgroupTree) -> None:
    """cgroup-v2.rst, no internal processes: ours move to a leaf before controllers are handed down."""
    with delegated(tree) as (view, inner):
        controller = _most_awkward(view.layout.hierarchies[0].controllers)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        try:
            inner.write("cgroup.procs", pid)
            view.create("a", ["devices"])
            view.create("a.b", [controller, "devices", "freezer"])
            assert inner.procs() == []
            assert inner.child(".leaf").procs() == [pid]
            for name in ("a", "a.b"):
                group = view.of(name, controller)
                assert controller in group.read("cgroup.controllers").split()
                assert view.of(name, "devices").path == group.path
            with waiting(view, "a.b") as one, waiting(view, "a") as other:
                assert view.of("a.b", controller).procs() == [one.pid]
                assert view.of("a", controller).child(".leaf").procs() == [other.pid]
                assert set(view.pids("a")) == {one.pid, other.pid}
            await view.kill_all("a")
            await view.remove("a")
            view.remove_parent()
        finally:
            os.close(writer)
            os.waitpid(pid, 0)  # noqa: ASYNC222


# --- killing ------------------------------------------------------------------------------------------------


def bomb(writer: int) -> None:
    """Fork for ever, each child doing the same, in sessions of their own, deaf to every signal that can
    be.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(writer, b"in")
    while True:
        with suppress(OSError):
            if os.fork() == 0:
                os.setsid()


@pytest.mark.slow
async def test_r34_a_fork_bomb_is_held_and_killed(tree: CgroupTree) -> None:
    tree.create("a", ["pids"])
    pids = tree.of("a", "pids")
    pids.write("pids.max", 64)
    member = enter(tree, "a", bomb)
    await asyncio.wait_for(pids.wait("pids.events", "max"), 30)
    assert pids.read_int("pids.current") <= 64
    await tree.kill_all("a")
    assert tree.pids("a") == []
    assert member.close() == -signal.SIGKILL
    await tree.remove("a")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no cgroup.kill", "v1 freezer"])
async def test_a_fork_bomb_is_killed_without_the_kernels_help(
    tree: CgroupTree, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 5.14, and pure v1 hosts."""
    real = Cgroup.has
    monkeypatch.setattr(Cgroup, "has", lambda group, name: name != "cgroup.kill" and real(group, name))
    if kind == "v1 freezer":
        if tree.layout.mode == "v2":
            host.refuse("this host has no v1 freezer")
        v1 = tuple(h for h in tree.layout.hierarchies if h.version == 1)
        tree = CgroupTree(type(tree.layout)("v1", v1), tree.parent)
    tree.create("a", ["pids"])
    tree.of("a", "pids").write("pids.max", 64)
    member = enter(tree, "a", bomb)
    assert os.read(member.output, 2) == b"in"
    await tree.kill_all("a")
    assert tree.pids("a") == []
    assert member.close() == -signal.SIGKILL
    await tree.remove("a")


@pytest.mark.parametrize("file", ["freezer.state", "cgroup.freeze"])
async def test_the_frozen_are_killed_too(tree: CgroupTree, file: str) -> None:
    tree.create("a.b", ["freezer"])
    group = next((g for g in (tree.of("a", "freezer"), tree.tracking("a")) if g.has(file)), None)
    if group is None:
        host.refuse(f"this host has no {file}")
    with waiting(tree, "a.b") as member:
        group.write(file, {"freezer.state": "FROZEN", "cgroup.freeze": "1"}[file])
        await tree.kill_all("a")
        assert processes.has_ended(member.pidfd)


async def test_only_the_containers_own_are_killed(tree: CgroupTree) -> None:
    tree.create("a", ["pids"])
    tree.create("b", ["pids"])
    with waiting(tree, "a") as one, waiting(tree, "b") as other:
        await tree.kill_all("a")
        assert processes.has_ended(one.pidfd)
        assert not processes.has_ended(other.pidfd)


async def test_a_member_that_left_the_tracking_cgroup_is_killed_all_the_same(tree: CgroupTree) -> None:
    """A process that its root moved elsewhere in one hierarchy is still found by the others."""
    tree.create("a", ["pids"])
    if tree.of("a", "pids").path == tree.tracking("a").path:
        host.refuse("one hierarchy only: nothing to leave for")
    with waiting(tree, "a") as member:
        outside = os.path.dirname(os.path.dirname(tree.tracking("a").path))
        Cgroup(outside, tree.version("tree")).write("cgroup.procs", member.pid)
        assert not tree.tracking("a").populated()
        assert tree.populated("a")
        await tree.kill_all("a")
        assert processes.has_ended(member.pidfd)


async def test_waiting_for_the_last_process(tree: CgroupTree) -> None:
    tree.create("a", ["pids"])
    with waiting(tree, "a") as member:
        empty = asyncio.ensure_future(tree.wait_empty("a"))
        await asyncio.sleep(0)
        assert not empty.done()
        syscalls.pidfd_send_signal(member.pidfd, signal.SIGKILL)
        await asyncio.wait_for(empty, 10)
    assert not tree.populated("a")


async def test_a_cancelled_wait_leaves_no_descriptor(tree: CgroupTree) -> None:
    tree.create("a", ["pids", "memory"])
    memory = tree.of("a", "memory")
    file = {1: "memory.oom_control", 2: "memory.events"}[memory.version]
    before = sorted(os.listdir("/proc/self/fd"))
    with waiting(tree, "a"):
        for wait in (tree.wait_empty("a"), memory.wait(file, "oom_kill")):
            task = asyncio.ensure_future(wait)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert sorted(os.listdir("/proc/self/fd")) == before


# --- memory -------------------------------------------------------------------------------------------------


def hog(writer: int) -> None:
    os.write(writer, b"in")
    pages = bytearray(64 << 20)
    pages[::4096] = b"x" * len(pages[::4096])


@pytest.mark.parametrize("turns", range(0, 24, 3))
async def test_a_wait_cancelled_while_its_cgroup_goes_leaves_no_descriptor(
    tree: CgroupTree, turns: int
) -> None:
    """As when a short-lived container ends: at any turn of the event loop."""
    before = sorted(os.listdir("/proc/self/fd"))
    for number in range(4):
        tree.create(f"a{number}", ["memory"])
        memory = tree.of(f"a{number}", "memory")
        file = {1: "memory.oom_control", 2: "memory.events"}[memory.version]
        task = asyncio.ensure_future(memory.wait(file, "oom_kill"))
        await asyncio.sleep(0)
        await tree.remove(f"a{number}")
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(10):
        while sorted(os.listdir("/proc/self/fd")) != before:  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.slow
async def test_running_out_of_memory_is_told_and_still_known_afterwards(tree: CgroupTree) -> None:
    """A kill that happened while nobody watched is reported by the first look (isolator contract, watch)."""
    tree.create("a", ["memory"])
    memory = tree.of("a", "memory")
    v1 = memory.version == 1
    memory.write("memory.limit_in_bytes" if v1 else "memory.max", 16 << 20)
    file = "memory.oom_control" if v1 else "memory.events"
    held, go = os.pipe()

    def told_hog(writer: int) -> None:
        os.read(held, 1)
        hog(writer)

    # Cloned before the wait has a thread: a child that is no fork(3) would keep the locks that one holds.
    member = enter(tree, "a", told_hog)
    watch = asyncio.ensure_future(memory.wait(file, "oom_kill"))
    await asyncio.sleep(0)
    assert not watch.done()
    os.write(go, b"x")
    os.close(go)
    os.close(held)
    assert await asyncio.wait_for(watch, 60) >= 1
    assert member.close() == -signal.SIGKILL
    assert await asyncio.wait_for(memory.wait(file, "oom_kill"), 1) >= 1


async def test_a_watched_cgroup_that_goes_away_ends_the_wait(tree: CgroupTree) -> None:
    tree.create("a", ["memory"])
    memory = tree.of("a", "memory")
    file = {1: "memory.oom_control", 2: "memory.events"}[memory.version]
    watch = asyncio.ensure_future(memory.wait(file, "oom_kill"))
    await asyncio.sleep(0)
    await tree.remove("a")
    if memory.version == 2:
        watch.cancel()  # kernfs tells inotify of a removed directory on recent kernels only
        await asyncio.gather(watch, return_exceptions=True)
        watch = asyncio.ensure_future(memory.wait(file, "oom_kill"))
    with pytest.raises(FileNotFoundError):
        await asyncio.wait_for(watch, 10)


# --- devices ------------------------------------------------------------------------------------------------


def try_devices(writer: int) -> None:
    answers = []
    for path in ("/dev/null", "/dev/zero", "/dev/full"):
        try:
            os.close(os.open(path, os.O_RDWR))
            answers.append("yes")
        except PermissionError:
            answers.append("no")
    os.write(writer, " ".join(answers).encode())


@pytest.mark.parametrize("version", [1, 2])
async def test_r24_devices_are_refused_by_either_version(tree: CgroupTree, version: int) -> None:
    """Default list, a narrower one in its place, a wider one again; the list of neither is added to the
    other.
    """
    tree.create("a", ["devices"])
    group = tree.tracking("a") if version == 2 else tree.of("a", "devices")
    if group.version != version:
        host.refuse(f"this host has no v{version} hierarchy")

    def answers() -> str:
        member = enter(tree, "a", try_devices)
        said = member.read()
        assert member.close() == 0
        return said

    null, zero = (DeviceRule.parse(text) for text in ("c 1:3 rw", "c 1:5 rw"))
    assert answers() == "yes yes yes"
    for rules, wanted in (
        (DEFAULT, "yes yes yes"),
        ([null], "yes no no"),
        ([zero], "no yes no"),
        ([DeviceRule("c", 1, 5, "r"), null], "yes no no"),
        ([], "no no no"),
        (DEFAULT, "yes yes yes"),
    ):
        allow_only(group, list(rules))
        assert answers() == wanted, [str(rule) for rule in rules]
        if version == 1:
            assert sorted(read_v1(group), key=str) == sorted(rules, key=str)
