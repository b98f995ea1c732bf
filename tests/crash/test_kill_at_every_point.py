"""``kill -9`` of a command between any two steps; afterwards ``ps``, ``rm -f`` and recovery leave nothing.

A dry run lists the trace points a command passes; then the command is killed at each of them, and what the
next command makes of it is compared with a host on which nothing had happened (Q-01, Q-02, Q-03; REC-5).
"""

from __future__ import annotations

from pathlib import Path

import pytest

import tarballs
from crash.world import World, files, settle
from fixtures.command import run
from provisions import image_of
from registry_fixtures import write_layout

VOLUMES = ("image_volumes", "provisioner", "mounts", "setup")
"""Where the names of points begin that are passed for an image as a volume."""
RUN = ("run", "--rm", "--quiet", "--memory", "32m", "--name", "victim")


@pytest.mark.timeout(600)
def test_run_killed_at_every_point_leaves_nothing(world: World, tmp_path: Path) -> None:
    words = (*RUN, world.image, "true")
    points = world.points(tmp_path / "points", *words)
    assert len(points) > 25
    world.assert_clean()
    for point in points:
        world.kill_at(point, *words)
        settle(world)


@pytest.mark.timeout(600)
def test_run_with_images_as_volumes_killed_at_every_point_leaves_nothing(
    world: World, tmp_path: Path
) -> None:
    """What was leased for a container that never came to be is nobody's afterwards (PRV-6)."""
    options: list[str] = []
    for name in (b"one", b"two"):
        layout = write_layout(image_of([[tarballs.file(b"a", name)]]), tmp_path / name.decode())
        options += ["--mount", f"type=image,source=oci:{layout},target=/{name.decode()},rw"]
    words = (*RUN, *options, world.image, "cat", "/one/a", "/two/a")
    assert world.command(*words).returncode == 0
    points = world.points(tmp_path / "points", *words)
    assert "image_volumes.provisioned" in points
    for point in (one for one in points if one.partition(".")[0] in VOLUMES):
        world.kill_at(point, *words)
        settle(world)
        assert files(world.root / "images" / "leases") == []
    done = world.command(*words)
    assert (done.returncode, done.stdout) == (0, "onetwo"), done.stderr


def test_a_restart_of_the_host_ends_what_ran_and_loses_nothing(world: World) -> None:
    """REC-5: with another boot ID, and the runtime root gone, all of a container is on the disk."""
    options = ("--detach", "--quiet", "--name")
    kept = world.command("run", *options, "kept", world.image, "sh", "-c", "echo words; exec sleep 1000")
    assert kept.returncode == 0, kept.stderr
    assert world.command("run", *options, "thrown", "--rm", world.image, "sleep", "1000").returncode == 0
    world.restart()
    [left] = world.containers()
    assert (left["name"], left["state"]) == ("kept", "destroyed")
    assert "the host was restarted" in world.command("ps", "-a", "--no-trunc").stdout
    assert world.command("logs", "kept").stdout == "words\n"
    assert world.command("rm", "kept").returncode == 0
    world.assert_clean()


def test_what_a_power_cut_left_of_a_creation_is_cleared_away(world: World) -> None:
    """GAP-43: an empty intent, and files beside it; a damaged one that is not empty is set aside instead."""
    assert world.containers() == []
    for name, content in (("cut", b""), ("torn", b"{")):
        directory = world.root / "containers" / name
        (directory / "sandbox").mkdir(parents=True)
        (directory / "container.json").write_bytes(content)
    done = world.command("ps", "-a", "-q")
    assert done.returncode == 0
    assert files(world.root / "containers") == ["torn"]
    assert world.command("rm", "-f", "torn").returncode == 0
    world.assert_clean()


@pytest.mark.timeout(600)
def test_a_container_whose_creator_was_killed_after_the_gate_can_be_started(world: World) -> None:
    """CREATED survives: the supervisor holds the gate."""
    world.kill_at("containerizer.created", "create", "--name", "held", world.image, "echo", "still here")
    assert [one["state"] for one in world.containers()] == ["created"]
    assert world.command("start", "held").returncode == 0
    assert world.command("wait", "held").stdout == "0\n"
    assert world.command("logs", "held").stdout == "still here\n"
    settle(world)


@pytest.mark.timeout(600)
def test_a_running_container_does_not_notice_that_its_command_is_killed(world: World) -> None:
    world.kill_at("records.after-running", "run", "--name", "on", world.image, "sleep", "1000")
    assert [one["state"] for one in world.containers()] == ["running"]
    done = world.command("exec", "on", "sh", "-c", "echo inside")
    assert (done.returncode, done.stdout) == (0, "inside\n"), done.stderr
    settle(world)


@pytest.mark.timeout(600)
def test_a_commit_killed_at_every_point_harms_nobody(
    world: World, tmp_path: Path, busybox_root: Path
) -> None:
    """GAP-27: the container goes on, the store is whole, and the same commit makes the same image."""
    run("tar", "-C", busybox_root, "-cf", tmp_path / "root.tar", ".")
    assert world.command("import", "-q", str(tmp_path / "root.tar"), "example.org/box:1").returncode == 0
    start = ("run", "-d", "--quiet", "--name", "on", "example.org/box:1", "sleep", "1000")
    assert world.command(*start).returncode == 0
    assert world.command("exec", "on", "sh", "-c", "echo new > /new").returncode == 0
    words = ("commit", "-q", "--timestamp", "1600000000", "on", "example.org/made:1")
    points = world.points(tmp_path / "points", *words)
    assert {"pause.marked", "pause.frozen", "pull.leased", "layers.renamed", "pull.recorded"} < set(points)
    made = world.command("image", "inspect", "--format", "{{.Digest}}", "example.org/made:1").stdout
    for point in points:
        assert world.command("rmi", "--force", "example.org/made:1").returncode == 0
        world.command("image", "prune", "--force")
        world.kill_at(point, *words)
        assert world.command("exec", "on", "cat", "/new").stdout == "new\n", point
        done = world.command(*words)
        assert (done.returncode, done.stdout) == (0, made), f"{point}: {done.stderr}"
    settle(world)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("verb", ["stop", "rm"])
def test_ending_killed_at_every_point_is_finished_by_the_next_command(
    world: World, tmp_path: Path, verb: str
) -> None:
    """DES-9, GAP-40: a destroy that was interrupted is never stuck."""
    ending = ("stop", "-t", "0", "victim") if verb == "stop" else ("rm", "-f", "victim")
    start = ("run", "-d", "--quiet", "--name", "victim", world.image, "sleep", "1000")
    assert world.command(*start).returncode == 0
    points = world.points(tmp_path / "points", *ending)
    settle(world)
    assert len(points) > 8
    for point in points:
        done = world.command(*start)
        assert done.returncode == 0, done.stderr
        world.kill_at(point, *ending)
        settle(world)


@pytest.mark.timeout(600)
def test_recovery_killed_at_every_point_is_finished_by_the_next_command(world: World, tmp_path: Path) -> None:
    def lose() -> None:
        world.kill_at("setup.forked", *RUN, world.image, "true")

    lose()
    points = world.points(tmp_path / "points", "ps", "-a")
    settle(world)
    for point in points:
        lose()
        world.kill_at(point, "ps", "-a")
        settle(world)
