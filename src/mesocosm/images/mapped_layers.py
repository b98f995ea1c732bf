"""Whether this host can show layers with other owners: tried in miniature, as a container's start does it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mesocosm.errors import MesocosmError, Unsupported
from mesocosm.images.backends.erofs import trial_layer
from mesocosm.linux import mounts, userns

_MAP = "0 100000 65536"


def try_layers(trial: Path) -> None:
    """Map two directories of ``trial`` and an EROFS layer, and put an overlay on them; blocking.

    Raises Unsupported with what cannot be mapped, OSError.
    """
    with contextlib.ExitStack() as stack:
        namespace = _namespace(stack)
        layers = []
        for name, mount in _layers(trial, stack):
            _map(name, mount, namespace)
            layers.append(mount)
        try:
            os.close(mounts.overlay(layers, aside=str(trial)))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise Unsupported("overlayfs refuses layers with mapped owners") from error


def try_memory() -> None:
    """Map a tmpfs; raises as `try_layers`."""
    with contextlib.ExitStack() as stack:
        memory = mounts.tmpfs(size=4096)
        stack.callback(os.close, memory)
        _map("tmpfs", memory, _namespace(stack))


def _namespace(stack: contextlib.ExitStack) -> int:
    namespace = userns.make(_MAP, _MAP)
    stack.callback(os.close, namespace)
    return namespace


def _layers(trial: Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, int]]:
    """What is to be mapped: a name for people, and a detached mount."""
    lower, other = trial / "lower", trial / "other"
    for place in (lower, other):
        place.mkdir(exist_ok=True)
    where = f"the file system of {trial.parent}"
    makers: list[tuple[str, Callable[[], int]]] = [
        (where, lambda: mounts.clone_tree(str(lower), recursive=False)),
        (where, lambda: mounts.clone_tree(str(other), recursive=False)),
        ("erofs", lambda: trial_layer(trial)),
    ]
    for name, make in makers:
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
