"""``mesocosm image diff``: the files in which two images differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.colour import Paint, plain, safe
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.library import library
from mesocosm.frontends.cli.output import Row, format_help, show

if TYPE_CHECKING:
    from mesocosm.images.comparison import Change
    from mesocosm.root_files import RootChange

LETTERS = {"added": ("A", "good"), "changed": ("C", "notice"), "removed": ("D", "bad")}


MEMBERS = ("Path", "Kind", "Letter", "What", "Before", "After")
"""Of an item of the list, for templates."""


@click.command(
    epilog=examples(
        ("mesocosm image diff debian:12 debian:12.1", "which files"),
        ("mesocosm image diff -v --ignore-times app:1 app:2", "and what of them"),
    )
)
@click.option("-v", "--verbose", is_flag=True, help="What of each file changed.")
@click.option("--ignore-times", is_flag=True, help="Files that differ in their time alone are the same.")
@click.option("--platform", metavar="OS/ARCH", help="Which of the images' platforms.")
@click.option("--format", "form", default="table", metavar="FORMAT", help=format_help(*MEMBERS))
@click.argument("old", shell_complete=completion.images)
@click.argument("new", shell_complete=completion.images)
@click.pass_context
@asynchronous
async def command(
    ctx: click.Context, verbose: bool, ignore_times: bool, platform: str | None, form: str, old: str, new: str
) -> None:
    """Show what NEW adds (A), changes (C) and removes (D) beside OLD, by path; as docker diff does."""
    async with library(ctx) as store:
        found = await store.compare(old, new, platform=platform)
    if ignore_times:
        found = [change for change in found if change.what != ("time",)]
    show(
        form,
        lambda paint: render(found, verbose, paint),
        lambda: rows(found),
        found,
    )


def rows(changes: Sequence[Change | RootChange]) -> list[Row]:
    """The changes, for templates: of images, or of a container's root."""
    return [{**msgspec.to_builtins(change), "letter": LETTERS[change.kind][0]} for change in changes]


def render(changes: list[Change], verbose: bool, paint: Paint = plain) -> str:
    """One line for each change."""
    return "\n".join(_line(change, verbose, paint) for change in changes)


def _line(change: Change, verbose: bool, paint: Paint) -> str:
    what = f"  ({', '.join(change.what)})" if verbose and change.what else ""
    return f"{line(change.kind, change.path, paint)}{what}"


def line(kind: str, path: str, paint: Paint) -> str:
    """The letter and the path, with what a terminal would take for orders spelt out."""
    letter, style = LETTERS[kind]
    shown = safe(path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
    return f"{paint(letter, style)} {shown}"
