"""Whether files can be shown with other owners here: id-mapped mounts, file system by file system."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mesocosm.doctor.finding import Finding, tried
from mesocosm.errors import MesocosmError, Unsupported
from mesocosm.images.backends.erofs import trial_layer
from mesocosm.linux import mounts, userns

_MAP = "0 100000 65536"


def examine(trial: Path) -> Finding:
    """Map a layer, a directory beside it and memory, and put an overlay on them; ``trial`` is where."""
    return tried(
        "id-mapped mounts",
        lambda: _map_all(trial),
        good="--idmap and volumes with idmap work, without copying",
        without="not everything can be shown with other owners",
        fix="run Linux 6.3 or later, with the state directory on ext4, xfs or btrfs, or use --backend copy",
        required=False,
    )


def _map_all(trial: Path) -> None:
    namespace = userns.make(_MAP, _MAP)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, namespace)
        layers = []
        for name, mount in _subjects(trial, stack):
            _map(name, mount, namespace)
            layers.append(mount)
        os.close(mounts.overlay(layers, aside=str(trial)))


def _subjects(trial: Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, int]]:
    """What is to be mapped: a name for people, and a detached mount."""
    lower = trial / "lower"
    lower.mkdir(exist_ok=True)
    makers: dict[str, Callable[[], int]] = {
        f"the file system of {trial.parent}": lambda: mounts.clone_tree(str(lower), recursive=False),
        "tmpfs": lambda: mounts.tmpfs(size=4096),
        "erofs": lambda: trial_layer(trial),
    }
    for name, make in makers.items():
        try:
            mount = make()
        except MesocosmError:  # layers are directories here
            continue
        stack.callback(os.close, mount)
        yield name, mount


def _map(name: str, mount: int, namespace: int) -> None:
    try:
        mounts.set_attributes(mount, 0, userns_fd=namespace)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        raise Unsupported(f"{name} has no id-mapped mounts") from error
