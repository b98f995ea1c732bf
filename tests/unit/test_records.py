"""Records on disk: whole, versioned, found by name and by the beginning of an ID, robust against damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mesocosm import trace
from mesocosm.errors import AlreadyExists, Corrupt, NotFound, WrongState
from mesocosm.lifecycle import Event, State
from mesocosm.model import ContainerConfig, ContainerID, Exit, Termination, TmpfsMount, Usage
from mesocosm.paths import Paths
from mesocosm.records import Intent, Process, Record, Records


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(Paths(tmp_path / "state", tmp_path / "run"))


def make(records: Records, name: str | None = None, container: str | None = None) -> Record:
    identity = ContainerID.parse(container) if container else ContainerID.generate()
    config = ContainerConfig(image="host", name=name, mounts=(TmpfsMount(target="/t"),), labels={"a": "b"})
    return records.create(Intent(id=identity, config=config, boot_id="boot", created_at=1.0))


def test_what_was_recorded_is_read_back_by_anybody(records: Records) -> None:
    record = make(records, "web")
    process = Process(pid=5, start_time=9)
    record = records.advance(record, Event.PROVISIONED, isolation=("cgroups/cpu",), process=process)
    other = Records(records.paths)
    assert other.load(record.id) == record
    assert other.load(record.id).state is State.PREPARED


def test_a_finished_record_keeps_its_termination_without_the_runtime_directory(records: Records) -> None:
    """GAP-45: terminations are kept until removed, through a reboot too."""
    record = records.advance(make(records), Event.DESTROY)
    ending = Termination(reason="exited", exit=Exit(code=3), usage=Usage(memory_peak=7), finished_at=2.0)
    records.finish(record, ending)
    os.rename(records.paths.running, records.paths.running.with_name("gone"))
    again = records.load(record.id)
    assert again.state is State.DESTROYED
    assert again.termination == ending and again.termination.status == 3


def test_a_refused_transition_writes_nothing(records: Records) -> None:
    record = make(records)
    with pytest.raises(WrongState):
        records.advance(record, Event.STARTED, started_at=5.0)
    assert records.load(record.id) == record


def test_names_are_unique_while_their_container_exists(records: Records) -> None:
    first = make(records, "web")
    with pytest.raises(AlreadyExists, match=f"'web' is used by container {first.id}"):
        make(records, "web")
    assert records.find("web") == first.id
    records.remove(first.id)
    second = make(records, "web")
    assert records.find("web") == second.id


def test_a_taken_id_is_refused_and_the_first_stays(records: Records) -> None:
    first = make(records, container="abc")
    with pytest.raises(AlreadyExists, match="abc"):
        make(records, container="abc")
    assert records.load(first.id) == first


def test_find_takes_a_name_an_id_or_a_beginning_of_one_only(records: Records) -> None:
    make(records, container="aa1")
    make(records, container="aa2")
    make(records, container="aa")
    assert str(records.find("aa2")) == "aa2"
    assert str(records.find("aa")) == "aa"
    with pytest.raises(NotFound, match="ambiguous"):
        records.find("a")
    for missing in ("zz", "", "../aa1", "aa1/../aa2", ".lock"):
        with pytest.raises(NotFound):
            records.find(missing)


@pytest.mark.parametrize("damage", [b"{", b'{"version":1}', b"\xff\xfe", b"[" * 100000, b"null"])
def test_a_damaged_record_is_set_aside_and_the_others_stand(records: Records, damage: bytes) -> None:
    """Q-20: torn, wrong type, too deep."""
    good, bad = make(records), make(records)
    records.paths.container(bad.id).intent.write_bytes(damage)
    found, damaged = records.all()
    assert [record.id for record in found] == [good.id]
    assert [one.id for one in damaged] == [bad.id]
    with pytest.raises(Corrupt, match="container.json"):
        records.load(bad.id)


def test_an_intent_that_a_power_cut_left_empty_counts_as_none(records: Records) -> None:
    """GAP-43: the cut came before it was settled, so the container had not been created."""
    record = make(records)
    assert records.is_recorded(record.id)
    records.paths.container(record.id).intent.write_bytes(b"")
    assert not records.is_recorded(record.id)
    with pytest.raises(NotFound):
        records.load(record.id)
    assert [one.id for one in records.all()[1]] == [record.id]


@pytest.mark.parametrize("kind", ["directory", "symlink", "fifo"])
def test_a_record_replaced_by_something_else_does_not_hang_or_lead_astray(
    records: Records, kind: str
) -> None:
    """Q-20: directory, link or FIFO in place of the file."""
    record = make(records)
    intent = records.paths.container(record.id).intent
    intent.unlink()
    if kind == "directory":
        intent.mkdir()
    elif kind == "symlink":
        intent.symlink_to("/etc/hostname")
    else:
        os.mkfifo(intent)
    with pytest.raises(Corrupt):
        records.load(record.id)


def test_a_record_of_a_later_version_is_refused_by_number(records: Records) -> None:
    record = make(records)
    intent = records.paths.container(record.id).intent
    intent.write_text(intent.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(Corrupt, match="version 9"):
        records.load(record.id)


def test_a_record_that_was_moved_to_another_id_is_refused(records: Records) -> None:
    record = make(records, container="one")
    os.rename(records.paths.containers / "one", records.paths.containers / "two")
    with pytest.raises(Corrupt, match="belongs to container one"):
        records.load(ContainerID.parse("two"))
    assert record.id != ContainerID.parse("two")


class Stop(BaseException):
    """The process ends here."""


def points_of(action: object) -> list[str]:
    seen: list[str] = []
    trace.observe(seen.append)
    try:
        action()  # type: ignore[operator]
    finally:
        trace.observe(None)
    return seen


def test_every_crash_in_create_and_remove_leaves_a_loadable_record_or_rubbish_that_sweep_takes(
    records: Records,
) -> None:
    """R-39, Q-02: visits each trace point; afterwards nothing is half there."""
    points = points_of(lambda: records.remove(make(records, "dry", "dry").id))
    assert points == [
        "records.directory-made",
        "records.intent-written",
        "records.name-linked",
        "records.name-freed",
        "records.state-removed",
    ]

    def run_until(stop: str, container: str) -> None:
        def observer(name: str) -> None:
            if name == stop:
                raise Stop

        trace.observe(observer)
        try:
            records.remove(make(records, container, container).id)
        except Stop:
            return
        finally:
            trace.observe(None)
        raise AssertionError(f"point {stop} was not passed")

    for number, stop in enumerate(dict.fromkeys(points)):
        container = f"c{number}"
        run_until(stop, container)
        records.sweep()
        identity = ContainerID.parse(container)
        if identity in records.ids():
            try:
                assert records.load(identity).config.name == container
            except NotFound:
                assert not records.paths.container(identity).intent.exists()
            records.remove(identity)
        records.sweep()
        assert identity not in records.ids()
        assert make(records, container).config.name == container
    leftovers = [path.name for path in records.paths.containers.iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_directories_of_state_are_for_root_only(records: Records) -> None:
    """R-39: whatever the caller's umask."""
    before = os.umask(0)
    try:
        record = records.advance(make(records, "n"), Event.PROVISIONED)
    finally:
        os.umask(before)
    where = records.paths.container(record.id)
    paths = records.paths
    for path in (where.state, where.runtime, paths.root, paths.runtime, paths.containers, paths.names):
        assert path.stat().st_mode & 0o077 == 0, path
    for file in (where.intent, where.status):
        assert file.stat().st_mode & 0o077 == 0, file
