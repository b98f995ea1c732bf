"""A life of an image store, ended by SIGKILL at one passing of a named point.  Run as a program.

python dying_provisioner.py FOLDER ONE TWO            write every point passed to standard output, one a line
python dying_provisioner.py FOLDER ONE TWO POINT N    die at the N-th passing of POINT
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

from mesocosm import trace
from mesocosm.images.committing import CommitRequest, Packed, pack
from mesocosm.images.layered import Layered
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.root_diff import RootDiff
from mesocosm.images.spool import Spool
from mesocosm.images.transfer import in_thread
from mesocosm.model import ContainerID
from mesocosm.paths import Paths


async def live(folder: Path, one: str, two: str, backend: str | None = None) -> None:
    """Recover, pull, provision, pull another, commit, mount it, pin, remove, collect, collect by settings:
    every kind of change to a store.

    A ``policy.toml`` in the folder holds.
    """
    paths, policy = Paths(folder / "state", folder / "run"), folder / "policy.toml"
    settings = folder / "images.toml"
    async with Provisioner.open(paths, policy=policy, settings=settings) as provisioner:
        container = ContainerID.parse("container")
        await provisioner.recover(set())
        await provisioner.pull(one, backend=backend)
        await provisioner.provision(container, one, pull="never", backend=backend, scratch=folder / "scratch")
        await provisioner.pull(two, backend=backend)
        await commit(provisioner, one, folder / "scratch/upper", backend)
        volume = folder / "scratch/volumes/0"
        await provisioner.provision(container, two, pull="never", backend=backend, scratch=volume)
        await provisioner.pin(two)
        await provisioner.unpin(two)
        await provisioner.tag(two, "example.org/two:1")
        await provisioner.release(container)
        await provisioner.remove(one)
        await provisioner.prune()
        await provisioner.pull(one, backend=backend)
        settings.write_text('collect-above = "0%"\ncollect-spare = "0"')
        await in_thread(lambda: provisioner.automatic.collect(wait=False))
        settings.unlink()


async def commit(provisioner: Provisioner, image: str, upper: Path, backend: str | None) -> None:
    """Make an image of what the container changed; nobody names it, so it is collected at the end."""
    (upper / "changed").write_bytes(b"c" * 100_000)

    async def layer(spool: Spool) -> Packed:
        with Layered.open((upper,)) as root:
            return pack(RootDiff(root, ()), spool, "gzip", threading.Event())

    async with provisioner.leased((await provisioner.inspect(image)).digest) as base:
        request = CommitRequest(created=1_600_000_000)
        await provisioner.commit(base, image, request, layer, backend=backend)


def main() -> None:
    """Observe and live."""
    folder, one, two, *rest = sys.argv[1:]
    passed: Counter[str] = Counter()
    lock = threading.Lock()

    def observe(point: str) -> None:
        with lock:
            passed[point] += 1
            if not rest:
                os.write(1, f"{point}\n".encode())
            elif point == rest[0] and passed[point] == int(rest[1]):
                os.kill(os.getpid(), signal.SIGKILL)

    trace.observe(observe)
    asyncio.run(live(Path(folder), one, two))


if __name__ == "__main__":
    main()
