"""A pull, or with a directory of changes a commit on what was pulled, ended by SIGKILL when part of its
layer's blob is on the disk.  Run as a program.

python dying_copy.py FOLDER IMAGE [CHANGES]
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from crash.dying_provisioner import commit
from mesocosm.images.progress import Phase, Progress
from provisions import opened


def die(progress: Progress) -> None:
    """With bytes of a blob written, and the blob not published."""
    if progress.phase is Phase.DOWNLOAD and progress.done and not progress.finished:
        os.kill(os.getpid(), signal.SIGKILL)


async def main(folder: Path, image: str, changes: list[str]) -> None:
    """Pull it dying, or pull it and die in the commit."""
    if not changes:
        async with opened(folder, progress=die) as provisioner:
            await provisioner.pull(image)
        return
    async with opened(folder) as provisioner:
        await provisioner.pull(image)
    async with opened(folder, progress=die) as provisioner:
        await commit(provisioner, image, Path(changes[0]), None)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
