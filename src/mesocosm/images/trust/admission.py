"""Admission: the policy's word on an image, before it is fetched and again before a container starts on it.

What proved a signature is kept in ``signatures/<manifest digest's hex>.json``, so that the second check asks
nobody, and uses the keys and rules of that moment.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mesocosm import durable
from mesocosm.errors import Corrupt, Denied, MesocosmError
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Index, parse_document
from mesocosm.images.families import Families
from mesocosm.images.foreign import shown
from mesocosm.images.image import ImageRecord
from mesocosm.images.image_store import ImageStore
from mesocosm.images.naming import canonical
from mesocosm.images.outlines import made_of
from mesocosm.images.reference import Reference
from mesocosm.images.staging import replace
from mesocosm.images.stores.base import Found, Outline
from mesocosm.images.strict import DOCUMENT_LIMIT
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust import policy
from mesocosm.images.trust.policy import Policy, Rule

if TYPE_CHECKING:
    from mesocosm.images.trust.signatures import Signature
    from mesocosm.images.trust.witnesses import Witness


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Why an image was taken for signed: the statement, its signature, the document it speaks of, and by what
    kind of witness.
    """

    statement: bytes
    signature: bytes
    digest: str
    kind: str = "cosign"
    version: int = 1


class Admission:
    """Applies one policy file to one store."""

    def __init__(self, path: Path, store: ImageStore, families: Families) -> None:
        self._path = path
        self._store = store
        self._families = families

    async def before_asking(self, reference: Reference) -> None:
        """Raise Denied when the name alone is rejected: its source is not asked, and sees no credentials."""
        self._require_accepted(await in_thread(policy.load, self._path), reference)

    async def before_fetch(self, reference: Reference, found: Found | Outline) -> None:
        """Raise Denied when the image may not be fetched; keeps the proof of a signature.

        For an outline it tells what can be told: whoever has filled it in asks again.
        """
        rules: Policy = await in_thread(policy.load, self._path)
        if isinstance(found, Found):
            rules.check_layers(str(reference), tuple(map(str, found.config.diff_ids)))
            rules.check_erofs(reference, (layer.media_type for layer in found.manifest.layers))
        if isinstance(found, Outline) or found.origin is not None:
            rules.check_schema1(reference)
        rule = self._require_accepted(rules, reference)
        if rule.action != "signed":
            return
        from mesocosm.images.trust.witnesses import (
            witnesses_of,
        )  # cryptography: only where signatures are asked for

        witnesses = await in_thread(witnesses_of, rule)
        refusals = [await self._prove(witness, reference, found) for witness in witnesses]
        if None not in refusals:
            why = shown("; ".join(one for reasons in refusals for one in reasons or ()), 400)
            raise Denied(
                f"{reference.familiar} is not signed as policy asks: {why or 'there is no signature'}",
                hint=f"see {self._path}",
            )

    async def _prove(
        self, witness: Witness, reference: Reference, found: Found | Outline
    ) -> list[str] | None:
        """Keep a proof by the witness, and return None; without any, why each signature was refused."""
        store, refusals = self._families.store(reference), []
        for digest in _signable(found):
            for signature in await witness.offered(store, reference, digest):
                why = await in_thread(witness.refusal, signature, reference, digest)
                if why is None:
                    if isinstance(found, Found):
                        await in_thread(self._keep, found, digest, witness.kind, signature)
                    return None
                refusals.append(why)
        return refusals

    def before_start(self, reference: Reference | None, image: ImageRecord) -> None:
        """Raise Denied when no container may start on the image; blocking.

        An image named by its digest is judged by every name it has; one without names by the default.
        """
        rules = policy.load(self._path)
        media_types = frozenset(layer.media_type for layer in image.layers)
        if rules == Policy() and media_types.isdisjoint(mediatypes.EROFS) and image.origin is None:
            return
        rules.check_layers(f"image {image.digest}", tuple(layer.diff_id for layer in image.layers))
        for name in [reference] if reference else self._names(image):
            rules.check_erofs(name, media_types)
            if image.origin is not None:
                rules.check_schema1(name)
            rule = self._require_accepted(rules, name)
            if rule.action == "signed":
                self._require_proof(rule, name, image)

    def direct(self, reference: Reference) -> None:
        """Raise Denied when no container may start on a root without layers; blocking."""
        rules = policy.load(self._path)
        rule = self._require_accepted(rules, reference)
        if rule.action == "signed":
            raise Denied(
                f"{reference.familiar} cannot be signed, which policy asks for", hint=f"see {self._path}"
            )

    def _require_accepted(self, rules: Policy, reference: Reference) -> Rule:
        rule = rules.decide(reference)
        if rule.action == "reject":
            why = f"rule {rule.match!r}" if rule in rules.rule else "its default"
            raise Denied(f"{reference.familiar} is rejected by policy ({why})", hint=f"see {self._path}")
        return rule

    def _names(self, image: ImageRecord) -> list[Reference]:
        refs = self._store.catalogue.refs()
        return [canonical(ref.reference) for ref in refs if ref.digest == image.digest] or [
            Reference("docker-archive", path="-")
        ]

    def _require_proof(self, rule: Rule, reference: Reference, image: ImageRecord) -> None:
        from mesocosm.images.trust.signatures import Signature
        from mesocosm.images.trust.witnesses import witnesses_of

        proof = self._proof(image)
        if proof is not None:
            digest = Digest.parse(proof.digest)
            signature = Signature(proof.statement, proof.signature)
            leads_here = proof.digest == image.digest or self._leads_to(digest, image)
            for witness in witnesses_of(rule) if leads_here else ():
                if witness.kind == proof.kind and witness.refusal(signature, reference, digest) is None:
                    return
        raise Denied(
            f"{reference.familiar} is not known to be signed as policy asks",
            hint=f"mesocosm pull {reference.familiar}",
        )

    def _leads_to(self, digest: Digest, image: ImageRecord) -> bool:
        """Whether the signed document, whose bytes are kept, is an index of the image, or what it was made
        of.
        """
        try:
            data = self._store.blobs.read(digest, limit=DOCUMENT_LIMIT)
            if image.origin == str(digest):
                return str(made_of(data, image)) == image.digest
            index = parse_document(data, algorithm=digest.algorithm)
        except MesocosmError:
            return False
        listed = {str(one.digest) for one in index.manifests} if isinstance(index, Index) else set()
        if image.digest not in listed and image.origin is not None and image.origin in listed:
            return self._leads_to(Digest.parse(image.origin), image)
        return image.digest in listed

    def _file(self, digest: str) -> Path:
        return self._store.root / "signatures" / f"{Digest.parse(digest).hex}.json"

    def _proof(self, image: ImageRecord) -> Proof | None:
        try:
            return msgspec.json.decode(durable.read(self._file(image.digest)), type=Proof)
        except (FileNotFoundError, Corrupt, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _keep(self, found: Found, digest: Digest, kind: str, one: Signature) -> None:
        path = self._file(str(found.manifest.digest))
        path.parent.mkdir(mode=0o700, exist_ok=True)
        proof = Proof(statement=one.statement, signature=one.signature, digest=str(digest), kind=kind)
        replace(self._store.root / "ingest", path, msgspec.json.encode(proof))


def _signable(found: Found | Outline) -> list[Digest]:
    """The digests of the documents that a signature may speak of: all but the configuration's."""
    if isinstance(found, Outline):
        return [one.descriptor.digest for one in reversed(found.documents)]
    digests = [one.descriptor.digest for one in found.documents[:-1]]
    return digests if found.origin is None else list(dict.fromkeys([found.origin, *digests]))
