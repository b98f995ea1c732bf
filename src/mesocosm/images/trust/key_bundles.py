"""Bundles signed by a key: what ``cosign sign --key`` makes since cosign 3, unless it is told otherwise.

In the place of a certificate such a bundle has a hint which key it was; the keys that policy names are tried
anyway.  The signature is over the statement together with its type (DSSE's pre-authentication encoding).
Entries of a log that come along prove nothing that the key does not, and are not looked at.
Sources: sigstore's protobuf-specs, sigstore_bundle.proto; DSSE, protocol.md.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import shown
from mesocosm.images.strict import Fields, load
from mesocosm.images.trust import attestation
from mesocosm.images.trust.bundles import SIZE_LIMIT
from mesocosm.images.trust.policy import APPROVAL
from mesocosm.images.trust.signatures import PublicKey, Signature, is_signed_by

_BUNDLE = ("mediaType", "verificationMaterial", "dsseEnvelope", "messageSignature")
_MATERIAL = ("publicKey", "certificate", "x509CertificateChain", "tlogEntries", "timestampVerificationData")
_ENVELOPE = ("payload", "payloadType", "signatures")


def refusal(bundle: bytes, keys: Sequence[PublicKey], digest: Digest) -> str | None:
    """Return why a bundle by one of the keys does not approve of the document; None when it does."""
    try:
        kind, statement, signature = _opened(bundle)
    except (Corrupt, Exhausted) as error:
        return error.message
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(statement), statement)
    if not is_signed_by(keys, Signature(signed, signature)):
        return "a bundle is by none of the keys that policy names"
    if kind != attestation.PAYLOAD_TYPE.encode():
        return f"a bundle signs {shown(kind.decode(), 60)}, not {attestation.PAYLOAD_TYPE}"
    return attestation.refusal(statement, (APPROVAL,), digest)


def _opened(bundle: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a bundle's type of statement, its statement, and its signature; nothing of it is proved yet."""
    fields = Fields(load(bundle, "bundle", limit=SIZE_LIMIT), "bundle", _BUNDLE)
    material = Fields(fields.raw("verificationMaterial"), "bundle, verification material", _MATERIAL)
    if not material.has("publicKey"):
        raise Corrupt("a bundle is not signed by a key, but by who holds a certificate")
    if not fields.has("dsseEnvelope"):
        raise Corrupt("a bundle signs bytes and not a statement")
    envelope = Fields(fields.raw("dsseEnvelope"), "bundle, envelope", _ENVELOPE)
    signatures = [Fields(one, "bundle, signature", ("sig", "keyid")) for one in envelope.items("signatures")]
    if len(signatures) != 1:
        raise Corrupt(f"a bundle has {len(signatures)} signatures, not one")
    kind = (envelope.text("payloadType") or "").encode()
    return kind, _bytes(envelope, "payload"), _bytes(signatures[0], "sig")


def _bytes(fields: Fields, name: str) -> bytes:
    try:
        return base64.b64decode(fields.text(name) or "", validate=True)
    except (binascii.Error, ValueError):
        raise fields.fail(name, "is not base 64") from None
