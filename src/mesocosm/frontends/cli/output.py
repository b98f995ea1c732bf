"""``--format``: a table, JSON, or a template of the caller's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli.colour import Paint, painter, safe
from mesocosm.frontends.cli.encoding import show_json
from mesocosm.frontends.cli.layout import columns
from mesocosm.frontends.cli.template import Template, fields, unescape

Row = Mapping[str, object]


def format_help(*members: str) -> str:
    """What ``--format`` takes, and which members a template may name."""
    one, other = (f"{{{{.{member}}}}}" for member in members[:2])
    return f"table, json, or a template: '{one}', 'table {one}\\t{other}'; of {' '.join(members)}."


def show(form: str, table: Callable[[Paint], str], rows: Callable[[], Sequence[Row]], value: object) -> None:
    """Print as ``form`` asks for: our own table, ``value`` as JSON, or each row by a template."""
    if form == "json":
        show_json(value)
        return
    text = table(painter(sys.stdout)) if form == "table" else by_template(form, rows())
    if text:
        click.echo(text)


def by_template(form: str, rows: Sequence[Row]) -> str:
    """Return each row as a line by a template; one that begins with ``table`` gives aligned columns."""
    form = unescape(form)
    words = form.split(maxsplit=1)
    if words[:1] == ["table"] and len(words) == 2:
        template = Template(words[1])
        cells = [template.render(row).split("\t") for row in rows]
        header = fields(words[1])
        return columns([_fitted(row, len(header)) for row in cells], header=header)
    template = template_of(form)
    return "\n".join(template.render(row) for row in rows)


def template_of(form: str) -> Template:
    """Return the template that a format is; InvalidConfig for a word that would only print itself."""
    text = unescape(form)
    if "{{" not in text:
        raise InvalidConfig(
            f"format {safe(text[:40])!r} shows nothing", hint="table, json, or as in {{.Repository}}:{{.Tag}}"
        )
    return Template(text)


def _fitted(row: list[str], length: int) -> list[str]:
    """As many cells as the header has: a value may hold a tab of its own."""
    return [*row, *[""] * length][: length - 1] + [" ".join(row[length - 1 :])]
