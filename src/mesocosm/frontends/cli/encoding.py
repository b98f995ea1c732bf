"""Values as JSON for programs: the same structs that Python callers see, by their own field names."""

from __future__ import annotations

import click
import msgspec


def show_json(value: object, *, indent: int = 2) -> None:
    """Print a value as one JSON document; with ``indent`` 0 on one line."""
    data = msgspec.json.encode(value, enc_hook=str)
    click.echo((msgspec.json.format(data, indent=indent) if indent else data).decode())
