"""A host name of the container's own."""

from __future__ import annotations

import re

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.hostname import hostname
from mesocosm.plan import Contribution
from mesocosm.plan.operations import SetHostname

# sethostname(2) takes up to 64 bytes; the name also goes into files of lines and words.
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?", re.ASCII)


class UtsNamespace(Isolator):
    """A UTS namespace, uts_namespaces(7), unless the request shares the host's."""

    name = "namespaces/uts"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The namespace and its name.  Raises InvalidConfig for what is no name, or not ours to give."""
        config = container.config
        if config.hostname is not None and not _HOSTNAME.fullmatch(config.hostname):
            raise InvalidConfig(
                f"host name {config.hostname!r} is not allowed",
                hint="use letters, digits, '_', '.' and '-', at most 64, a letter or digit at both ends",
            )
        if config.namespaces.uts != "host":
            name = hostname(container)
            return Contribution(
                namespaces=("uts",), steps=(SetHostname(name=name),), notes=(f"host name: {name}",)
            )
        if config.hostname is not None:
            raise InvalidConfig(
                f"host name {config.hostname} would become the host's own",
                hint="leave it out, or take a namespace of its own",
            )
        return Contribution(notes=("host name: the host's",))
