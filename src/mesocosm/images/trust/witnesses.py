"""Who may vouch for an image: the kinds of signatures that a policy's rule asks for, behind one contract.

What counts is that a key of the rule signed the digest of a document that was passed on the way to the image,
under the image's own name.  Every refusal says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from mesocosm.images.digest import Digest
from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Store
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust import key_bundles, signatures, signed_statement
from mesocosm.images.trust.policy import APPROVAL, Rule
from mesocosm.images.trust.signatures import Signature

if TYPE_CHECKING:
    from mesocosm.images.trust.gpg import Keyring
    from mesocosm.images.trust.keyless import Keyless
    from mesocosm.images.trust.signed_part import Part

GPG_TYPE = "atomic container signature"
OLD_FORM = (
    "cosign's older signatures (the tag sha256-....sig) have no proof that a log holds them: "
    "sign with cosign 3, or with --new-bundle-format of cosign 2.6"
)

NEW_FORM = (
    "it has bundles, as cosign 3 makes them, which name no repository: take them with bundles = true in the "
    "rule, or sign with --new-bundle-format=false --use-signing-config=false"
)
_BUNDLED = Signature(b"", b"")


class Witness(Protocol):
    """One kind of signatures.  ``kind`` names it in what is kept of a proof."""

    @property
    def kind(self) -> str: ...

    async def offered(self, store: Store, reference: Reference, digest: Digest) -> tuple[Signature, ...]:
        """Return the signatures of a document that the image's source has."""

    def refusal(self, signature: Signature, reference: Reference, digest: Digest) -> str | None:
        """Return why a signature does not admit the document; None when it does.  Blocking."""


def witnesses_of(rule: Rule) -> tuple[Witness, ...]:
    """Return the witnesses a rule calls, their keys read; blocking.  Raises InvalidConfig, Unsupported."""
    found: list[Witness] = []
    if rule.keys:
        keys = signatures.load_keys(rule.keys)
        found.append(CosignKeys(keys, bundled=rule.bundles))
        if rule.bundles:
            found.append(KeyBundles(keys))
    if rule.gpg_keys:
        from mesocosm.images.trust.gpg import Keyring  # an extra: only who asks for it needs it

        keyring = Keyring.load(rule.gpg_keys)
        found += [GpgKeys(keyring, rule), GpgFiles(keyring)]
    if rule.sigstore:
        from mesocosm.images.trust.keyless import Keyless  # likewise

        found.append(KeylessSigners(tuple(Keyless(one) for one in rule.sigstore), rule))
    return tuple(found)


class CosignKeys:
    """``cosign sign --key``: in the registry, beside the image."""

    kind = "cosign"

    def __init__(self, keys: tuple[signatures.PublicKey, ...], *, bundled: bool) -> None:
        """``bundled``: the rule takes bundles as well, so they are no reason to say anything here."""
        self._keys = keys
        self._bundled = bundled

    async def offered(self, store: Store, reference: Reference, digest: Digest) -> tuple[Signature, ...]:
        """As `Witness.offered`.  Bundles that the rule does not take are told of."""
        found = await store.signatures(reference, digest)
        if found or self._bundled or not await store.bundles(reference, digest, frozenset({APPROVAL})):
            return found
        return (_BUNDLED,)

    def refusal(self, signature: Signature, reference: Reference, digest: Digest) -> str | None:
        """As `Witness.refusal`."""
        if signature == _BUNDLED:
            return NEW_FORM
        if not signatures.is_signed_by(self._keys, signature):
            return "a cosign signature is by none of the keys that policy names"
        return signed_statement.refusal(signature.statement, signatures.TYPE, reference, digest, exact=False)


class _Bundles:
    """Sigstore's bundles, which refer to the image in its registry.

    They sign a digest and no name, so whoever signs for several repositories signs for each of them.
    """

    def __init__(self, predicates: frozenset[str]) -> None:
        """``predicates`` are what a bundle may say to be about."""
        self._predicates = predicates

    async def offered(self, store: Store, reference: Reference, digest: Digest) -> tuple[Signature, ...]:
        """As `Witness.offered`.  What is no bundle says in its statement why it cannot count."""
        found = await store.bundles(reference, digest, self._predicates)
        return tuple(Signature(one.flaw.encode(), one.bundle) for one in found)

    def refusal(self, signature: Signature, reference: Reference, digest: Digest) -> str | None:
        """As `Witness.refusal`."""
        del reference
        if not signature.signature:
            return signature.statement.decode()
        return self._judge(signature.signature, digest)

    def _judge(self, bundle: bytes, digest: Digest) -> str | None:
        raise NotImplementedError


class KeyBundles(_Bundles):
    """``cosign sign --key`` as cosign 3 does it."""

    kind = "cosign-bundle"

    def __init__(self, keys: tuple[signatures.PublicKey, ...]) -> None:
        super().__init__(frozenset({APPROVAL}))
        self._keys = keys

    def _judge(self, bundle: bytes, digest: Digest) -> str | None:
        return key_bundles.refusal(bundle, self._keys, digest)


class GpgKeys:
    """Docker's "simple signing": OpenPGP messages on the rule's lookaside server."""

    kind = "gpg"

    def __init__(self, keyring: Keyring, rule: Rule) -> None:
        self._keyring = keyring
        self._rule = rule

    async def offered(self, store: Store, reference: Reference, digest: Digest) -> tuple[Signature, ...]:
        """As `Witness.offered`."""
        messages = await store.messages(reference, digest, self._rule.lookaside)
        return tuple(Signature(b"", message) for message in messages)

    def refusal(self, signature: Signature, reference: Reference, digest: Digest) -> str | None:
        """As `Witness.refusal`."""
        opened = self._keyring.open_message(signature.signature)
        if isinstance(opened, str):
            return f"an OpenPGP signature does not count: {opened}"
        exact = self._rule.identity == "exact"
        return signed_statement.refusal(opened.content, GPG_TYPE, reference, digest, exact=exact)


class SignedFile(msgspec.Struct, frozen=True):
    """What was found of one file: who signed it, or why its signature counts for nothing."""

    name: str
    signers: tuple[str, ...] = ()
    refusal: str = ""


class GpgFiles:
    """Appc's detached signatures: every file that the image is made of has to have one.

    What is kept of them is whose they were; the keys are judged anew each time.
    """

    kind = "gpg-files"

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def offered(self, store: Store, reference: Reference, digest: Digest) -> tuple[Signature, ...]:
        """As `Witness.offered`."""
        found = [await in_thread(self._check, part) for part in await store.parts(reference, digest)]
        return (Signature(msgspec.json.encode(found), b""),) if found else ()

    def refusal(self, signature: Signature, reference: Reference, digest: Digest) -> str | None:
        """As `Witness.refusal`."""
        del reference, digest
        for one in msgspec.json.decode(signature.statement, type=tuple[SignedFile, ...]):
            refusals = [self._keyring.refusal(signer) for signer in one.signers]
            if None not in refusals:
                return f"{one.name}: {one.refusal or refusals[0]}"
        return None

    def _check(self, part: Part) -> SignedFile:
        """Blocking: reads the whole file."""
        if part.signature is None:
            return SignedFile(part.name, refusal="it has no signature")
        opened = self._keyring.check_file(part.path, part.signature)
        if not isinstance(opened, str):
            return SignedFile(part.name, opened.signers)
        offers = f"; its site offers {', '.join(part.keys_at[:3])}" if part.keys_at else ""
        return SignedFile(part.name, refusal=f"its signature does not count: {opened}{offers}")


class KeylessSigners(_Bundles):
    """``cosign sign`` without a key."""

    kind = "sigstore"

    def __init__(self, signers: tuple[Keyless, ...], rule: Rule) -> None:
        super().__init__(frozenset(text for one in rule.sigstore for text in one.predicates))
        self._signers = signers

    async def offered(self, store: Store, reference: Reference, digest: Digest) -> tuple[Signature, ...]:
        """As `Witness.offered`; signatures of the older form say that they cannot count."""
        found = await super().offered(store, reference, digest)
        if not found and await store.signatures(reference, digest):
            return (Signature(OLD_FORM.encode(), b""),)
        return found

    def _judge(self, bundle: bytes, digest: Digest) -> str | None:
        refusals = [signer.refusal(bundle, digest) for signer in self._signers]
        said = [one for one in refusals if one is not None]
        return "; ".join(dict.fromkeys(said)) if len(said) == len(refusals) else None
