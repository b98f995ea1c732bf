"""After a crash, an upgrade or a reboot: what was meant, compared with what is.

For each container the evidence decides, by the table of conclusion.py.

What is alive and was left paused goes on.  A cgroup without a container directory is an orphan and
destroyed.  A record that cannot be read is set aside and reported.  A container whose lock somebody holds is
that somebody's business.
"""

from __future__ import annotations

from collections.abc import Awaitable

import msgspec

from mesocosm import trace
from mesocosm.conclusion import Conclusion, conclude
from mesocosm.engine import Engine
from mesocosm.errors import MesocosmError, NotFound
from mesocosm.isolators.base import Container
from mesocosm.linux.processes import boot_id
from mesocosm.model import ContainerID, Termination
from mesocosm.pause import resume
from mesocosm.records import Damaged, Record
from mesocosm.teardown import purge, tear_down


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """What recovery found and did.  ``failures`` are sentences about what could not be cleaned up yet."""

    alive: tuple[ContainerID, ...] = ()
    ended: tuple[ContainerID, ...] = ()
    forgotten: tuple[ContainerID, ...] = ()
    orphans: tuple[ContainerID, ...] = ()
    damaged: tuple[Damaged, ...] = ()
    failures: tuple[str, ...] = ()


class _Findings:
    """What has been found so far."""

    def __init__(self) -> None:
        self.alive: list[ContainerID] = []
        self.ended: list[ContainerID] = []
        self.forgotten: list[ContainerID] = []
        self.orphans: list[ContainerID] = []
        self.damaged: list[Damaged] = []
        self.failures: list[str] = []

    async def of(self, container: ContainerID, work: Awaitable[None]) -> None:
        """Do one container's share; what fails is noted and stops nobody else."""
        try:
            await work
        except NotFound:
            return  # another process removed it meanwhile
        except (MesocosmError, OSError) as error:
            self.failures.append(f"container {container}: {error}")

    def summary(self) -> Recovery:
        """The findings as a value."""
        return Recovery(
            alive=tuple(self.alive),
            ended=tuple(self.ended),
            forgotten=tuple(self.forgotten),
            orphans=tuple(self.orphans),
            damaged=tuple(self.damaged),
            failures=tuple(self.failures),
        )


async def recover(engine: Engine) -> Recovery:
    """Bring records and kernel together.  Never raises for one container's sake."""
    found = _Findings()
    engine.records.sweep()
    # cgroups are listed before the records: a container is recorded before its first cgroup is made
    in_kernel = [ContainerID.parse(name) for name in engine.host.cgroups.list()]
    records, damaged = engine.records.all()
    for record in records:
        await found.of(record.id, _recover_one(engine, record.id, found))
    for one in damaged:
        await found.of(one.id, _set_aside(engine, one, found))
    await _destroy_orphans(engine, in_kernel, found)
    await _recover_isolators(engine, [record for record in records if record.id in found.alive], found)
    await engine.provisioner.recover(engine.records.ids)
    return found.summary()


async def _recover_isolators(engine: Engine, alive: list[Record], found: _Findings) -> None:
    names = {name for record in alive for name in record.status.isolation}
    for name in sorted(names):
        containers = [
            Container(id=record.id, config=record.config)
            for record in alive
            if name in record.status.isolation
        ]
        await engine.isolator(name).recover(containers, found.orphans)


async def _recover_one(engine: Engine, container: ContainerID, found: _Findings) -> None:
    with engine.held(container) as held:
        if not held:
            return
        record = engine.records.load(container)
        evidence = engine.launcher.evidence(engine.where(container).supervisor)
        conclusion = conclude(record, evidence, boot_id())
        trace.point(f"recovery.{conclusion}")
        if conclusion is Conclusion.ALIVE:
            resume(engine, container)
            found.alive.append(container)
        elif conclusion is not Conclusion.DONE:
            await _finish(engine, record, conclusion, found)


async def _finish(engine: Engine, record: Record, conclusion: Conclusion, found: _Findings) -> None:
    rebooted = record.intent.boot_id != boot_id()
    reason = "the host was restarted" if rebooted else "its supervisor was killed"
    ending = {
        Conclusion.ENDED: Termination(reason="exited"),
        Conclusion.LOST: Termination(reason="lost", message=reason),
        Conclusion.INTERRUPTED: Termination(reason="orphaned", message="its creator was killed"),
    }[conclusion]
    await tear_down(engine, record.id, ending)
    if conclusion is Conclusion.INTERRUPTED:
        engine.records.remove(record.id)
        found.forgotten.append(record.id)
    else:
        found.ended.append(record.id)


async def _set_aside(engine: Engine, damaged: Damaged, found: _Findings) -> None:
    """Without any record it is the rest of an interrupted creation or removal; else a person decides."""
    if engine.records.is_recorded(damaged.id):
        found.damaged.append(damaged)
        return
    with engine.held(damaged.id) as held:
        if held and not engine.records.is_recorded(damaged.id):
            await purge(engine, damaged.id)
            found.forgotten.append(damaged.id)


async def _destroy_orphans(engine: Engine, in_kernel: list[ContainerID], found: _Findings) -> None:
    known = set(engine.records.ids())
    for container in in_kernel:
        if container not in known:
            await found.of(container, purge(engine, container))
            found.orphans.append(container)
