"""Signatures beside a registry: files on a web server or on this host, in containers' layout.

    BASE/REPOSITORY@sha256=HEX/signature-1, signature-2, ...

each an OpenPGP message that holds a signed statement (containers/image, docs/signature-protocols.md; called
"lookaside" or "sigstore" in registries.d).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mesocosm.errors import NotFound
from mesocosm.images.archive import Span, open_regular, read_span
from mesocosm.images.digest import Digest
from mesocosm.images.reference import Reference
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.signed_statement import LIMIT
from mesocosm.images.web import Web

COUNT: Final = 32
"""Signatures of one image that are looked at."""

FILE: Final = "file://"


async def signatures_at(base: str, reference: Reference, digest: Digest, web: Web) -> tuple[bytes, ...]:
    """Return the signatures kept at ``base`` for a document of the reference's repository.

    Raises Denied, Unavailable, Exhausted as `Web.read` does, InvalidConfig for a file that cannot be read.
    """
    place = f"{base.rstrip('/')}/{reference.repository}@{digest.algorithm}={digest.hex}"
    found = []
    for number in range(1, COUNT + 1):
        try:
            found.append(await _read(f"{place}/signature-{number}", web))
        except NotFound:
            break
    return tuple(found)


async def _read(place: str, web: Web) -> bytes:
    if place.startswith(FILE):
        data: bytes = await in_thread(_read_file, Path(place.removeprefix(FILE)))
        return data
    return await web.read(place, most=LIMIT, what=f"signature {place}")


def _read_file(path: Path) -> bytes:
    fd = open_regular(path)
    size = os.fstat(fd).st_size
    os.close(fd)
    return read_span(path, Span(0, min(size, LIMIT)))
