"""Examples below a verb's help, as they are typed."""

from __future__ import annotations

import textwrap

_GAP = 3


def examples(*lines: tuple[str, str]) -> str:
    """Return an epilog for click: commands, each with what it does, in two columns."""
    width = max(len(command) for command, _ in lines) + _GAP
    rows = [f"{command:<{width}}# {what}" for command, what in lines]
    return "\b\nExamples:\n" + textwrap.indent("\n".join(rows), "  ")


def lines_of(epilog: str) -> list[str]:
    """Return the lines of an epilog that `examples` made: a command each, and what it does."""
    return [line[2:] for line in epilog.splitlines() if line.startswith("  ")]
