"""What an in-toto statement says: that its predicate holds of some digests.

Who signed it is somebody else's question.  Here is asked whether it speaks of the document at hand, and in
the words that policy takes for an approval: a scanner's report is signed too (attacks G-13).
Source: in-toto's attestation framework, spec/v1/statement.md.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import shown
from mesocosm.images.strict import Fields, Json, load

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
TYPES: Final = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_KNOWN: Final = ("_type", "subject", "predicateType", "predicate")


def refusal(statement: bytes, predicates: Collection[str], digest: Digest) -> str | None:
    """Return why a statement whose signature is good does not admit the document; None when it does.

    ``digest`` is that of the document, which has to be among the statement's subjects.
    """
    what = "signed statement"
    try:
        fields = Fields(load(statement, what), what, _KNOWN)
        kind, predicate = fields.text("_type"), fields.text("predicateType")
        subjects = [_digests(value) for value in fields.items("subject")]
    except (Corrupt, Exhausted) as error:
        return error.message
    if kind not in TYPES:
        return f"its statement has the type {shown(kind, 60)}, not {TYPES[0]}"
    if predicate not in predicates:
        return f"it states {shown(predicate, 80)}, not {' or '.join(predicates)}"
    if not any(one.get(digest.algorithm) == digest.hex for one in subjects):
        signed = ", ".join(f"{name}:{value}" for one in subjects for name, value in one.items())
        return f"it signs {shown(signed, 160) or 'nothing'}, not {digest}"
    return None


def _digests(subject: Json) -> dict[str, str]:
    where = "signed statement, subject"
    return Fields(subject, where, ("name", "digest")).table("digest")
