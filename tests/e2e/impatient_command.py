"""The command line with little patience for registries.  Run as a program, with the command's own words."""

from __future__ import annotations

import sys

import msgspec

import mesocosm.images.registry.client
from mesocosm.frontends.cli.main import main
from mesocosm.images.registry.limits import Limits

IMPATIENT = msgspec.structs.replace(
    Limits(), connect=2.0, header=0.3, idle=0.3, attempts=3, backoff=0.01, backoff_cap=0.02, deadline=5.0
)

if __name__ == "__main__":
    setattr(mesocosm.images.registry.client, "Limits", lambda: IMPATIENT)  # noqa: B010
    sys.exit(main(sys.argv[1:]))
