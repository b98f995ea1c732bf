"""Runs a command on a host in which a canary lies in every place that the host's image hides.

python planted_host.py TEXT FOLDER COMMAND…

The host is this machine's root below a copy-on-write overlay in memory, in a mount namespace of its own:
nothing of the machine changes, and all of it is gone with the namespace.  FOLDER alone is the real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mesocosm.images.stores import host
from mesocosm.linux import syscalls

CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
REPOSITORY = str(Path(__file__).parents[2])
DISK = os.stat("/").st_dev

USER = "/home/someone"
SHOWN = ("/etc/shown", "/root/shown", f"{USER}/shown")
PLACES = (
    *host.STATE,
    *host.SECRETS,
    *(f"{home}/{name}" for home in ("/root", USER) for name in host.HOME_SECRETS),
    *(f"{folder}/canary" for folder in host.EMPTIED),
    "/etc/ssh/ssh_host_canary_key",
)
FOLDERS = frozenset(
    {".ssh", ".gnupg", ".aws", ".docker", ".kube", "private", "letsencrypt", "kubernetes", "mesocosm"}
)
"""Secrets that are folders where tools make them; what is there already keeps its kind."""


def enter(kept: Path) -> None:
    """Make a copy-on-write root, with ``kept`` as it is, and go there."""
    syscalls.unshare(CLONE_NEWNS)
    mount("--make-rprivate", "/")
    memory = kept / "memory"
    memory.mkdir()
    mount("-t", "tmpfs", "memory", str(memory))
    upper, work, root = (memory / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay", str(root))
    elsewhere = [path for path in (REPOSITORY, sys.prefix, sys.base_prefix) if os.stat(path).st_dev != DISK]
    for path in ("/proc", "/sys", "/dev", str(kept), *elsewhere):
        mount("--rbind", path, f"{root}{path}")
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", MNT_DETACH)
    os.chdir("/")


def mount(*words: str) -> None:
    """mount(8)."""
    subprocess.run(["mount", *words], check=True)


def plant(text: str) -> None:
    """Put the text into every hidden place, and into some that show."""
    for name in (*PLACES, *SHOWN):
        place = Path(name)
        if place.is_symlink():
            place.unlink()
        if place.is_dir() or (not place.exists() and place.name in FOLDERS):
            place.mkdir(parents=True, exist_ok=True)
            place /= "id"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n")


if __name__ == "__main__":
    enter(Path(sys.argv[2]))
    plant(sys.argv[1])
    sys.exit(subprocess.run(sys.argv[3:], check=False).returncode)
