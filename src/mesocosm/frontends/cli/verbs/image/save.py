"""``mesocosm image save``: images as one archive."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.progress import progress


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Where to write; standard output without it.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["oci-archive", "docker-archive"]),
    default="oci-archive",
    help="docker-archive: for readers that know no OCI.",
)
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.argument("images", nargs=-1, required=True, shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    output: str | None,
    form: Literal["oci-archive", "docker-archive"],
    platform: str | None,
    images: tuple[str, ...],
) -> None:
    """Write IMAGES with their names to one tar file.

    oci-archive is an OCI image layout that docker load, podman and skopeo read alike.  The same images give
    the same bytes.
    """
    if output is None and sys.stdout.isatty():
        raise InvalidConfig("an archive is nothing for a terminal", hint="give -o FILE, or a pipe")
    with progress(quiet=False) as told:
        async with library(ctx, told) as store:
            with _target(output) as target:
                await store.save(images, target, form=form, platform=platform)


@contextlib.contextmanager
def _target(output: str | None) -> Iterator[int]:
    """Where to write.  A regular file appears under its name when it is whole."""
    if output is None:
        yield 1
        return
    path = Path(output)
    if path.exists() and not path.is_file():
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
        os.fsync(fd)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(fd)
