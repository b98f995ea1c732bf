"""System V objects and POSIX message queues of the container's own (parity NS-IPC-1).

``/dev/shm`` and ``/dev/mqueue`` are mounts and belong to filesystem/linux.
"""

from __future__ import annotations

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, Isolator
from mesocosm.model import ContainerConfig
from mesocosm.plan import Contribution

DEFAULT_SHM_SIZE = ContainerConfig().shm_size


class IpcNamespace(Isolator):
    """An IPC namespace, ipc_namespaces(7), unless the request shares the host's."""

    name = "namespaces/ipc"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The namespace.  Raises InvalidConfig for a /dev/shm size where /dev/shm is the host's."""
        config = container.config
        if config.namespaces.ipc != "host":
            return Contribution(namespaces=("ipc",), notes=("shared memory: its own",))
        if config.shm_size != DEFAULT_SHM_SIZE:
            raise InvalidConfig(
                "the size of /dev/shm cannot be chosen with the host's IPC namespace",
                hint="leave out the size, or take a namespace of its own",
            )
        return Contribution(notes=("shared memory: the host's",))
