"""Which capabilities a request comes to: what is kept, and what system call filters are decided by."""

from __future__ import annotations

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.isolators.words import nearest
from mesocosm.linux import capabilities
from mesocosm.model import CapabilityRequest


def granted(request: CapabilityRequest, ceiling: int) -> int:
    """The mask that a request comes to under the ceiling of what there is to give.

    Raises InvalidConfig for an unknown name, Unsupported for one asked for by name that is above the ceiling.
    ``ALL`` means all there is.
    """
    added = tuple(_known(name) for name in request.add)
    dropped = tuple(_known(name) for name in request.drop)
    for name in added:
        if name != "ALL" and not ceiling >> capabilities.number(name) & 1:
            raise Unsupported(
                f"capability {name} cannot be given: this process does not have it",
                hint="run as root outside of a container, or leave it out",
            )
    # docker applies removals first: what is both removed and added by name is there
    removed = tuple(name for name in dropped if name == "ALL" or name not in added)
    return capabilities.adjusted(capabilities.DEFAULT, added, removed) & ceiling


def _known(name: str) -> str:
    """The canonical spelling, ``CAP_...`` or ``ALL``."""
    word = name.upper()
    if word in ("ALL", "CAP_ALL"):
        return "ALL"
    word = word if word.startswith("CAP_") else f"CAP_{word}"
    if word not in capabilities.NUMBERS:
        raise InvalidConfig(
            f"no capability is called {name!r}",
            hint=nearest(word, capabilities.NUMBERS) or "see capabilities(7)",
        )
    return word
