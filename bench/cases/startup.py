"""What a command costs that a person types: from its start to its end."""

from __future__ import annotations

from functools import partial

from bench.measure import OURS, Measured, Sample, in_turns
from bench.ours import Ours
from bench.peers import Peers


async def run(ours: Ours | None, peers: Peers, *, rounds: int) -> list[Measured]:
    """Saying the version, listing containers, and a cold `run` of `true`."""
    crun_list = ("crun", "--root", str(peers.state("crun")), "list")
    cold = ("run", "--rm", "--read-only", *peers.limit_flags(), peers.image(), "/bin/true")
    questions: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
        ("command, version", ("--version",), ("crun", "--version")),
        ("command, list containers", ("ps",), crun_list),
        ("command, cold run", cold, peers.oci("crun", filtered=True)),
    )
    found = []
    for name, mine, theirs in questions:
        contenders: dict[str, Sample] = {"crun": partial(peers.sample, theirs)}
        if ours:
            contenders[OURS] = partial(peers.sample, ours.command(*mine))
        found.append(await in_turns(name, "ms", contenders, rounds=rounds))
    return found
