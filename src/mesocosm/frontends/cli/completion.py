"""What the Tab key offers where a container is wanted."""

from __future__ import annotations

import contextlib
import os

import click

from mesocosm.paths import ROOT


def containers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names, and where none begins so, IDs; read from the directory's entries alone."""
    del param
    root = ctx.find_root().params.get("root") or os.environ.get("MESOCOSM_ROOT") or str(ROOT)
    for directory in ("names", "containers"):
        with contextlib.suppress(OSError):
            entries = sorted(os.listdir(f"{root}/{directory}"))  # noqa: PTH208
            found = [name for name in entries if name.startswith(incomplete) and not name.startswith(".")]
            if found:
                return found
    return []
