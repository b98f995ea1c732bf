"""The files of /etc that say where a container is: hosts, hostname, resolv.conf (parity CNI-6, attack N-08).

They are made in the container's own directory of the host and shown in the root, so that no link of the image
is ever written through and the image stays as it is.
"""

from __future__ import annotations

from pathlib import Path

from mesocosm.isolators.base import Container
from mesocosm.isolators.hostname import hostname
from mesocosm.paths import Paths
from mesocosm.plan import HostAction, MakeHostDirectory, WriteHostFile
from mesocosm.plan.operations import BindMount

FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")

_LIMIT = 64 << 10  # bytes of a host's file that are taken over

_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
127.0.1.1\t{hostname}
"""
_NO_NETWORK = "# This container has no network, hence no name server.\n"


def host_steps(container: Container, paths: Paths, targets: tuple[str, ...]) -> tuple[HostAction, ...]:
    """Make the files for these targets, the root's root's."""
    directory = paths.container(container.id).etc
    contents = _contents(container)
    owner = container.config.idmap.owner if container.config.idmap is not None else None
    files = (
        WriteHostFile(path=f"{directory}/{_name(path)}", content=contents[path], owner=owner)
        for path in targets
    )
    return (MakeHostDirectory(path=str(directory)), *files) if targets else ()


def mounts(container: Container, paths: Paths, targets: tuple[str, ...]) -> tuple[BindMount, ...]:
    """Show them; writable where the root is, as with docker."""
    directory = paths.container(container.id).etc
    flags = (
        ("ro", "nosuid", "nodev", "noexec") if container.config.read_only else ("nosuid", "nodev", "noexec")
    )
    return tuple(
        BindMount(source=f"{directory}/{_name(path)}", target=path, recursive=False, flags=flags)
        for path in targets
    )


def _contents(container: Container) -> dict[str, str]:
    name = hostname(container)
    shared = container.config.namespaces.net == "host"
    return {
        "/etc/hosts": _of_host("/etc/hosts") if shared else _HOSTS.format(hostname=name),
        "/etc/hostname": f"{name}\n",
        "/etc/resolv.conf": _of_host("/etc/resolv.conf") if shared else _NO_NETWORK,
    }


def _of_host(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(_LIMIT).decode(errors="replace")
    except OSError:
        return ""


def _name(path: str) -> str:
    return path.rpartition("/")[2]
