"""What a command tells the person who gave it, beside its output."""

from __future__ import annotations

import contextlib

import click

from mesocosm.frontends.cli.colour import safe


def say(text: str) -> None:
    """Tell it in one line on standard error; nothing that is quoted in it, a typed name too, moves a cursor.

    A standard error that cannot be written is no reason to end otherwise.
    """
    with contextlib.suppress(OSError):
        click.echo(f"mesocosm: {safe(' '.join(text.splitlines()))}", err=True)
