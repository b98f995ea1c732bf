"""`python -m bench`: measure everything, rewrite RESULTS.md, PROFILE.md and results.json."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench import ours, results, timeline
from bench.bundle import make_root
from bench.cases import launch, memory, startup, throughput
from bench.conditions import conditions, load
from bench.measure import Measured
from bench.peers import Peers

CASES = {"launch": launch, "throughput": throughput, "memory": memory, "startup": startup}
ROUNDS = {"launch": 60, "throughput": 5, "memory": 1, "startup": 20}
QUICK = {"launch": 8, "throughput": 1, "memory": 1, "startup": 4}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", choices=CASES, action="append", help="this question; nothing is written")
    parser.add_argument("--quick", action="store_true", help="few rounds; nothing is written")
    parser.add_argument("--peers-only", action="store_true", help="leave us out; nothing is written")
    return parser.parse_args()


async def measure(
    options: argparse.Namespace, disk: Path, fast: Path
) -> tuple[list[Measured], list[timeline.Stretch]]:
    """Ask every question.  ``disk`` takes what must survive a reboot, ``fast`` (tmpfs) what need not."""
    root = make_root(disk)
    rounds = QUICK if options.quick else ROUNDS
    found: list[Measured] = []
    steps: list[timeline.Stretch] = []
    async with contextlib.AsyncExitStack() as stack:
        peers = await stack.enter_async_context(Peers.open(fast, root))
        await peers.prove()
        mine = None
        if not options.peers_only:
            mine = await stack.enter_async_context(
                ours.Ours.open(root, state=disk / "state", runtime=fast / "run")
            )
            await mine.prove()
        if mine and not options.only:
            print("measuring where the time goes", file=sys.stderr, flush=True)
            steps = await timeline.run(mine, rounds=rounds["launch"])
        for name in options.only or CASES:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            found += await CASES[name].run(mine, peers, rounds=rounds[name])
    return found, steps


def show(found: list[Measured]) -> None:
    """Print every median, peers' too where there is nothing to compare them with."""
    for measured in found:
        for series in measured.series:
            low, high = series.spread
            figures = f"{series.median:9.2f} {measured.unit} ({low:.2f} … {high:.2f})"
            print(f"{measured.name:36} {series.name:12} {figures}")


def memory_home() -> str:
    """A tmpfs: ``/run`` where it is one, as on every ordinary host."""
    mounted = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return "/run" if ["/run", "tmpfs"] in mounted else "/dev/shm"


def main() -> int:
    """Measure, show, write."""
    options = arguments()
    if os.geteuid() != 0:
        print("bench: needs root, as the peers do", file=sys.stderr)
        return 1
    where = conditions()
    disk, fast = (
        Path(tempfile.mkdtemp(prefix="mesocosm-bench-", dir=home)) for home in ("/var/tmp", memory_home())
    )
    try:
        found, steps = asyncio.run(measure(options, disk, fast))
    except (ours.Unavailable, FileNotFoundError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        for folder in (fast, disk):
            shutil.rmtree(folder, ignore_errors=True)
    show(found)
    if not (options.only or options.quick or options.peers_only):
        comparisons = [one for measured in found for one in measured.comparisons()]
        where |= {"load after": load()}
        results.write(Path(__file__).parent, comparisons, where)
        timeline.write(Path(__file__).parent, steps, where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
