"""``mesocosm doctor``: what this host can do, and how to fix what it cannot."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
import msgspec

from mesocosm.doctor import SECTIONS, Finding, examine
from mesocosm.frontends.cli.colour import Paint, painter, plain
from mesocosm.frontends.cli.context import paths_of
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.layout import count

NAMES = 34  # columns for names; a longer one, a path, pushes its own line only
_MARKS = {"ok": ("ok     ", "good"), "warning": ("warning", "notice"), "missing": ("MISSING", "bad")}


@click.command()
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="How to print.")
@click.pass_context
def command(ctx: click.Context, form: str) -> int:
    """Try everything that containers need on this host; leaves nothing behind.

    The exit status is 1 when something is missing that containers cannot be run without.
    """
    found = list(examine(paths_of(ctx)))
    if form == "json":
        show_json([{"section": section, **msgspec.to_builtins(finding)} for section, finding in found])
    else:
        click.echo(render(found, painter(sys.stdout)))
    return int(any(finding.status == "missing" for _, finding in found))


def render(found: Sequence[tuple[str, Finding]], paint: Paint = plain) -> str:
    """The findings under their sections, what to do below each, and a verdict."""
    wide = min(NAMES, max((len(finding.name) for _, finding in found), default=0))
    lines: list[str] = []
    for section, title in SECTIONS.items():
        lines.append(paint(f"{section.upper()}  {title}", "title"))
        for name, finding in found:
            if name == section:
                mark = paint(*_MARKS[finding.status])
                lines.append(f"  {mark}  {finding.name:<{wide}}  {finding.message}")
                if finding.fix:
                    lines.append(f"  {'':7}  {'':{wide}}  {paint(f'fix: {finding.fix}', 'name')}")
        lines.append("")
    return "\n".join([*lines, _verdict([finding for _, finding in found], paint)])


def _verdict(found: Sequence[Finding], paint: Paint) -> str:
    missing = sum(finding.status == "missing" for finding in found)
    warnings = sum(finding.status == "warning" for finding in found)
    if missing:
        return paint(f"Containers cannot be run here: {count(missing, 'thing')} missing.", "bad")
    told = f", with {count(warnings, 'warning')}" if warnings else ""
    return paint(f"Containers can be run here{told}.", "good")
