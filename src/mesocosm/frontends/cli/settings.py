"""What holds for one whole command: the options before the verb, and how it came out."""

from __future__ import annotations

from typing import Final

OUTPUT: Final = "standard output"
ERRORS: Final = "standard error"
"""Our streams, as what has failed is named."""


class Settings:
    """Filled while the command line is read; ``verb`` stays empty until there is one."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.runtime: str | None = None
        self.debug = False
        self.verb = ""


class Interrupted(Exception):  # noqa: N818
    """A signal ended the command, after everything it had begun was given back."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.number = number


class ReaderGone(Exception):  # noqa: N818
    """Whoever read our output has stopped; as at the head of any pipe, that ends the command."""
