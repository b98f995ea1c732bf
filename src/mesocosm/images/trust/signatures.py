"""Signatures made by ``cosign sign --key``: a signed statement of which digest has which name.

The statement is a small JSON document, signed as its exact bytes by ECDSA on P-256 with SHA-256, by Ed25519,
or by RSA.  It is found in the registry under the tag ``sha256-<hex>.sig`` of the same repository: a manifest
whose layers are statements, with the signature in an annotation (cosign's SIGNATURE_SPEC.md).

What the statement has to say is in trust/signed_statement.py.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from mesocosm.errors import InvalidConfig
from mesocosm.images.foreign import shown

ANNOTATION: Final = "dev.cosignproject.cosign/signature"
MEDIA_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
TYPE: Final = "cosign container image signature"
COUNT_LIMIT: Final = 64
_KEY_LIMIT: Final = 64 << 10

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


class Signature(msgspec.Struct, frozen=True):
    """A statement's exact bytes, and what is claimed to be their signature.

    An OpenPGP message has both in one: ``statement`` is empty then.
    """

    statement: bytes
    signature: bytes


def load_keys(paths: Sequence[str]) -> tuple[PublicKey, ...]:
    """Read PEM public keys; blocking.  Raises InvalidConfig for a file that holds none."""
    return tuple(_load_key(Path(path)) for path in paths)


def _load_key(path: Path) -> PublicKey:
    try:
        with open(path, "rb") as file:
            key = load_pem_public_key(file.read(_KEY_LIMIT))
    except OSError as error:
        raise InvalidConfig(f"key {path} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidConfig(f"key {path} is not a PEM public key: {shown(error, 80)}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise InvalidConfig(f"key {path} is of a kind that signs nothing here")
    return key


def decode(text: str, statement: bytes) -> Signature | None:
    """Return a signature from its annotation; None when that is not base 64."""
    try:
        return Signature(statement, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return None


def is_signed_by(keys: Sequence[PublicKey], signature: Signature) -> bool:
    """Whether one of the keys made the signature."""
    return any(_verifies(key, signature) for key in keys)


def _verifies(key: PublicKey, signature: Signature) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature.signature, signature.statement, ec.ECDSA(SHA256()))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature.signature, signature.statement)
        else:
            key.verify(signature.signature, signature.statement, padding.PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True
