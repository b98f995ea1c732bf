"""Keyless signatures: by whoever an issuer said the signer was, checked by sigstore's own library (the extra
``sigstore``) against a trusted root on this host; nothing is asked of any server.

A signer proves an identity to a certificate authority (Fulcio), signs with a key that lives for minutes, and
has the signature entered into a public log (Rekor).  What counts: the certificate was issued by an authority
of the trusted root and entered into its certificate log; the log's time, or a timestamp authority's, lies
within the certificate's life; the log proves by a signed checkpoint that it holds this signature; and the
certificate names the signer and the issuer that the rule names.
Source: sigstore's client specification; the library's documentation.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mesocosm.errors import InvalidConfig, MesocosmError, Unsupported
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import shown
from mesocosm.images.strict import load
from mesocosm.images.trust import attestation
from mesocosm.images.trust.bundles import SIZE_LIMIT
from mesocosm.images.trust.policy import Signer, pattern_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import TrustedRoot
    from sigstore.verify.policy import VerificationPolicy

ROOT_LIMIT: Final = 1 << 20
"""The largest trusted root, in bytes."""


class Keyless:
    """One signer that a rule of the policy names, with the root that its certificates are judged by."""

    def __init__(self, signer: Signer) -> None:
        """Read the trusted root; blocking.  Raises InvalidConfig, Unsupported without the library."""
        _require_library()
        from sigstore.errors import Error
        from sigstore.verify import Verifier
        from sigstore.verify.policy import AllOf

        self._signer = signer
        try:
            self._verifier = Verifier(trusted_root=_root(Path(signer.trusted_root)))
        except (Error, ValueError) as error:
            raise InvalidConfig(f"trusted root {signer.trusted_root}: {_reason(error)}") from None
        self._policy = AllOf([_Issuer(signer.issuer), _subject(signer)])

    def refusal(self, bundle: bytes, digest: Digest) -> str | None:
        """Return why a bundle does not admit a document; None when it does.  Blocking."""
        from sigstore.models import Bundle

        try:
            load(bundle, "bundle", limit=SIZE_LIMIT)  # what two readers could read differently ends here
            kind, statement = self._verifier.verify_dsse(Bundle.from_json(bundle), self._policy)
        except MesocosmError as error:
            return error.message
        except Exception as error:  # its author chose what the library stumbles over
            return f"a bundle does not count: {_reason(error)}"
        if kind != attestation.PAYLOAD_TYPE:
            return f"a bundle signs {shown(kind, 60)}, not {attestation.PAYLOAD_TYPE}"
        return attestation.refusal(statement, self._signer.predicates, digest)


class _Issuer:
    """Certificates that were issued on the word of one issuer: in Fulcio's newer extension where there is
    one, else in its older (Fulcio's docs/oid-info.md).
    """

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer

    def verify(self, cert: Certificate) -> None:
        """Raise VerificationError for another issuer's."""
        from sigstore.verify.policy import OIDCIssuer, OIDCIssuerV2

        newer = any(one.oid == OIDCIssuerV2.oid for one in cert.extensions)
        (OIDCIssuerV2 if newer else OIDCIssuer)(self._issuer).verify(cert)


class _Matching:
    """Certificates for addresses and URIs of a pattern, which has to match from end to end."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._pattern = pattern_of(pattern)

    def verify(self, cert: Certificate) -> None:
        """Raise VerificationError for all others."""
        from cryptography.x509 import RFC822Name, SubjectAlternativeName, UniformResourceIdentifier
        from sigstore.errors import VerificationError

        names = cert.extensions.get_extension_for_class(SubjectAlternativeName).value
        found = [
            *names.get_values_for_type(RFC822Name),
            *names.get_values_for_type(UniformResourceIdentifier),
        ]
        if not any(self._pattern.fullmatch(name) for name in found):
            raise VerificationError(f"Certificate's SANs do not match {self._text}; actual SANs: {found}")


def _subject(signer: Signer) -> VerificationPolicy:
    from sigstore.verify.policy import Identity

    if signer.identity_pattern:
        return _Matching(signer.identity_pattern)
    return Identity(identity=signer.identity)


def _root(path: Path) -> TrustedRoot:
    from sigstore.models import TrustedRoot

    try:
        if path.stat().st_size > ROOT_LIMIT:
            raise InvalidConfig(f"trusted root {path} is larger than {ROOT_LIMIT} bytes")
        return TrustedRoot.from_file(str(path))
    except OSError as error:
        raise InvalidConfig(f"trusted root {path} cannot be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    return shown(" ".join(str(error).split()), 240) or type(error).__name__


def _require_library() -> None:
    try:
        import sigstore.verify  # noqa: F401
    except ImportError:
        raise Unsupported(
            "keyless signatures cannot be checked: sigstore is not installed",
            hint="pip install 'mesocosm[sigstore]'",
        ) from None
    logging.getLogger("sigstore").setLevel(logging.CRITICAL)  # hostile bundles are not to write on terminals
