"""No new privileges: set-user-ID programs and file capabilities give nothing (attack R-21, parity NNP-1).

On unless switched off, which docker leaves the other way round.
"""

from __future__ import annotations

from mesocosm.isolators.base import Container, Isolator
from mesocosm.plan import Contribution, operations


class NoNewPrivileges(Isolator):
    """prctl(2), PR_SET_NO_NEW_PRIVS."""

    name = "linux/nnp"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The flag, unless the request gives it up (parity GAP-6)."""
        if not container.config.no_new_privileges:
            return Contribution(notes=("new privileges: allowed through set-user-ID programs",))
        return Contribution(steps=(operations.NoNewPrivileges(),), notes=("new privileges: none",))
