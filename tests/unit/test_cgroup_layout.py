"""linux/cgroups/layout: which hierarchy serves what, on the kinds of hosts there are."""

from __future__ import annotations

import pytest

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.linux.cgroups import Cgroup, CgroupTree, Layout
from mesocosm.linux.mountinfo import parse_mountinfo

UNIFIED = (
    "31 23 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
)
V1 = (
    "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "35 31 0:32 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n"
    "36 31 0:33 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
    "37 31 0:34 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
)
HYBRID = V1 + "38 31 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
ALL_V2 = "cpuset cpu io memory hugetlb pids rdma misc\n"


def detect(mounts: str, own: str, *, controllers: str = "", read_only: tuple[str, ...] = ()) -> Layout:
    return Layout.detect(
        parse_mountinfo(mounts),
        own,
        read=lambda path: controllers if path.endswith("/cgroup.controllers") else "",
        writable=lambda path: path not in read_only,
    )


def test_v2_with_systemd() -> None:
    """Containers go to the top: our own session's scope ends before they do."""
    layout = detect(UNIFIED, "0::/user.slice/user-0.slice/session-3.scope\n", controllers=ALL_V2)
    assert layout.mode == "v2"
    (unified,) = layout.hierarchies
    assert unified.base == "/sys/fs/cgroup"
    assert layout.unified == unified
    assert {"cpu", "memory", "io", "pids", "cpuset"} <= set(layout.controllers)
    assert {"devices", "freezer", "cpuacct"} <= set(layout.controllers), "every v2 cgroup does these"
    assert CgroupTree(layout).of("a.b", "blkio").path == "/sys/fs/cgroup/mesocosm/a/b"


def test_v2_where_only_our_own_subtree_may_be_written_to() -> None:
    own = "/user.slice/user-1000.slice/user@1000.service"
    layout = detect(UNIFIED, f"0::{own}\n", controllers="memory pids\n", read_only=("/sys/fs/cgroup",))
    assert layout.hierarchies[0].base == "/sys/fs/cgroup" + own
    assert layout.serving("io") is None
    with pytest.raises(Unsupported, match="io") as raised:
        CgroupTree(layout).version("io")
    assert "memory" in str(raised.value), "it says what there is"


def test_v2_inside_a_container_of_docker() -> None:
    """With a cgroup namespace the own path is ``/``, without one the mount shows a subtree of the host's."""
    assert detect(UNIFIED, "0::/\n", controllers=ALL_V2).hierarchies[0].base == "/sys/fs/cgroup"
    subtree = "31 23 0:28 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"
    layout = detect(subtree, "0::/docker/abc/inner\n", controllers=ALL_V2, read_only=("/sys/fs/cgroup",))
    assert layout.hierarchies[0].base == "/sys/fs/cgroup/inner"


def test_v1_with_joint_controllers() -> None:
    own = "3:memory:/user.slice\n2:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice\n"
    layout = detect(V1, own)
    assert layout.mode == "v1"
    assert layout.unified is None
    cpu, cpuacct = layout.serving("cpu"), layout.serving("cpuacct")
    assert cpu is not None and cpu == cpuacct and cpu.version == 1
    tree = CgroupTree(layout, "pair-2")
    assert tree.of("a", "io").path == tree.of("a", "blkio").path == "/sys/fs/cgroup/blkio/pair-2/a"
    assert tree.tree_path("a") == "/sys/fs/cgroup/freezer/pair-2/a"
    assert "name=systemd" not in layout.controllers


def test_hybrid_takes_controllers_from_v1_and_the_tree_from_v2() -> None:
    layout = detect(HYBRID, "2:memory:/\n0::/\n", controllers="hugetlb\n")
    assert layout.mode == "hybrid"
    tree = CgroupTree(layout)
    assert (tree.version("memory"), tree.version("hugetlb"), tree.version("tree")) == (1, 2, 2)
    assert tree.tracking("a").path == "/sys/fs/cgroup/unified/mesocosm/a"
    with pytest.raises(Unsupported, match="devices"):
        tree.of("a", "devices")


def test_views_inside_containers_are_not_taken_for_the_hosts() -> None:
    view = "90 80 0:28 /mesocosm/a /var/lib/mesocosm/c/a/root/sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    for mounts in (view + UNIFIED, UNIFIED + view):
        assert detect(mounts, "0::/\n", controllers=ALL_V2).hierarchies[0].mount_point == "/sys/fs/cgroup"


def test_v1_inside_a_container_of_docker() -> None:
    mounts = "34 31 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    layout = detect(mounts, "3:memory:/docker/abc\n")
    assert layout.hierarchies[0].base == "/sys/fs/cgroup/memory"


def test_no_cgroups_at_all() -> None:
    with pytest.raises(Unsupported, match="mounted"):
        detect("22 27 0:21 / /proc rw - proc proc rw\n", "0::/\n")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", ".leaf", "a/b", "a\n", "a b", "-a", "a.", "a.\u0663"]
)
def test_an_id_is_no_path(name: str) -> None:
    """Attacks R-30, R-31; the plain twin is fine."""
    tree = CgroupTree(detect(UNIFIED, "0::/\n", controllers=ALL_V2))
    with pytest.raises(InvalidConfig):
        tree.tree_path(name)
    assert tree.tree_path("a-1.b_2") == "/sys/fs/cgroup/mesocosm/a-1/b_2"


@pytest.mark.parametrize("parent", ["", "..", "a/b", "/a", ".hidden", "a\n"])
def test_nor_is_the_parents_name(parent: str) -> None:
    with pytest.raises(InvalidConfig):
        CgroupTree(detect(UNIFIED, "0::/\n", controllers=ALL_V2), parent)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("-1\n", None), ("9223372036854771712\n", None), ("0\n", 0), ("1048576\n", 1 << 20)],
)
def test_limits(tmp_path: object, text: str, limit: int | None) -> None:
    group = Cgroup(str(tmp_path), 1)
    with open(f"{tmp_path}/limit", "w") as file:
        file.write(text)
    assert group.read_limit("limit") == limit


def test_flat_tables_leave_out_what_is_no_number(tmp_path: object) -> None:
    with open(f"{tmp_path}/stat", "w") as file:
        file.write("anon 12\noom_kill_disable 0\nsome avg10=0.00 total=3\nnothing\nfile 7\n")
    group = Cgroup(str(tmp_path), 2)
    assert group.read_table("stat") == {"anon": 12, "oom_kill_disable": 0, "file": 7}
    with pytest.raises(FileNotFoundError) as raised:
        group.read("other")
    assert raised.value.filename == f"{tmp_path}/other"
