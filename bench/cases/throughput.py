"""How many launches a second, with 1, 4 and 16 in flight, with full isolation on both sides."""

from __future__ import annotations

from functools import partial

from bench.measure import OURS, Measured, Sample, in_turns
from bench.ours import Ours
from bench.peers import OCI_RUNTIMES, Peers

IN_FLIGHT = (1, 4, 16)
LAUNCHES = 48
"""Launches of one sample: enough that starting and draining do not weigh."""


async def run(ours: Ours | None, peers: Peers, *, rounds: int) -> list[Measured]:
    """One comparison for each number in flight."""
    return [await _at(in_flight, ours, peers, rounds=rounds) for in_flight in IN_FLIGHT]


async def _at(in_flight: int, ours: Ours | None, peers: Peers, *, rounds: int) -> Measured:
    async def theirs(runtime: str) -> float:
        command = peers.oci(runtime, filtered=True)
        return LAUNCHES / (await peers.run(command, count=LAUNCHES, in_flight=in_flight)).wall

    async def mine(ours: Ours) -> float:
        return LAUNCHES / await ours.launch_many(ours.full(), count=LAUNCHES, in_flight=in_flight)

    contenders: dict[str, Sample] = {runtime: partial(theirs, runtime) for runtime in OCI_RUNTIMES}
    if ours:
        contenders[OURS] = partial(mine, ours)
    return await in_turns(f"launches, {in_flight} in flight", "per s", contenders, rounds=rounds, warm_up=1)
