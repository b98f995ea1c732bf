"""What could not be put into an archive, told without filling the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from mesocosm.frontends.cli.colour import safe

_TOLD: Final = 10


def tell_left_out(sentences: Sequence[str]) -> None:
    """Say the first of them, and how many more there are."""
    for sentence in sentences[:_TOLD]:
        click.echo(f"mesocosm: warning: {safe(sentence)}", err=True)
    if len(sentences) > _TOLD:
        click.echo(f"mesocosm: warning: and {len(sentences) - _TOLD} more of the kind", err=True)
