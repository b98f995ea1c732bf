"""The evidence table, row by row (architecture, "Surviving")."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesocosm.conclusion import Conclusion, conclude, holding
from mesocosm.launch.session import Evidence
from mesocosm.lifecycle import Event, State
from mesocosm.linux.processes import boot_id
from mesocosm.model import ContainerConfig, ContainerID, Exit
from mesocosm.paths import Paths
from mesocosm.records import Intent, Record, Records, Status

GONE = Evidence(alive=False, exit=None)
ALIVE = Evidence(alive=True, exit=None)
ENDED = Evidence(alive=False, exit=Exit(code=0))


def record(state: State, boot: str = "now") -> Record:
    intent = Intent(id=ContainerID(("c",)), config=ContainerConfig(), boot_id=boot, created_at=0.0)
    return Record(intent=intent, status=Status(state=state))


@pytest.mark.parametrize(
    ("state", "evidence", "boot", "conclusion"),
    [
        (State.RUNNING, ALIVE, "before", Conclusion.LOST),  # RebootWithExecutorPidReused: pids mean nothing
        (State.PROVISIONING, GONE, "before", Conclusion.LOST),
        (State.RUNNING, ENDED, "now", Conclusion.ENDED),
        (State.CREATED, ENDED, "now", Conclusion.ENDED),
        (State.RUNNING, ALIVE, "now", Conclusion.ALIVE),
        (State.CREATED, ALIVE, "now", Conclusion.ALIVE),
        (State.PREPARED, ALIVE, "now", Conclusion.INTERRUPTED),
        (State.RUNNING, GONE, "now", Conclusion.LOST),
        (State.CREATED, GONE, "now", Conclusion.LOST),
        (State.PROVISIONING, GONE, "now", Conclusion.INTERRUPTED),
        (State.PREPARED, GONE, "now", Conclusion.INTERRUPTED),
        (State.DESTROYING, GONE, "now", Conclusion.ENDED),
        (State.DESTROYING, ALIVE, "now", Conclusion.ENDED),
        (State.DESTROYED, GONE, "before", Conclusion.DONE),
        (State.DESTROYED, ALIVE, "now", Conclusion.DONE),
    ],
)
def test_evidence_decides(state: State, evidence: Evidence, boot: str, conclusion: Conclusion) -> None:
    assert conclude(record(state, boot), evidence, "now") is conclusion


# --- who still needs an image -------------------------------------------------------------------------------


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(Paths(tmp_path / "state", tmp_path / "run"))


def recorded(records: Records, *events: Event, boot: str | None = None) -> str:
    """The ID of a new container that these things have happened to."""
    intent = Intent(
        id=ContainerID.generate(), config=ContainerConfig(), boot_id=boot or boot_id(), created_at=0.0
    )
    record = records.create(intent)
    for event in events:
        record = records.advance(record, event)
    records.paths.container(record.id).supervisor.directory.mkdir(parents=True, exist_ok=True)
    return str(record.id)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


RAN = (Event.PROVISIONED, Event.FORKED, Event.STARTED)


def test_a_container_holds_what_it_has_until_it_ends(records: Records) -> None:
    """Until its exit status is there, or its supervisor gone, however late somebody cleans up."""
    holds, container = holding(records.paths), recorded(records, *RAN)
    session = records.paths.container(ContainerID.parse(container)).supervisor
    with held(session.lock):
        assert holds(container)
        session.exit.write_text('{"code":0,"signal":0,"core":false,"at":1,"version":1}')
        assert not holds(container)
        session.exit.unlink()
    assert not holds(container)
    assert not holds(recorded(records, *RAN, Event.DESTROY))
    earlier = recorded(records, *RAN, boot="another")
    with held(records.paths.container(ContainerID.parse(earlier)).supervisor.lock):
        assert not holds(earlier)


def test_a_container_in_the_making_holds_what_it_has_while_somebody_makes_it(records: Records) -> None:
    holds, container = holding(records.paths), recorded(records)
    lock = records.paths.container(ContainerID.parse(container)).lock
    with held(lock):
        assert holds(container)
    assert not holds(container)


def test_who_is_not_known_holds_nothing_and_who_cannot_be_read_holds_on(records: Records) -> None:
    holds, container = holding(records.paths), recorded(records, *RAN)
    assert not holds("unknown") and holds("a/strange:name")
    records.paths.container(ContainerID.parse(container)).intent.write_text("{")
    assert holds(container)
