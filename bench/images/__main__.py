"""`python -m bench.images`: measure everything about images, rewrite IMAGES.md and images.json."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench import results
from bench.conditions import IMAGE_PACKAGES, conditions, load
from bench.images import keeping, mounting, pulls, unpacking
from bench.images.goals import goal, missed
from bench.images.material import CODECS, material
from bench.images.scratch import Scratch
from bench.measure import Comparison
from fixtures.images import Layout
from fixtures.registry import Registry

CASES = {"mounting": mounting, "unpacking": unpacking, "pulls": pulls, "keeping": keeping}
ROUNDS = {"mounting": 2, "unpacking": 8, "pulls": 3, "keeping": 3}
HOME = "/dev/shm"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.images", description=__doc__)
    parser.add_argument("--only", choices=CASES, action="append", help="this part; nothing is written")
    parser.add_argument("--quick", action="store_true", help="a small image, one round; nothing is written")
    return parser.parse_args()


def measure(options: argparse.Namespace, home: Path) -> list[Comparison]:
    """Ask every question; everything is made below ``home``."""
    made = material(quick=options.quick)
    found = []
    with Registry(home / "registry") as registry:
        for codec in CODECS:
            registry.push(Layout(made.layout, codec), f"bench:{codec}")
        for name in options.only or CASES:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            rounds = 1 if options.quick else ROUNDS[name]
            found += CASES[name].run(made, Scratch(home), registry, rounds=rounds)
    return [one for measured in found for one in measured.comparisons()]


def main() -> int:
    """Measure, show, write."""
    options = arguments()
    if os.geteuid() != 0:
        print("bench.images: needs root, as the peers do", file=sys.stderr)
        return 1
    where = conditions(IMAGE_PACKAGES)
    home = Path(tempfile.mkdtemp(prefix="mesocosm-bench-", dir=HOME))
    try:
        found = measure(options, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print("\n".join(results.table(found, goal)))
    for one in missed(found):
        print(f"goal missed: {one.name} against {one.peer.name}: {one.ratio:.2f}", file=sys.stderr)
    if not (options.only or options.quick):
        results.write_images(results.FOLDER, found, where | {"load after": load()}, goal)
    return 0


if __name__ == "__main__":
    sys.exit(main())
