"""Contributions of cgroups/*, and what they read and write, per cgroup layout.

The directories here are plain ones with the files a kernel would have there: only names and formats are
checked.  What a kernel answers is in tests/kernel.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.isolation import MODES, NAME, Mode, container, host, isolator, prepare
from mesocosm.errors import Busy, Exhausted, InvalidConfig, MesocosmError, NotFound, Unsupported
from mesocosm.isolators.cgroups import limits
from mesocosm.isolators.cgroups.cpu import quota, shares, weight
from mesocosm.isolators.cgroups.witness import _printable, examine
from mesocosm.isolators.words import nearest, processors, size
from mesocosm.linux.cgroups import Cgroup
from mesocosm.model import ContainerID, Resources, Usage
from mesocosm.plan import AllowDevices, Contribution, MakeCgroup, WriteCgroup
from mesocosm.plan.operations import BindMount, JoinCgroup

ID = ContainerID.parse(NAME)


def contributed(name: str, base: Path, mode: Mode, **limits_: Any) -> Contribution:
    return prepare(name, host(base, mode), resources=Resources(**limits_))


def written(found: Contribution) -> list[tuple[str, str]]:
    return [(step.file, step.value) for step in found.host if isinstance(step, WriteCgroup)]


def joined(base: Path, mode: Mode, *places: str) -> tuple[JoinCgroup | BindMount, ...]:
    """Each place is ``hierarchy:name shown``."""
    if mode == "v2":
        return ()
    paths = {
        shown: f"{base}/cgroup/{place}/mesocosm-test/{NAME}"
        for place, _, shown in (p.partition(":") for p in places)
    }
    return (
        *(JoinCgroup(source=f"{path}/tasks") for path in dict.fromkeys(paths.values())),
        *(
            BindMount(
                source=path,
                target=f"/sys/fs/cgroup/{shown}",
                recursive=False,
                flags=("ro", "nosuid", "nodev", "noexec"),
                trusted=True,
            )
            for shown, path in paths.items()
        ),
    )


# ── cpu ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_cpu_on_v1_joins_two_hierarchies(tmp_path: Path) -> None:
    assert contributed("cgroups/cpu", tmp_path, "v1", cpus=1.5, cpu_shares=512) == Contribution(
        host=(
            MakeCgroup(controller="cpu"),
            MakeCgroup(controller="cpuacct"),
            WriteCgroup(controller="cpu", file="cpu.shares", value="512"),
            WriteCgroup(controller="cpu", file="cpu.cfs_period_us", value="100000"),
            WriteCgroup(controller="cpu", file="cpu.cfs_quota_us", value="150000"),
        ),
        steps=joined(tmp_path, "v1", "cpu:cpu", "cpuacct:cpuacct"),
        notes=("cpu: 1.5 processors", "cpu weight: 512 shares"),
    )


def test_cpu_where_both_are_one_hierarchy_joins_it_once(tmp_path: Path) -> None:
    found = contributed("cgroups/cpu", tmp_path, "hybrid")
    assert found.steps == joined(tmp_path, "hybrid", "cpu,cpuacct:cpu", "cpu,cpuacct:cpuacct")
    assert sum(isinstance(step, JoinCgroup) for step in found.steps) == 1


def test_cpu_on_v2(tmp_path: Path) -> None:
    assert contributed("cgroups/cpu", tmp_path, "v2", cpus=0.5, cpu_shares=2048) == Contribution(
        host=(
            MakeCgroup(controller="cpu"),
            WriteCgroup(controller="cpu", file="cpu.weight", value="174"),
            WriteCgroup(controller="cpu", file="cpu.max", value="50000 100000"),
        ),
        notes=("cpu: 0.5 processors", "cpu weight: 2048 shares"),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["cgroups/cpu", "cgroups/pids"])
def test_no_limit_writes_nothing(name: str, mode: Mode, tmp_path: Path) -> None:
    found = contributed(name, tmp_path, mode)
    assert written(found) == [] and found.notes == ()
    assert MakeCgroup(controller=name.removeprefix("cgroups/")) in found.host


@pytest.mark.parametrize(("cpus", "expected"), [(1, 100000), (0.01, 1000), (0.001, 1000), (64, 6400000)])
def test_the_quota_is_never_below_a_millisecond(cpus: float, expected: int) -> None:
    assert quota(cpus) == expected


@pytest.mark.parametrize(("v1", "v2"), [(2, 1), (1024, 100), (262144, 10000)])
def test_weights_meet_at_the_ends_and_at_the_default(v1: int, v2: int) -> None:
    assert weight(v1) == v2
    assert shares(v2) == v1


@given(st.integers(2, 262143))
def test_more_shares_never_weigh_less(amount: int) -> None:
    assert 1 <= weight(amount) <= weight(amount + 1) <= 10000
    assert 2 <= shares(weight(amount)) <= 262144


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────


def v1_swap(base: Path, mode: Mode) -> None:
    (base / "cgroup/memory").mkdir(parents=True)
    (base / "cgroup/memory/memory.memsw.limit_in_bytes").touch()


@pytest.mark.parametrize("mode", ["v1", "hybrid"])
def test_memory_on_v1(mode: Mode, tmp_path: Path) -> None:
    v1_swap(tmp_path, mode)
    found = contributed("cgroups/mem", tmp_path, mode, memory=64 << 20, memory_request=32 << 20)
    assert written(found) == [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "134217728"),
        ("memory.soft_limit_in_bytes", "33554432"),
    ]
    assert found.steps == joined(tmp_path, mode, "memory:memory")
    assert found.notes == ("memory limit: 64 MiB", "memory kept: 32 MiB")


def test_memory_on_v2_has_no_half_survivors(tmp_path: Path) -> None:
    found = contributed("cgroups/mem", tmp_path, "v2", memory=64 << 20, memory_swap=80 << 20)
    assert written(found) == [
        ("memory.oom.group", "1"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "16777216"),
    ]
    assert found.steps == ()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"memory": 8 << 20}, 16 << 20),
        ({"memory": 8 << 20, "memory_swap": 8 << 20}, 8 << 20),
        ({"memory_swap": 9 << 20}, 9 << 20),
    ],
)
def test_swap_goes_dockers_way(asked: dict[str, int], expected: int, tmp_path: Path) -> None:
    v1_swap(tmp_path, "v1")
    assert ("memory.memsw.limit_in_bytes", str(expected)) in written(
        contributed("cgroups/mem", tmp_path, "v1", **asked)
    )


def test_a_kernel_that_does_not_account_swap_is_told_of(tmp_path: Path) -> None:
    found = contributed("cgroups/mem", tmp_path, "v1", memory=8 << 20)
    assert written(found) == [("memory.limit_in_bytes", "8388608")] and found.warnings == ()
    asked = contributed("cgroups/mem", tmp_path, "v1", memory=8 << 20, memory_swap=8 << 20)
    assert "swap cannot be limited" in asked.warnings[0]


@pytest.mark.parametrize("mode", MODES)
def test_pids_and_devices(mode: Mode, tmp_path: Path) -> None:
    found = contributed("cgroups/pids", tmp_path, mode, pids=64)
    assert written(found) == [("pids.max", "64")]
    assert found.steps == joined(tmp_path, mode, "pids:pids")
    assert found.notes == ("process limit: 64",)
    devices = contributed("cgroups/devices", tmp_path, mode)
    assert devices.steps == joined(tmp_path, mode, "devices:devices")


def test_the_device_list_is_dockers_without_the_hosts_console_r_24(tmp_path: Path) -> None:
    (allowed,) = (
        s for s in contributed("cgroups/devices", tmp_path, "v1").host if isinstance(s, AllowDevices)
    )
    usable = {rule.split()[1] for rule in allowed.rules if rule.endswith("rwm")}
    assert usable == {"1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2", "136:*"}
    assert set(allowed.rules) - {f"c {number} rwm" for number in usable} == {"c *:* m", "b *:* m"}


def test_without_a_root_there_is_nothing_to_show(tmp_path: Path) -> None:
    found = prepare("cgroups/mem", host(tmp_path, "v1"), root=None)
    assert [type(step) for step in found.steps] == [JoinCgroup]


@pytest.mark.parametrize("name", ["cgroups/cpu", "cgroups/mem", "cgroups/pids", "cgroups/devices"])
def test_a_host_without_the_controller_is_unsupported(name: str, tmp_path: Path) -> None:
    bare = host(tmp_path, "v1")
    layout = type(bare.cgroups.layout)("v1", ())
    bare.cgroups.layout = layout
    with pytest.raises(Unsupported, match=f"{name}: this host has no .* cgroup controller"):
        isolator(name, bare)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────

FILES: dict[str, dict[str, str]] = {
    "v1 cpu": {
        "cpu.shares": "1024\n",
        "cpu.cfs_period_us": "100000\n",
        "cpu.cfs_quota_us": "150000\n",
        "cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n",
    },
    "v1 cpuacct": {
        "cpuacct.usage": "3000000000\n",
        "cpuacct.usage_user": "2000000000\n",
        "cpuacct.usage_sys": "1000000000\n",
    },
    "v1 memory": {
        "memory.usage_in_bytes": "4096\n",
        "memory.max_usage_in_bytes": "8192\n",
        "memory.limit_in_bytes": "9223372036854771712\n",
        "memory.memsw.limit_in_bytes": "9223372036854771712\n",
        "memory.soft_limit_in_bytes": "9223372036854771712\n",
        "memory.kmem.usage_in_bytes": "512\n",
        "memory.stat": "rss 1\ntotal_rss 1024\ntotal_cache 2048\ntotal_swap 7\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        "memory.failcnt": "9\n",
    },
    "v1 pids": {
        "pids.current": "3\n",
        "pids.peak": "5\n",
        "pids.max": "64\n",
        "pids.events": "max 12\n",
    },
    "v2": {
        "cpu.weight": "100\n",
        "cpu.max": "150000 100000\n",
        "cpu.stat": "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n"
        "nr_periods 10\nnr_throttled 4\nthrottled_usec 2500000\n",
        "memory.current": "4096\n",
        "memory.peak": "8192\n",
        "memory.max": "max\n",
        "memory.swap.max": "max\n",
        "memory.low": "0\n",
        "memory.high": "max\n",
        "memory.swap.current": "7\n",
        "memory.stat": "anon 1024\nfile 2048\nkernel 512\n",
        "memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 1\n",
        "pids.current": "3\n",
        "pids.peak": "5\n",
        "pids.max": "64\n",
        "pids.events": "max 12\n",
    },
}


def make_groups(base: Path, mode: Mode) -> None:
    """The container's cgroups with these files in them, the root's swap accounting included."""
    places = {"cpu": "cpu", "cpuacct": "cpuacct"}
    if mode == "hybrid":
        places = {"cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct"}
    for key, files in FILES.items():
        version, _, controller = key.partition(" ")
        if (version == "v2") != (mode == "v2"):
            continue
        directory = base / "cgroup" / places.get(controller, controller) / "mesocosm-test" / NAME
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text)
    if mode != "v2":
        (base / "cgroup/memory/memory.memsw.limit_in_bytes").touch()


EXPECTED = {
    "cgroups/cpu": Usage(
        cpu_seconds=3.0,
        cpu_user_seconds=2.0,
        cpu_system_seconds=1.0,
        cpu_limit=1.5,
        cpu_shares=1024,
        cpu_periods=10,
        cpu_throttled_periods=4,
        cpu_throttled_seconds=2.5,
    ),
    "cgroups/mem": Usage(
        memory=4096,
        memory_peak=8192,
        memory_anon=1024,
        memory_file=2048,
        memory_kernel=512,
        memory_swap=7,
        oom_kills=2,
    ),
    "cgroups/pids": Usage(pids=3, pids_peak=5, pids_limit=64, pids_refused=12),
    "cgroups/devices": Usage(),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", EXPECTED)
async def test_usage_is_the_same_whatever_the_version(name: str, mode: Mode, tmp_path: Path) -> None:
    make_groups(tmp_path, mode)
    assert await isolator(name, host(tmp_path, mode)).usage(ID) == EXPECTED[name]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", EXPECTED)
async def test_usage_of_a_container_that_is_gone_is_empty(name: str, mode: Mode, tmp_path: Path) -> None:
    assert await isolator(name, host(tmp_path, mode)).usage(ID) == Usage()


def put_file(base: Path, mode: Mode, controller: str, name: str, text: str) -> None:
    """Replace a file of the container's cgroup."""
    (Path(host(base, mode).cgroups.of(NAME, controller).path) / name).write_text(text)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is written from now on, in order, and nothing reaches a file."""
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(Cgroup, "write", lambda self, name, value: seen.append((name, value)))
    return seen


UPDATES = {
    "v1": (
        ("cpu.shares", "2", "1024"),
        ("cpu.cfs_quota_us", "200000", "-1"),
        ("memory.limit_in_bytes", "67108864", "-1"),
        ("memory.memsw.limit_in_bytes", "134217728", "-1"),
        ("memory.soft_limit_in_bytes", "1048576", "-1"),
        ("pids.max", "7", "max"),
    ),
    "v2": (
        ("cpu.weight", "1", "100"),
        ("cpu.max", "200000 100000", "max 100000"),
        ("memory.max", "67108864", "max"),
        ("memory.swap.max", "67108864", "max"),
        ("memory.low", "1048576", "0"),
        ("pids.max", "7", "max"),
    ),
}


@pytest.mark.parametrize("mode", MODES)
async def test_updates_write_limits_and_lift_them(
    mode: Mode, tmp_path: Path, writes: list[tuple[str, str]]
) -> None:
    make_groups(tmp_path, mode)
    names = ("cgroups/cpu", "cgroups/mem", "cgroups/pids")
    some = Resources(cpus=2, cpu_shares=2, memory=64 << 20, memory_request=1 << 20, pids=7)
    for index, resources in enumerate((some, Resources()), start=1):
        writes.clear()
        for name in names:
            await isolator(name, host(tmp_path, mode)).update(ID, resources)
        left_out = ("cpu.cfs_period_us", "memory.high")
        found = {name: value for name, value in writes if name not in left_out}
        assert found == {row[0]: row[index] for row in UPDATES["v2" if mode == "v2" else "v1"]}


@pytest.mark.parametrize("name", ["cgroups/cpu", "cgroups/mem", "cgroups/pids"])
async def test_a_container_without_a_cgroup_cannot_be_updated(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"container {NAME} has no .* cgroup"):
        await isolator(name, host(tmp_path, "v1")).update(ID, Resources())


@pytest.mark.parametrize(
    ("before", "after", "order"),
    [
        ("67108864", 128 << 20, ["memsw", "limit"]),
        ("536870912", 64 << 20, ["limit", "memsw"]),
        ("67108864", None, ["memsw", "limit"]),
        ("9223372036854771712", 64 << 20, ["limit", "memsw"]),
    ],
)
async def test_memory_stays_below_memory_and_swap_gap_4(
    before: str, after: int | None, order: list[str], tmp_path: Path, writes: list[tuple[str, str]]
) -> None:
    make_groups(tmp_path, "v1")
    put_file(tmp_path, "v1", "memory", "memory.memsw.limit_in_bytes", before)
    await isolator("cgroups/mem", host(tmp_path, "v1")).update(ID, Resources(memory=after))
    assert [name.split(".")[1].removesuffix("_in_bytes") for name, _ in writes][:2] == order


async def test_on_v2_a_limit_under_what_is_used_kills_nothing(
    tmp_path: Path, writes: list[tuple[str, str]]
) -> None:
    make_groups(tmp_path, "v2")
    put_file(tmp_path, "v2", "memory", "memory.current", str(100 << 20))
    with pytest.raises(Busy, match="the memory limit cannot become 64 MiB: 100 MiB are in use"):
        await isolator("cgroups/mem", host(tmp_path, "v2")).update(ID, Resources(memory=64 << 20))
    assert writes == [("memory.high", "67108864"), ("memory.high", "max")]


def test_all_limits_or_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("1")
    group = Cgroup(str(tmp_path), 1)
    with pytest.raises(NotFound, match="c is gone"):
        limits.put(group, (("a", "2"), ("b", "3"), ("c", "4")))
    assert (group.read("a"), group.read("b")) == ("1", "1")


@pytest.mark.parametrize(
    ("code", "name", "kind", "words"),
    [
        (errno.EBUSY, "memory.limit_in_bytes", Busy, "cannot become 64 MiB"),
        (errno.EINVAL, "cpu.max", InvalidConfig, "refuses the processor limit"),
        (errno.EINVAL, "cpu.cfs_quota_us", InvalidConfig, "a cgroup above allows less"),
        (errno.EINVAL, "memory.memsw.limit_in_bytes", InvalidConfig, "memory and swap together"),
        (errno.ENOENT, "pids.max", NotFound, "is gone"),
        (errno.ENODEV, "pids.max", NotFound, "is gone"),
        (errno.EROFS, "pids.max", Unsupported, "run as root"),
        (errno.ENOSPC, "pids.max", Exhausted, "no room"),
        (errno.ERANGE, "pids.max", InvalidConfig, "refuses '67108864'"),
    ],
)
def test_the_kernels_refusals_in_words(code: int, name: str, kind: type[MesocosmError], words: str) -> None:
    found = limits.refusal(OSError(code, "text"), "/cg/x", name, "67108864")
    assert type(found) is kind and words in str(found) and "\n" not in str(found)


# ── the end of a limit ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", MODES)
async def test_a_kill_that_nobody_watched_is_reported_gap_9(mode: Mode, tmp_path: Path) -> None:
    make_groups(tmp_path, mode)
    limit = "memory.max" if mode == "v2" else "memory.limit_in_bytes"
    put_file(tmp_path, mode, "memory", limit, "67108864\n")
    found = await asyncio.wait_for(isolator("cgroups/mem", host(tmp_path, mode)).watch(ID), 5)
    assert (found.resource, found.requested, found.peak) == ("memory", 64 << 20, 8192)
    victims = "the whole container" if mode == "v2" else "2 processes"
    assert found.message == (
        f"memory: the limit of 64 MiB was reached (most used: 8 KiB); the kernel killed {victims}"
    )


@pytest.mark.parametrize("mode", MODES)
async def test_a_kill_without_a_limit_is_the_hosts_fault(mode: Mode, tmp_path: Path) -> None:
    make_groups(tmp_path, mode)
    found = await asyncio.wait_for(isolator("cgroups/mem", host(tmp_path, mode)).watch(ID), 5)
    assert found.message.startswith("memory: the host, or a container around this one, ran out of it")


async def test_a_refusal_of_processes_is_told_in_words(tmp_path: Path) -> None:
    make_groups(tmp_path, "v1")
    assert await isolator("cgroups/pids", host(tmp_path, "v1")).status(ID) == {
        "processes": "the limit of 64 refused a new process 12 times"
    }
    (tmp_path / "cgroup/pids/mesocosm-test" / NAME / "pids.events").write_text("max 0\n")
    assert await isolator("cgroups/pids", host(tmp_path, "v1")).status(ID) == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["cgroups/cpu", "cgroups/mem", "cgroups/pids", "cgroups/devices"])
def test_preparing_touches_nothing(name: str, mode: Mode, tmp_path: Path) -> None:
    one = isolator(name, host(tmp_path, mode))
    request = container(resources=Resources(cpus=1, memory=1 << 30, pids=9))
    assert one.prepare(request) == one.prepare(request)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"python3\n", "python3"),
        (b"\x1b[2J\n", "?[2J"),
        (b"a\nb\n", "a?b"),
        ("\u00e9".encode(), "??"),
        (b"x" * 64, "x" * 15),
    ],
)
def test_a_process_name_cannot_speak_to_the_terminal(raw: bytes, shown: str) -> None:
    assert _printable(raw) == shown


def test_a_process_that_is_gone_is_no_witness() -> None:
    assert examine(1 << 22) is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (256 << 20, "256 MiB"),
        (3 << 29, "1.5 GiB"),
        (1 << 62, "4 EiB"),
    ],
)
def test_sizes_in_words(amount: int, text: str) -> None:
    assert size(amount) == text


def test_other_words() -> None:
    assert (processors(1), processors(1.0), processors(0.25)) == (
        "1 processor",
        "1 processor",
        "0.25 processors",
    )
    assert nearest("nofil", ["nofile", "nproc"]) == "did you mean nofile?"
    assert nearest("qqqq", ["nofile", "nproc"]) is None
