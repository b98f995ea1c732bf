"""The name by which a container knows its host: in its UTS namespace, its /etc and its environment."""

from __future__ import annotations

import os

from mesocosm.isolators.base import Container

SHORT = 12  # characters of an ID that people get to see, as docker has it


def hostname(container: Container) -> str:
    """The name asked for, the host's own where that is shared, else the short ID."""
    config = container.config
    if config.hostname is not None:
        return config.hostname
    if config.namespaces.uts == "host":
        return os.uname().nodename
    return container.id.segments[-1][:SHORT].rstrip("-_")
