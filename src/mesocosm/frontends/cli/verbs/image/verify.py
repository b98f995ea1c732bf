"""``mesocosm image verify``: every byte, read again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import click
import msgspec

from mesocosm.errors import MesocosmError, about
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.layout import count
from mesocosm.frontends.cli.library import each_platform, library
from mesocosm.frontends.cli.progress import progress
from mesocosm.frontends.cli.saying import say
from mesocosm.frontends.cli.verbs.image.ls import familiar
from mesocosm.images.progress import Phase, Progress

if TYPE_CHECKING:
    from mesocosm.images.library import Library
    from mesocosm.images.progress import Report


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one image: ``checked`` blobs and layers; digests of what was ``damaged`` or
    ``absent``, and of what still is (``left``); ``only_as``: layers in another form than is wanted here, by
    digest; ``failure`` says why it could not be brought back.
    """

    image: str
    digest: str
    checked: int
    damaged: tuple[str, ...]
    absent: tuple[str, ...]
    left: tuple[str, ...]
    only_as: dict[str, str] = {}
    failure: str = ""


@click.command(
    epilog=examples(
        ("mesocosm image verify", "all images"),
        ("mesocosm image verify --check-only debian:12", "one, and only look"),
    )
)
@click.option("--platform", metavar="OS/ARCH|all", help="Which of an image's platforms.")
@click.option("--check-only", is_flag=True, help="Bring nothing back.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress, and nothing that is sound.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@click.argument("images", nargs=-1, shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context,
    platform: str | None,
    check_only: bool,
    quiet: bool,
    form: str,
    images: tuple[str, ...],
) -> int:
    """Read IMAGES, or all there are, again, and compare every byte with what it was when it came.

    What is damaged is taken out of the store and fetched anew, or made anew of what is kept.  The exit
    status is 1 when something is still not as it should be.
    """
    with progress(quiet=quiet) as told:
        async with library(ctx, told) as store:
            names = images or tuple(image.digest for image in await store.images())
            found = []
            for name in names:
                with about(name):
                    for each in await each_platform(store, name, platform):
                        found.append(await _examine(store, name, each, told, repair=not check_only))
    if form == "json":
        show_json(found)
    else:
        for one in found:
            _tell(one, quiet=quiet)
    return int(any(one.left or one.failure for one in found))


async def _examine(
    store: Library, name: str, platform: str | None, report: Report, *, repair: bool
) -> Finding:
    image = await store.inspect(name, platform=platform)
    subject = familiar(image.references[0]) if name == image.digest and image.references else name
    if platform is not None:
        subject = f"{subject} for {image.platform}"
    report(Progress(Phase.VERIFY, subject, 0, image.size))
    verdict, failure, left = await store.verify(name, platform=platform), "", None
    report(Progress(Phase.VERIFY, subject, image.size, image.size, finished=True))
    if repair and not verdict.sound:
        try:
            await store.repair(name, verdict, platform=platform)
        except MesocosmError as error:
            failure = str(error)
        left = await store.verify(name, platform=platform)
    remains = left or verdict
    return Finding(
        image=subject,
        digest=image.digest,
        checked=verdict.checked,
        damaged=verdict.damaged,
        absent=verdict.absent,
        left=(*remains.damaged, *remains.absent),
        only_as=remains.only_as,
        failure=failure,
    )


_FORMS: Final = {"tree": ("a directory tree", "directory trees"), "erofs": ("an EROFS file", "EROFS files")}


def _forms(found: Finding) -> str:
    """What a start here would make anew, because another backend made what is here."""
    kinds = Counter(found.only_as.values())
    told = [f"{count(number, 'layer')} only as {_FORMS[form][number > 1]}" for form, number in kinds.items()]
    return f"; {', '.join(told)}: made anew when it is started here" if told else ""


def _tell(found: Finding, *, quiet: bool) -> None:
    words = count(found.checked, "blob or layer").replace("blob or layers", "blobs and layers")
    if not found.damaged and not found.absent:
        if not quiet:
            click.echo(f"{found.image}: sound ({words}){_forms(found)}")
        return
    for word, digests in (("damaged", found.damaged), ("absent", found.absent)):
        for digest in digests:
            became = "still so" if digest in found.left else "brought back"
            click.echo(f"{found.image}: {word} {digest}: {became}")
    if found.failure:
        say(str(found.failure))
