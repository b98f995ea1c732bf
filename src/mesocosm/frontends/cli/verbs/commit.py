"""``mesocosm commit``: an image of what a container has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.left_out import tell_left_out
from mesocosm.frontends.cli.output import format_help, show
from mesocosm.frontends.cli.progress import progress
from mesocosm.images.compress import KINDS

if TYPE_CHECKING:
    from mesocosm.images.committing import Committed
    from mesocosm.images.compress import Written

MEMBERS = ("ID", "Digest", "Size")
"""Of the image, for templates."""


@click.command(
    epilog=examples(
        ("mesocosm commit -m 'with tools' app example.org/app:2", "under a name"),
        ("mesocosm commit -c 'CMD [\"/bin/app\"]' app example.org/app:3", "another command"),
    )
)
@click.option("-a", "--author", default="", metavar="TEXT", help="Who made it.")
@click.option("-m", "--message", default="", metavar="TEXT", help="What history is to say.")
@click.option("-c", "--change", "changes", multiple=True, metavar="LINE", help="As in a Dockerfile.")
@click.option(
    "--compression",
    type=click.Choice(KINDS),
    default="gzip",
    show_default=True,
    help="What the new layer is compressed by.",
)
@click.option(
    "--pause/--no-pause", "-p/-P", default=True, show_default=True, help="Stop its processes meanwhile."
)
@click.option(
    "--timestamp",
    type=int,
    envvar="SOURCE_DATE_EPOCH",
    metavar="SECONDS",
    help="The image's date, since 1970; $SOURCE_DATE_EPOCH, else now.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--format", "form", default="table", metavar="FORMAT", help=format_help(*MEMBERS))
@click.argument("container", shell_complete=completion.containers)
@click.argument("name", required=False)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    author: str,
    message: str,
    changes: tuple[str, ...],
    compression: Written,
    pause: bool,
    timestamp: int | None,
    quiet: bool,
    form: str,
    container: str,
    name: str | None,
) -> None:
    """Make an image of CONTAINER's image and a layer of what it has changed, name it NAME, print its digest.

    The image's process stays what it was, whatever CONTAINER was started with.  --change takes CMD,
    ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR.  Volumes are left out.
    """
    with progress(quiet=quiet) as told:
        async with opened(ctx, told) as containerizer:
            done = await containerizer.commit(
                containerizer.find(container),
                name,
                author=author,
                message=message,
                changes=changes,
                compression=compression,
                pause=pause,
                timestamp=timestamp,
            )
    tell_left_out(done.left_out)
    show(form, lambda _: done.image.digest, lambda: [row(done)], done)


def row(done: Committed) -> dict[str, object]:
    """The image that was made, for templates."""
    return {"ID": done.image.image_id, "Digest": done.image.digest, "Size": done.image.size}
