"""What a signed statement says: which digest has which name (containers' "atomic container signature", and
cosign's, which has the same shape).

Who signed it is somebody else's question.  Here is asked whether it speaks of the image at hand: a true
signature of another image, or of the same bytes under another name, says nothing (attacks G-13).
Source: containers/image, docs/containers-signature.5.md.
"""

from __future__ import annotations

from typing import Final

from mesocosm.errors import Corrupt, InvalidConfig
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import shown
from mesocosm.images.reference import Reference, parse_docker_name
from mesocosm.images.strict import Fields, load

LIMIT: Final = 64 << 10
"""The largest statement and the largest signature, in bytes."""


def refusal(statement: bytes, kind: str, reference: Reference, digest: Digest, *, exact: bool) -> str | None:
    """Return why a statement whose signature is good does not admit the image; None when it does.

    ``kind`` is the type it must have, ``digest`` that of the document it must speak of.  ``exact``: it must
    name the reference's tag too, where the reference has one, and not only its repository.
    """
    what = "signed statement"
    try:
        document = Fields(load(statement, what, limit=LIMIT), what, ("critical", "optional"))
        critical = _whole(document, "critical", "identity", "image", "type")
        identity = _whole(critical, "identity", "docker-reference").text("docker-reference") or ""
        signed = _whole(critical, "image", "docker-manifest-digest").text("docker-manifest-digest")
        stated = critical.text("type")
    except Corrupt as error:
        return error.message
    if stated != kind:
        return f"its statement has the type {shown(stated, 60)}, not {kind}"
    if signed != str(digest):
        return f"it signs {shown(signed, 80)}, not {digest}"
    if not _names(identity, reference, exact):
        return f"it was made for {shown(identity, 120)}, not for {reference.familiar}"
    return None


def _whole(outer: Fields, name: str, *known: str) -> Fields:
    """An object of which each member has to be understood, as all that is critical has to be.

    Raises Corrupt for one with others: they may restrict what was signed (containers-signature(5)).
    """
    inner = Fields(outer.raw(name), f"{outer.where}, {name}", known)
    if unknown := set(inner.value) - set(known):
        raise Corrupt(f"{inner.where}: {shown(sorted(unknown), 80)} is critical, and not understood")
    return inner


def _names(identity: str, reference: Reference, exact: bool) -> bool:
    try:
        named = parse_docker_name(identity)
    except InvalidConfig:
        return False
    if named.name != reference.name:
        return False
    return not exact or reference.tag is None or named.tag == reference.tag
