"""The launch plan: composed purely, in the order of phases, with conflicts named on both sides."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import Corrupt, InvalidConfig, PlanConflict
from mesocosm.plan import (
    AllowDevices,
    Contribution,
    HostAction,
    LaunchPlan,
    MakeCgroup,
    Phase,
    Step,
    WriteCgroup,
    WriteHostFile,
    merge_environment,
)
from mesocosm.plan import operations as op

EXECUTE = op.Execute(arguments=("true",), environment=("PATH=/bin",))
RUNTIME = ("image/runtime", Contribution(steps=(EXECUTE, op.SetUser(), op.LookUpUser(user="0"))))


def one(*steps: Step) -> tuple[str, Contribution]:
    return ("one", Contribution(steps=steps))


def test_steps_run_in_the_order_of_phases_then_isolators_then_contribution() -> None:
    plan = LaunchPlan.compose(
        "c",
        [
            RUNTIME,
            ("b", Contribution(steps=(op.MakeDirectory(target="/b1"), op.MakeDirectory(target="/b0")))),
            ("a", Contribution(steps=(op.MakeDirectory(target="/a"), op.CutPropagation()))),
        ],
    )
    assert [step.phase for step in plan.steps] == sorted(step.phase for step in plan.steps)
    targets = [step.target for step in plan.steps if isinstance(step, op.MakeDirectory)]
    assert targets == ["/b1", "/b0", "/a"]
    assert plan.origins[plan.steps.index(op.CutPropagation())] == "a"


def test_volumes_stand_together_those_nearer_to_the_root_first() -> None:
    mounts = {
        path: op.MountFilesystem(fstype="tmpfs", target=path) for path in ("/a/b/c", "/z", "/a/b", "/a")
    }
    plan = LaunchPlan.compose(
        "c",
        [
            RUNTIME,
            ("one", Contribution(volumes=(mounts["/a/b/c"], mounts["/z"]))),
            ("two", Contribution(steps=(op.MakeDirectory(target="/d"),), volumes=(mounts["/a/b"],))),
            ("three", Contribution(volumes=(mounts["/a"],))),
        ],
    )
    found = [(plan.origins[i], step.target) for i, step in enumerate(plan.steps) if hasattr(step, "target")]
    assert found == [("one", "/z"), ("three", "/a"), ("two", "/a/b"), ("one", "/a/b/c"), ("two", "/d")]


def test_the_gate_stands_before_execution_and_after_identity() -> None:
    plan = LaunchPlan.compose("c", [RUNTIME])
    kinds = [type(step) for step in plan.steps]
    assert kinds.index(op.SetUser) < kinds.index(op.Gate) < kinds.index(op.Execute) == len(kinds) - 1


def test_a_filter_is_loaded_last_with_no_new_privileges_and_early_without() -> None:
    load = ("linux/seccomp", Contribution(steps=(op.LoadFilter(program="", summary="s"),)))
    strict = LaunchPlan.compose(
        "c", [RUNTIME, load, ("linux/nnp", Contribution(steps=(op.NoNewPrivileges(),)))]
    )
    loose = LaunchPlan.compose("c", [RUNTIME, load])
    assert isinstance(strict.steps[-2], op.LoadFilter)
    kinds = [type(step) for step in loose.steps]
    assert op.LoadFilter not in kinds
    assert kinds.index(op.LoadFilterEarly) < kinds.index(op.SetUser)


@pytest.mark.parametrize(
    ("left", "right", "what"),
    [
        (op.SetUser(), op.SetUser(), "user"),
        (op.BindRoot(source="/a"), op.OverlayRoot(layers=("/b",)), "root file system"),
        (
            op.MountFilesystem(fstype="tmpfs", target="/x"),
            op.BindMount(source="/y", target="/x/"),
            "mount on /x",
        ),
        (op.SetRlimit(name="nofile", soft=1, hard=1), op.SetRlimit(name="nofile", soft=2, hard=2), "nofile"),
    ],
)
def test_contrary_steps_name_both_isolators(left: Step, right: Step, what: str) -> None:
    with pytest.raises(PlanConflict, match=what) as caught:
        LaunchPlan.compose("c", [RUNTIME_WITHOUT_USER, ("first", _of(left)), ("second", _of(right))])
    assert (caught.value.left, caught.value.right) == ("first", "second")


RUNTIME_WITHOUT_USER = ("image/runtime", Contribution(steps=(EXECUTE,)))


def _of(*steps: Step) -> Contribution:
    return Contribution(steps=steps)


def test_contrary_host_steps_name_both_isolators_and_equal_ones_are_done_once() -> None:
    make = MakeCgroup(controller="memory")
    low = WriteCgroup(controller="memory", file="memory.max", value="1")
    high = WriteCgroup(controller="memory", file="memory.max", value="2")
    plan = LaunchPlan.compose(
        "c", [RUNTIME, ("x", Contribution(host=(make, low))), ("y", Contribution(host=(make, low)))]
    )
    assert plan.host == (make, low)
    with pytest.raises(PlanConflict, match="memory.max") as caught:
        LaunchPlan.compose(
            "c", [RUNTIME, ("x", Contribution(host=(low,))), ("y", Contribution(host=(high,)))]
        )
    assert {caught.value.left, caught.value.right} == {"x", "y"}
    contrary: list[tuple[HostAction, HostAction]] = [
        (WriteHostFile(path="/f", content="a"), WriteHostFile(path="/f", content="b")),
        (AllowDevices(rules=("c 1:3 rwm",)), AllowDevices(rules=())),
    ]
    for first, second in contrary:
        with pytest.raises(PlanConflict):
            LaunchPlan.compose(
                "c", [RUNTIME, ("x", Contribution(host=(first,))), ("y", Contribution(host=(second,)))]
            )


def test_the_requests_environment_wins_over_isolators_and_contrary_isolators_conflict() -> None:
    gpu = ("gpu", Contribution(environment=("PATH=/gpu", "GPU=0")))
    plan = LaunchPlan.compose("c", [RUNTIME, gpu])
    assert set(plan.execute.environment) == {"PATH=/bin", "GPU=0"}
    with pytest.raises(PlanConflict, match="GPU"):
        LaunchPlan.compose("c", [RUNTIME, gpu, ("other", Contribution(environment=("GPU=1",)))])


def test_a_plan_that_executes_nothing_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="nothing to execute"):
        LaunchPlan.compose("c", [("x", Contribution())])


def test_namespaces_are_listed_once_in_the_kernels_order() -> None:
    plan = LaunchPlan.compose(
        "c",
        [RUNTIME, ("x", Contribution(namespaces=("pid", "mnt"))), ("y", Contribution(namespaces=("mnt",)))],
    )
    assert plan.namespaces == ("mnt", "pid")


ALL_STEPS: tuple[Step, ...] = (
    op.JoinCgroup(source="/sys/fs/cgroup/pids/c/tasks"),
    op.SetHostname(name="h"),
    op.LoopbackUp(),
    op.JoinKeyring(name="c"),
    op.CutPropagation(),
    op.OverlayRoot(layers=("/l",), upper="/u", work="/w"),
    op.MountFilesystem(fstype="proc", target="/proc"),
    op.MakeDevice(target="/dev/null", kind="c", major=1, minor=3),
    op.MaskPath(target="/proc/kcore"),
    op.ReadOnlyRoot(),
    op.LookUpUser(user="app"),
    op.EnterRoot(),
    op.SetRlimit(name="core", soft=0, hard=0),
    op.SetUmask(),
    op.ChangeDirectory(target="/"),
    op.SetUser(),
    op.SetCapabilities(bounding=1, permitted=1, effective=1),
    op.NoNewPrivileges(),
    op.LoadFilter(program="AA==", summary="s"),
    op.Execute(arguments=("init",), environment=("A=1",), init=True),
)


def test_exec_repeats_everything_that_belongs_to_a_process_and_nothing_else() -> None:
    """R-17, R-22, R-23: the same cgroups, limits, capabilities and filter; no mount is made again."""
    plan = LaunchPlan.compose("c", [("x", Contribution(steps=ALL_STEPS, namespaces=("mnt", "pid", "net")))])
    entering = plan.entering(
        pid=42, start_time=7, arguments=("sh",), environment=("A=2", "B=3"), user="1:1", workdir="/tmp"
    )
    kinds = [type(step) for step in entering.steps]
    assert entering.namespaces == () and entering.host == ()
    for kept in (
        op.JoinCgroup,
        op.JoinKeyring,
        op.SetRlimit,
        op.SetUser,
        op.SetCapabilities,
        op.NoNewPrivileges,
        op.LoadFilter,
        op.Gate,
    ):
        assert kinds.count(kept) == 1, kept
    for left_out in (op.OverlayRoot, op.MountFilesystem, op.MakeDevice, op.EnterRoot, op.SetHostname):
        assert left_out not in kinds
    joined = next(step for step in entering.steps if isinstance(step, op.JoinNamespaces))
    assert (joined.pid, joined.start_time, joined.kinds) == (42, 7, ("pid", "net"))
    assert kinds.index(op.LookUpUser) < kinds.index(op.EnterMounts)
    assert entering.execute.arguments == ("sh",)
    assert entering.execute.environment == ("A=2", "B=3")
    assert not entering.execute.init
    assert op.LookUpUser(user="1:1") in entering.steps
    assert op.ChangeDirectory(target="/tmp") in entering.steps


def test_a_plan_survives_its_json_whole() -> None:
    plan = LaunchPlan.compose("c", [("x", Contribution(steps=ALL_STEPS, namespaces=("mnt",)))])
    assert LaunchPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version":1}', b"\xff"])
def test_unreadable_plans_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        LaunchPlan.from_json(data)


def test_a_plan_of_another_version_is_refused() -> None:
    plan = LaunchPlan.compose("c", [RUNTIME])
    with pytest.raises(Corrupt, match="version 2"):
        LaunchPlan.from_json(plan.to_json().replace(b'"version":1', b'"version":2'))


def test_every_step_describes_itself_in_one_line() -> None:
    for step in (*ALL_STEPS, op.Gate(), op.EnterMounts(pid=1)):
        text = step.describe()
        assert text and "\n" not in text and not text.endswith(".")


KEY = st.text("ABC", min_size=1, max_size=2)
ENTRIES = st.lists(st.builds("{}={}".format, KEY, st.text("xy=", max_size=3)), max_size=8)


@given(ENTRIES, ENTRIES)
def test_merged_environments_have_each_key_once_and_the_second_wins(low: list[str], high: list[str]) -> None:
    merged = merge_environment(low, high)
    keys = [entry.partition("=")[0] for entry in merged]
    assert len(keys) == len(set(keys))
    expected = {entry.partition("=")[0]: entry for entry in (*low, *high)}
    assert set(merged) == set(expected.values())


@given(st.permutations([one(step) for step in ALL_STEPS]))
def test_phases_decide_whatever_the_order_of_contributions(parts: list[tuple[str, Contribution]]) -> None:
    named = [(f"i{number}", part) for number, (_, part) in enumerate(parts)]
    plan = LaunchPlan.compose("c", named)
    phases = [step.phase for step in plan.steps]
    assert all(a <= b for a, b in itertools.pairwise(phases))
    assert len(plan.steps) == len(ALL_STEPS) + 1
    assert plan.steps[-1].phase is Phase.EXEC
