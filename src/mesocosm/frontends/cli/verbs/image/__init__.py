"""``mesocosm image``: everything about images; each verb is the module of its name.

docker's short forms (``mesocosm pull``) are the same modules, see commands.py.
"""

from __future__ import annotations

import click

from mesocosm.frontends.cli.commands import LazyGroup

VERBS = {
    "ls": "List images",
    "pull": "Fetch images",
    "push": "Send an image to a registry",
    "inspect": "Show everything known of images",
    "history": "Show how an image was made",
    "tree": "Show images with their layers, and who has them",
    "du": "Show what images take on disk, and what could be freed",
    "diff": "Show the files in which two images differ",
    "tag": "Give an image one more name",
    "pin": "Keep images from being removed or collected",
    "unpin": "Undo pin",
    "rm": "Remove images",
    "prune": "Remove images that nobody needs",
    "save": "Write images to an archive",
    "load": "Read images from an archive",
    "import": "Make an image of a tarball",
    "tags": "List the tags of a repository in a registry",
    "referrers": "List what a registry has for an image: signatures, SBOMs",
    "convert": "Compress an image's layers otherwise",
    "verify": "Read images again, find flipped bits, and fetch anew what is damaged",
    "scrub": "Read all that is stored again, at idle priority, a part at a time",
}


@click.group(
    "image",
    cls=LazyGroup,
    verbs=VERBS,
    modules={"import": "import_"},
    package=__name__,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Everything about images."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
