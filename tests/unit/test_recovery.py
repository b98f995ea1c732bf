"""The evidence table, row by row (architecture, "Surviving")."""

from __future__ import annotations

import pytest

from mesocosm.launch.session import Evidence
from mesocosm.lifecycle import State
from mesocosm.model import ContainerConfig, ContainerID, Exit
from mesocosm.records import Intent, Record, Status
from mesocosm.recovery import Conclusion, conclude

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
