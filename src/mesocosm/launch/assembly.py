"""Images assembled: the detached mounts that root steps stand for, nobody's root yet."""

from __future__ import annotations

import errno
import os
import stat

from mesocosm.launch import owners
from mesocosm.linux import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]
    Layers = Sequence[int | str]
    Result = TypeVar("Result")


def assembled(setup: Setup, step: Step) -> int:
    """Return the detached mount of an image, as a root step describes it."""
    return _ASSEMBLIES[step["op"]](setup, step)


def with_layers(setup: Setup, step: Step, act: Callable[[Layers], Result]) -> Result:
    """Act on the layers of an overlay: paths, with mapped owners descriptors of detached mounts.

    These have no path, and some kernels need one of a directory to mount upon (`mounts.overlay`, ``aside``):
    that of a layer will do, since in our mount namespace nobody else looks there.  Overlayfs takes no mapped
    ones before Linux 5.19 (EINVAL).
    """
    if step["idmap"] is None:
        return act(step["layers"])
    layers = [owners.clone(setup, layer, step["idmap"]) for layer in step["layers"]]
    try:
        return act(layers)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(
            errno.EOPNOTSUPP, "overlayfs refuses layers with mapped owners", step["layers"][0]
        ) from None
    finally:
        for layer in layers:
            os.close(layer)


def _overlay(setup: Setup, step: Step) -> int:
    upper, work, aside = step["upper"], step["work"], step["layers"][0]
    options: list[tuple[str, None]] = [("volatile", None)] if upper and step["volatile"] else []
    return with_layers(
        setup,
        step,
        lambda layers: mounts.overlay(layers, upper=upper, work=work, options=options, aside=aside),
    )


def _bind(setup: Setup, step: Step) -> int:
    fd = owners.clone(setup, step["source"], step["idmap"], recursive=True)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "the root is not a directory", step["source"])
    if step["read_only"]:
        mounts.set_attributes(fd, mounts.ATTRIBUTES["ro"], recursive=True)
    return fd


_ASSEMBLIES: dict[str, Callable[[Setup, Step], int]] = {"overlay-root": _overlay, "bind-root": _bind}
