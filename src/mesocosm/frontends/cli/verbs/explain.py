"""``mesocosm explain``: everything a run would do, in order, without doing any of it."""

from __future__ import annotations

import sys
from typing import Any

import click

from mesocosm.frontends.cli.colour import painter
from mesocosm.frontends.cli.context import asynchronous, opened
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.plan_text import render
from mesocosm.frontends.cli.request import config_of, options

_OF_RUN = (
    click.option("-d", "--detach", is_flag=True, hidden=True),
    click.option("--rm", "auto_remove", is_flag=True, hidden=True),
    click.option("-i", "--interactive", is_flag=True, hidden=True),
    click.option("-q", "--quiet", is_flag=True, hidden=True),
    click.option("--report", is_flag=True, hidden=True),
    click.option("--cidfile", hidden=True),
)
"""Options of ``run`` that change nothing of the plan, so that one word turns a run into its explanation."""


def _as_for_run(function: Any) -> Any:
    for option in _OF_RUN:
        function = option(function)
    return function


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@_as_for_run
@options
@click.pass_context
@asynchronous
async def command(ctx: click.Context, /, form: str, **given: Any) -> None:
    """Show what ``run`` with the same options would do, step by step, and what would be refused here.

    The image has to be on this host; pull it first.  Nothing is changed and nothing is fetched.
    """
    config = config_of(given, auto_remove=given["auto_remove"], stdin=given["interactive"])
    async with opened(ctx) as containerizer:
        explanation = await containerizer.explain(config)
    if form == "json":
        show_json(explanation)
    else:
        click.echo(render(explanation, painter(sys.stdout)))
