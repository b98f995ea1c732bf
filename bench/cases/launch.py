"""How long from the request to the exit of `true`, with equal isolation on both sides."""

from __future__ import annotations

from functools import partial

from bench.measure import OURS, Measured, Sample, in_turns
from bench.ours import Ours
from bench.peers import OCI_RUNTIMES, Peers


async def run(ours: Ours | None, peers: Peers, *, rounds: int) -> list[Measured]:
    """Full isolation, the same without the filter, and namespaces only."""
    return [
        await _full("launch to exit, full isolation", ours, peers, rounds=rounds, filtered=True),
        await _full("launch to exit, without filter", ours, peers, rounds=rounds, filtered=False),
        await _namespaces(ours, peers, rounds=rounds),
    ]


async def _full(name: str, ours: Ours | None, peers: Peers, *, rounds: int, filtered: bool) -> Measured:
    contenders: dict[str, Sample] = {
        runtime: partial(peers.sample, peers.oci(runtime, filtered=filtered)) for runtime in OCI_RUNTIMES
    }
    if ours:
        contenders[OURS] = partial(ours.sample, ours.full(filtered=filtered))
    return await in_turns(name, "ms", contenders, rounds=rounds)


async def _namespaces(ours: Ours | None, peers: Peers, *, rounds: int) -> Measured:
    contenders: dict[str, Sample] = {"bubblewrap": partial(peers.sample, peers.bubblewrap())}
    if ours:
        contenders[OURS] = partial(ours.sample, ours.namespaces_only())
    return await in_turns("launch to exit, namespaces only", "ms", contenders, rounds=rounds)
