"""What the evidence says of one container: recovery acts by it, and who only looks tells by it.

The evidence, in this order, decides:

    the record's boot ID is not this boot's              LOST          clean the disk only
    exit.json is there                                   ENDED         destroy, the status is known
    the supervisor's lock is held                        ALIVE         watch it (CREATED or RUNNING)
      … but the record never reached CREATED             INTERRUPTED   destroy and forget
    lock free, the container's cgroup populated          LOST          destroy, the supervisor was killed
    lock free, cgroup empty                              LOST if it had been created, else INTERRUPTED
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from mesocosm import durable
from mesocosm.errors import MesocosmError, NotFound
from mesocosm.launch.session import Evidence, evidence
from mesocosm.lifecycle import State
from mesocosm.linux.processes import boot_id
from mesocosm.model import ContainerID
from mesocosm.paths import Paths
from mesocosm.records import Record, Records


class Conclusion(StrEnum):
    """What the evidence says of one container."""

    DONE = "done"
    ALIVE = "alive"
    ENDED = "ended"
    LOST = "lost"
    INTERRUPTED = "interrupted"


def conclude(record: Record, evidence: Evidence, boot: str) -> Conclusion:
    """The table above.  Pure."""
    created = record.state in (State.CREATED, State.RUNNING)
    if record.state is State.DESTROYED:
        return Conclusion.DONE
    if record.intent.boot_id != boot:
        return Conclusion.LOST
    if record.state is State.DESTROYING:
        return Conclusion.ENDED
    if evidence.exit is not None and created:
        return Conclusion.ENDED
    if evidence.alive and created:
        return Conclusion.ALIVE
    return Conclusion.LOST if created else Conclusion.INTERRUPTED


def holding(paths: Paths) -> Callable[[str], bool]:
    """A look at whether a container, by its ID, still needs what it was given.

    No more once it has ended, even if nobody has given that back yet: the next recovery does.  One whose
    record cannot be read holds what it has, because recovery leaves it alone.  Changes nothing.
    """
    records = Records(paths)

    def holds(text: str) -> bool:
        try:
            container = ContainerID.parse(text)
            record = records.load(container)
            found = conclude(record, evidence(paths.container(container).supervisor), boot_id())
        except NotFound:
            return False
        except (MesocosmError, OSError):
            return True
        if found is Conclusion.INTERRUPTED:
            return durable.is_locked(paths.container(container).lock)  # by who is making it just now
        return found in (Conclusion.ALIVE, Conclusion.DONE)

    return holds
