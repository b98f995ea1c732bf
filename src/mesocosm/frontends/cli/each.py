"""Doing one thing to each of several containers: all are tried, every failure is told, the worst decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import click

from mesocosm.errors import MesocosmError
from mesocosm.frontends.cli.saying import say

if TYPE_CHECKING:
    from mesocosm.containerizer import Containerizer
    from mesocosm.model import ContainerID


async def each(
    containerizer: Containerizer,
    names: Iterable[str],
    act: Callable[[ContainerID], Awaitable[object]],
    *,
    echo: bool = True,
) -> int:
    """Do ``act`` to each container named, print the name on success; answers the exit status."""
    status = 0
    for name in names:
        try:
            await act(containerizer.find(name))
        except MesocosmError as error:
            say(str(error))
            status = 1
        else:
            if echo:
                click.echo(name)
    return status
