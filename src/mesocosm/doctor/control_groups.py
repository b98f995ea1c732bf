"""Which cgroup hierarchies there are, and whether cgroups of ours can be made in them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from mesocosm.doctor.finding import Finding, missing, ok, tried, warning
from mesocosm.errors import Unsupported
from mesocosm.linux import bpf, syscalls
from mesocosm.linux.cgroups.layout import Hierarchy, Layout
from mesocosm.linux.devices import DEFAULT, compile_rules

CONTROLLERS = {
    "cpu": "limits and weights of processor time",
    "memory": "memory limits",
    "pids": "limits of processes",
    "devices": "the list of devices a container may open",
}
"""What the default isolation uses, and what it cannot do without."""


def examine() -> Iterator[Finding]:
    """The layout, each controller, and a cgroup made and removed in each hierarchy."""
    try:
        layout = Layout.detect()
    except Unsupported as error:
        yield missing("cgroups", error.message, error.hint or "")
        return
    yield _layout(layout)
    for hierarchy in layout.hierarchies:
        if hierarchy.version == 2 or set(hierarchy.controllers) & {*CONTROLLERS, "cpuacct", "freezer"}:
            yield _writable(hierarchy)
    for name, use in CONTROLLERS.items():
        yield _controller(layout, name, use)
    yield _swap(layout)
    if layout.unified is not None:
        yield from _unified(layout.unified, layout)


def _layout(layout: Layout) -> Finding:
    words = {
        "v2": "version 2 alone",
        "v1": "version 1 alone: processes are killed by freezing them first, and start in two steps",
        "hybrid": "controllers on version 1, and a version 2 hierarchy that kills and tells",
    }
    return ok("cgroup layout", words[layout.mode])


def _writable(hierarchy: Hierarchy) -> Finding:
    served = ", ".join(hierarchy.controllers) or "processes only"

    def make() -> None:
        with _trial(hierarchy):
            pass

    return tried(
        f"cgroups at {hierarchy.base}",
        make,
        good=f"can be made; version {hierarchy.version}, {served}",
        without="cannot be made",
        fix="run as root outside of containers, or have a cgroup delegated (systemd: Delegate=yes)",
    )


@contextlib.contextmanager
def _trial(hierarchy: Hierarchy) -> Iterator[Path]:
    """A cgroup of a name nobody else has, for a moment."""
    path = Path(hierarchy.base) / f"mesocosm-doctor-{os.getpid()}-{os.urandom(3).hex()}"
    path.mkdir()
    try:
        yield path
    finally:
        path.rmdir()


def _controller(layout: Layout, name: str, use: str) -> Finding:
    hierarchy = layout.serving(name)
    if hierarchy is None:
        fix = f"boot with the {name} controller enabled (cgroup_enable={name}), or delegate it to us"
        return missing(f"{name} controller", f"not there: {use} cannot be had", fix)
    if name == "devices" and hierarchy.version == 2:
        return tried(
            "devices controller",
            lambda: os.close(bpf.load_device_program(compile_rules(DEFAULT))),
            good=f"{use}: by a BPF program",
            without=f"{use} cannot be had",
            fix="boot a kernel with CONFIG_CGROUP_BPF; take CAP_BPF or CAP_SYS_ADMIN",
        )
    return ok(f"{name} controller", f"{use}: version {hierarchy.version}")


def _swap(layout: Layout) -> Finding:
    hierarchy = layout.serving("memory")
    name = "memory.swap.max" if hierarchy and hierarchy.version == 2 else "memory.memsw.limit_in_bytes"
    found = hierarchy is not None and any(
        (place / name).exists() for place in (Path(hierarchy.base), *_below(hierarchy))
    )
    if found:
        return ok("swap accounting", "memory and swap are limited together")
    return warning(
        "swap accounting",
        "swap is not counted: a container at its memory limit may go on in swap",
        "boot with swapaccount=1, or have no swap",
    )


def _below(hierarchy: Hierarchy) -> list[Path]:
    """The root has no limit files on version 2; any cgroup below it that memory is handed to has."""
    with contextlib.suppress(OSError):
        return [path for path in Path(hierarchy.base).iterdir() if path.is_dir()]
    return []


def _unified(hierarchy: Hierarchy, layout: Layout) -> Iterator[Finding]:
    def be_born_in_it() -> None:
        with _trial(hierarchy) as path:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                pid, _ = syscalls.clone3(0, exit_signal=signal.SIGCHLD, cgroup_fd=directory)
                if not pid:
                    os._exit(0)
                os.waitpid(pid, 0)
            finally:
                os.close(directory)

    def kill_all() -> None:
        with _trial(hierarchy) as path:
            (path / "cgroup.kill").write_text("1")

    yield tried(
        "birth in a cgroup",
        be_born_in_it,
        good="a container's first process is limited from its first instruction",
        without="processes have to be moved",
        fix="run Linux 5.7 or later",
        required=layout.mode == "v2",
    )
    yield tried(
        "cgroup.kill",
        kill_all,
        good="a container is killed at one blow",
        without="containers are frozen and killed one process at a time",
        fix="run Linux 5.14 or later",
        required=False,
    )
