"""What the Tab key offers where a container or an image is wanted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from mesocosm.paths import ROOT


def containers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names, and where none begins so, IDs; read from the directory's entries alone."""
    del param
    root = _root(ctx)
    for directory in ("names", "containers"):
        with contextlib.suppress(OSError):
            entries = sorted(os.listdir(f"{root}/{directory}"))  # noqa: PTH208
            found = [name for name in entries if name.startswith(incomplete) and not name.startswith(".")]
            if found:
                return found
    return []


def images(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of images that are here, as people write them; read from their records alone."""
    del param
    from mesocosm.errors import MesocosmError  # noqa: PLC0415
    from mesocosm.images.catalogue import Catalogue  # noqa: PLC0415
    from mesocosm.images.reference import parse_reference  # noqa: PLC0415

    names: set[str] = set()
    with contextlib.suppress(OSError, MesocosmError):
        for ref in Catalogue(Path(_root(ctx)) / "images").refs():
            names.add(parse_reference(ref.reference).familiar)
    return sorted(name for name in names if name.startswith(incomplete))


def _root(ctx: click.Context) -> str:
    return ctx.find_root().params.get("root") or os.environ.get("MESOCOSM_ROOT") or str(ROOT)
