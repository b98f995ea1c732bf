"""Where and when the figures were taken."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("crun", "runc", "bubblewrap", "conmon", "busybox-static")


IMAGE_PACKAGES = ("containerd", "podman", "libarchive-tools", "tar", "docker-registry")


def conditions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """What a reader needs to know to repeat or doubt a figure."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20} MiB",
        "kernel": platform.release(),
        "cgroups": _cgroups(),
        "python": platform.python_version(),
        "peers": ", ".join(f"{name} {version}" for name, version in _versions(packages).items()),
        "load before": load(),
    }


def load() -> str:
    """The load average of the last minute."""
    return f"{os.getloadavg()[0]:.2f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cgroups() -> str:
    text = Path("/proc/self/mounts").read_text()
    kinds = {line.split()[2] for line in text.splitlines()}
    if "cgroup" not in kinds:
        return "version 2"
    return "hybrid" if "cgroup2" in kinds else "version 1"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())
