"""Stores: one image family each.  Loaded when a reference asks for them: the registry's HTTP library alone
takes longer to import than a container to start.
"""

from __future__ import annotations

import importlib
from typing import Final

from mesocosm.errors import InvalidConfig
from mesocosm.images.stores.base import Store

GROUP: Final = "mesocosm.stores"
OURS: dict[str, str] = {
    "docker": "docker:RegistryStore",
    "docker-archive": "docker_archive:DockerArchiveStore",
    "oci": "oci:OciStore",
    "oci-archive": "oci:OciStore",
    "dir": "directory:DirectoryStore",
    "host": "host:HostStore",
    "tarball": "tarball:TarballStore",
    "aci": "appc:AppcStore",
    "appc": "appc:AppcStore",
    "erofs": "erofs:ErofsStore",
}
"""Reference transport to the class that serves it."""


def store_class(transport: str) -> type[Store]:
    """Return the store for a reference's transport, ours or an entry point's of that name; InvalidConfig."""
    if transport in OURS:
        module, _, name = OURS[transport].partition(":")
        ours: type[Store] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return ours
    from mesocosm.images import installed  # importlib.metadata is slow to import, and rarely needed

    found = installed.load(GROUP, transport, Store)
    if found is None:
        known = ", ".join(f"{name}:" for name in sorted(OURS) if name != "host")
        theirs = ", ".join(f"{name}://" for name in installed.names(GROUP))
        raise InvalidConfig(
            f"no store serves {transport}:// references",
            hint=f"known are host, {known}{f', {theirs}' if theirs else ''}",
        )
    if transport not in found.transports:
        raise InvalidConfig(f"store {transport}: {found.__name__} does not serve {transport}:// references")
    return found
