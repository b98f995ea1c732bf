"""The reference part of docs/cli.md, made from the commands themselves so that it cannot be wrong."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mesocosm.frontends.cli.commands import SHORT, VERBS, cli
from mesocosm.frontends.cli.examples import lines_of

HEAD = "<!-- made from the commands; `python -m mesocosm.frontends.cli.reference` prints it anew -->"


def reference() -> str:
    """Every verb with its arguments, text and options, as Markdown."""
    root = click.Context(cli, info_name="mesocosm")
    parts = [HEAD, "", "### Options before the verb", "", *_options(cli, root)]
    for verb in VERBS:
        command = cli.get_command(root, verb)
        if command is not None:
            context = click.Context(command, info_name=verb, parent=root)
            parts += ["", *_verb(verb, command, context)]
            if isinstance(command, click.Group):
                parts += _group(verb, command, context)
    return "\n".join(parts) + "\n"


def _group(group: str, command: click.Group, context: click.Context) -> Iterator[str]:
    """The verbs of a group; those that have a short form are described there."""
    short = {module: verb for verb, module in SHORT.items()}
    for verb in command.list_commands(context):
        yield ""
        known = short.get(f"{group}.{verb}") or short.get(f"{group}.{verb}_")
        inner = command.get_command(context, verb)
        if known is not None:
            yield f"`mesocosm {group} {verb}`: the same as [`mesocosm {known}`](#{known})."
        elif inner is not None:
            yield from _verb(f"{group} {verb}", inner, click.Context(inner, info_name=verb, parent=context))


def _verb(verb: str, command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"### {verb}"
    yield ""
    yield f"    mesocosm {verb} {' '.join(command.collect_usage_pieces(context))}"
    for paragraph in (command.help or "").split("\n\n"):
        yield ""
        yield " ".join(paragraph.split())
    options = list(_options(command, context))
    if options:
        yield ""
        yield from options
    shown = lines_of(command.epilog or "")
    if shown:
        yield ""
        yield from (f"    {line}" for line in shown)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    rows = [one.get_help_record(context) for one in command.params if isinstance(one, click.Option)]
    shown = [row for row in rows if row is not None]
    if not shown:
        return
    yield "| Option | Meaning |"
    yield "|---|---|"
    for names, meaning in shown:
        cell = names.replace("|", "\\|")
        yield f"| `{cell}` | {meaning.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
