"""Scratch space: a directory of the container's own on the host's fast disk, at /scratch.

Owns ``/run/acme-scratch/ID`` on the host.  Asked for by the label ``acme.scratch``; what is in it ends with
the container.  The directory's name is derived from the ID, so there is nothing to remember.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.host import Host
from mesocosm.linux.beneath import remove_tree
from mesocosm.model import ContainerID
from mesocosm.plan import Contribution, MakeHostDirectory
from mesocosm.plan.operations import BindMount

LABEL = "acme.scratch"
BASE = Path("/run/acme-scratch")


class Scratch(Isolator):
    """Gives containers that ask for it a place to write to that is not their root."""

    name = "acme/scratch"
    requires = ("filesystem/linux",)
    nested = True

    @classmethod
    def create(cls, host: Host) -> Isolator:
        """Asked once, at start; touches nothing."""
        if not BASE.parent.is_dir():
            raise Unsupported(f"there is no {BASE.parent}", hint="mount a tmpfs there")
        return cls(host)

    def prepare(self, container: Container) -> Contribution:
        """The directory, where it is seen, and how to find it."""
        asked = container.config.labels.get(LABEL)
        if asked is None:
            return Contribution.NOTHING
        if asked not in ("", "noexec"):
            raise InvalidConfig(f"label {LABEL}={asked} is not known", hint=f"use {LABEL} or {LABEL}=noexec")
        place = BASE / str(container.id)
        # The container's user may be anybody; nobody else on the host gets past the directory above.
        directories = (MakeHostDirectory(path=str(BASE)), MakeHostDirectory(path=str(place), mode=0o1777))
        flags = ("nosuid", "nodev", *((asked,) if asked else ()))
        return Contribution(
            host=directories,
            steps=(BindMount(source=str(place), target="/scratch", flags=flags),),
            environment=("SCRATCH=/scratch",),
            notes=("scratch: /scratch",),
        )

    async def status(self, container: ContainerID) -> Mapping[str, str]:
        """How many files there are on its first level."""
        try:
            return {"scratch": f"{len(os.listdir(BASE / str(container)))} files"}
        except FileNotFoundError:
            return {}

    async def cleanup(self, container: ContainerID) -> None:
        """Remove it.  What lies there is the container's word: removed by descriptor, no link is followed."""
        try:
            base = os.open(BASE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            remove_tree(base, str(container))
        finally:
            os.close(base)
