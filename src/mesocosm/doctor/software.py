"""The interpreter, and the modules that only some images ask for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

from mesocosm.doctor.finding import Finding, missing, ok

MODULES = {
    "aiohttp": "talking to registries",
    "isal": "unpacking gzip",
    "cryptography": "checking signatures",
}


def examine() -> Iterator[Finding]:
    """What was installed with us."""
    yield ok("python", f"{sys.version.split()[0]} at {sys.executable}")
    zstd = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    for name, use in {**MODULES, zstd: "unpacking zstd"}.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield missing(f"module {name}", f"{use} does not work: {error}", "install mesocosm again")
