"""``mesocosm commit``: an image of what a container has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.left_out import tell_left_out
from mesocosm.frontends.cli.output import HELP, show
from mesocosm.frontends.cli.progress import progress
from mesocosm.images.compress import KINDS

if TYPE_CHECKING:
    from mesocosm.images.committing import Committed
    from mesocosm.images.compress import Written


@click.command()
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
    "-p/-P", "--pause/--no-pause", default=True, show_default=True, help="Stop its processes meanwhile."
)
@click.option(
    "--timestamp",
    type=int,
    envvar="SOURCE_DATE_EPOCH",
    metavar="SECONDS",
    help="The image's date, since 1970; $SOURCE_DATE_EPOCH, else now.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("--format", "form", default="table", metavar="FORMAT", help=HELP)
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
    show(form, lambda _: done.image.digest, lambda: [_row(done)], done)


def _row(done: Committed) -> dict[str, object]:
    return {"ID": done.image.image_id, "Digest": done.image.digest, "Size": done.image.size}
