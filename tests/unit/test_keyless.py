"""Keyless signatures: what a sigstore bundle proves, and everything that looks like it and proves nothing.

``public-good.json`` was made by GitHub's attestation of a workflow with the public Fulcio and Rekor,
``rekor-v2.json`` with sigstore's staging instance (a timestamp authority, the second version of the log);
both are vectors of sigstore-conformance.  Everything else is made here, by a sigstore of the test's own.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from fixtures.sigstore import IDENTITY, ISSUER, MINUTES_10, WHEN, Sigstore, Wish, b64, der, new_key, sign
from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.images.digest import Digest
from mesocosm.images.trust.bundles import SIZE_LIMIT
from mesocosm.images.trust.keyless import ROOT_LIMIT, Keyless
from mesocosm.images.trust.policy import Signer

VECTORS = Path(__file__).parents[1] / "fixtures" / "sigstore_bundles"
DIGEST = Digest.of(b"an image")
OTHER = Digest.of(b"another image")
OURS = Sigstore()
THEIRS = Sigstore()
PROVENANCE = "https://slsa.dev/provenance/v1"


def signer_of(folder: Path, root: bytes | None = None, **changes: Any) -> Signer:
    """The signer of a policy's rule, with a trusted root written for it."""
    path = folder / "trusted_root.json"
    path.write_bytes(OURS.trusted_root() if root is None else root)
    wanted = {"identity": IDENTITY, "issuer": ISSUER, "trusted_root": str(path), **changes}
    return Signer(**wanted)


def refusal(
    folder: Path, bundle: dict[str, Any] | bytes, digest: Digest = DIGEST, **changes: Any
) -> str | None:
    """Why a bundle does not admit the document."""
    data = bundle if isinstance(bundle, bytes) else json.dumps(bundle).encode()
    return Keyless(signer_of(folder, **changes)).refusal(data, digest)


def entry_of(bundle: dict[str, Any]) -> dict[str, Any]:
    """The bundle's entry in the log."""
    (entry,) = bundle["verificationMaterial"]["tlogEntries"]
    assert isinstance(entry, dict)
    return entry


def flip(text: str) -> str:
    """Base 64 of other bytes: the last one differs."""
    data = bytearray(base64.b64decode(text))
    data[-1] ^= 1
    return b64(bytes(data))


@pytest.mark.parametrize(
    "wish",
    [
        Wish(),
        Wish(issuer_extensions=(1,)),
        Wish(issuer_extensions=(8,)),
        Wish(statement_type="https://in-toto.io/Statement/v0.1"),
        Wish(logged_after=MINUTES_10),
    ],
)
def test_what_the_signer_signed_is_admitted(wish: Wish, tmp_path: Path) -> None:
    bundle = OURS.bundle(str(DIGEST), wish)
    assert refusal(tmp_path, bundle) is None
    assert f"not {OTHER}" in (refusal(tmp_path, bundle, OTHER) or "")


def test_older_bundles_with_the_root_in_them_are_taken_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = OURS.bundle(str(DIGEST))
    chain = [bundle["verificationMaterial"].pop("certificate"), {"rawBytes": b64(der(OURS.root))}]
    bundle["verificationMaterial"]["x509CertificateChain"] = {"certificates": chain}
    bundle["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2"
    assert refusal(tmp_path, bundle) is None
    assert not caplog.records, "the library warns of it, and would do so on the terminal"


def test_documents_named_by_sha512_are_signed_by_it(tmp_path: Path) -> None:
    digest = Digest.of(b"an image", "sha512")
    assert refusal(tmp_path, OURS.bundle(str(digest), Wish(algorithm="sha512")), digest) is None
    assert "it signs sha256:" in (refusal(tmp_path, OURS.bundle(str(digest)), digest) or "admitted")


@pytest.mark.parametrize("name", ["public-good", "rekor-v2"])
def test_bundles_of_the_real_sigstore_are_admitted(name: str, tmp_path: Path) -> None:
    data = (VECTORS / f"{name}.json").read_bytes()
    digest = Digest.parse("sha256:a0cfc71271d6e278e57cd332ff957c3f7043fdda354c4cbb190a30d56efa01bf")
    beacon = (
        "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows"
    )
    wanted = {
        "root": (VECTORS / f"{name}-root.json").read_bytes(),
        "identity": f"{beacon}/extremely-dangerous-oidc-beacon.yml@refs/heads/main",
        "issuer": "https://token.actions.githubusercontent.com",
        "predicates": (PROVENANCE,),
    }
    assert refusal(tmp_path, data, digest, **wanted) is None
    assert f"not {DIGEST}" in (refusal(tmp_path, data, DIGEST, **wanted) or "")
    assert "SANs do not match" in (refusal(tmp_path, data, digest, **{**wanted, "identity": IDENTITY}) or "")
    assert "OIDCIssuer" in (refusal(tmp_path, data, digest, **{**wanted, "issuer": ISSUER}) or "")
    assert "timestamp" in (refusal(tmp_path, data, digest, **{**wanted, "root": OURS.trusted_root()}) or "")
    unasked = refusal(tmp_path, data, digest, **{**wanted, "predicates": Signer("", "").predicates})
    assert f"it states {PROVENANCE}" in (unasked or "")


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(identity=IDENTITY.replace("v1", "v2")), "SANs do not match"),
        (Wish(identity=f"{IDENTITY}0"), "SANs do not match"),
        (Wish(issuer="https://token.actions.example.evil"), "OIDCIssuerV2 does not match"),
        (Wish(issuer_extensions=()), "does not contain OIDCIssuer"),
        (Wish(logged_after=datetime.timedelta(hours=1)), "timestamp certificate chain"),
        (Wish(logged_after=-datetime.timedelta(seconds=1)), "timestamp certificate chain"),
        (Wish(log=new_key()), "invalid signature"),
        (Wish(log=new_key(), log_named=OURS.log), "invalid signature"),
        (Wish(certificate_log=new_key()), "failed to verify SCT"),
        (Wish(certificate_logged=False), "does not contain a signed certificate timestamp"),
        (Wish(usage=ExtendedKeyUsageOID.SERVER_AUTH), "code signing"),
        (Wish(predicate="https://cosign.sigstore.dev/attestation/vuln/v1"), "it states https://cosign"),
        (Wish(payload_type="text/plain"), "signs text/plain"),
        (Wish(statement_type="https://example.org/v1"), "has the type https://example.org"),
        (Wish(algorithm="sha512"), "it signs sha512:"),
        (Wish(algorithm="gitCommit"), "it signs gitCommit:"),
    ],
)
def test_g13_signatures_that_are_not_the_ones_asked_for(wish: Wish, words: str, tmp_path: Path) -> None:
    assert words in (refusal(tmp_path, OURS.bundle(str(DIGEST), wish)) or "admitted")


def replaced_payload(bundle: dict[str, Any]) -> None:
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = b64(payload.replace(OTHER.hex.encode(), DIGEST.hex.encode()))


def resigned_payload(bundle: dict[str, Any]) -> None:
    replaced_payload(bundle)
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    kind = bundle["dsseEnvelope"]["payloadType"]
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = b64(sign(new_key(), signed))


def no_proof(bundle: dict[str, Any]) -> None:
    del entry_of(bundle)["inclusionProof"]


def no_checkpoint(bundle: dict[str, Any]) -> None:
    del entry_of(bundle)["inclusionProof"]["checkpoint"]


def no_promise(bundle: dict[str, Any]) -> None:
    del entry_of(bundle)["inclusionPromise"]


def no_entry(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = []


def no_certificate(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["publicKey"] = {"hint": "x"}
    del bundle["verificationMaterial"]["certificate"]


def message_signature(bundle: dict[str, Any]) -> None:
    del bundle["dsseEnvelope"]
    bundle["messageSignature"] = {"signature": b64(b"x")}


def other_path(bundle: dict[str, Any]) -> None:
    hashes = entry_of(bundle)["inclusionProof"]["hashes"]
    hashes[0] = flip(hashes[0])


def other_root_hash(bundle: dict[str, Any]) -> None:
    """A tree of the forger's own, in which the entry is, under the log's true checkpoint."""
    body = base64.b64decode(entry_of(bundle)["canonicalizedBody"])
    entry_of(bundle)["inclusionProof"] |= {
        "logIndex": "0",
        "treeSize": "1",
        "hashes": [],
        "rootHash": b64(hashlib.sha256(b"\0" + body).digest()),
    }


def other_promise(bundle: dict[str, Any]) -> None:
    promise = entry_of(bundle)["inclusionPromise"]
    promise["signedEntryTimestamp"] = flip(promise["signedEntryTimestamp"])


def other_time(bundle: dict[str, Any]) -> None:
    entry_of(bundle)["integratedTime"] = str(int(WHEN.timestamp()) + 60)


def absurd_time(bundle: dict[str, Any]) -> None:
    entry_of(bundle)["integratedTime"] = str((1 << 64) - 1)


def another_entry(bundle: dict[str, Any]) -> None:
    """The proof of another signature (as in CVE-2022-36056)."""
    bundle["verificationMaterial"]["tlogEntries"] = [entry_of(OURS.bundle(str(OTHER)))]


def another_certificate(bundle: dict[str, Any]) -> None:
    other = OURS.bundle(str(OTHER))["verificationMaterial"]["certificate"]
    bundle["verificationMaterial"]["certificate"] = other


def broken_certificate(bundle: dict[str, Any]) -> None:
    bundle["verificationMaterial"]["certificate"] = {"rawBytes": b64(b"0\x03\x02\x01\x01")}


def two_signatures(bundle: dict[str, Any]) -> None:
    bundle["dsseEnvelope"]["signatures"] *= 2


FAULTS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (resigned_payload, "invalid signature"),
    (no_proof, "inclusionProof Field required"),
    (no_checkpoint, "inclusion proof, with checkpoint"),
    (no_promise, "inclusion promise or signed timestamp"),
    (no_entry, "exactly one log entry"),
    (no_certificate, "expected certificate"),
    (message_signature, "without a DSSE envelope"),
    (other_path, "invalid root hash"),
    (other_root_hash, "invalid root hash signature"),
    (other_promise, "inclusion promise"),
    (other_time, "inclusion promise"),
    (absurd_time, "does not count"),
    (another_entry, "does not match bundle"),
    (another_certificate, "invalid signature"),
    (broken_certificate, "does not count"),
    (two_signatures, "exactly one signature"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_g13_forged_bundles_prove_nothing(
    fault: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    bundle = OURS.bundle(str(DIGEST))
    assert refusal(tmp_path, bundle) is None
    fault(bundle)
    said = refusal(tmp_path, bundle) or "admitted"
    assert words in said and "\n" not in said and len(said) < 400


def test_g13_a_payload_changed_after_it_was_signed_proves_nothing(tmp_path: Path) -> None:
    bundle = OURS.bundle(str(OTHER))
    replaced_payload(bundle)
    assert "DSSE: invalid signature" in (refusal(tmp_path, bundle) or "admitted")


def test_g13_another_authority_vouches_for_nobody(tmp_path: Path) -> None:
    bundle = THEIRS.bundle(str(DIGEST))
    assert "timestamp certificate chain" in (refusal(tmp_path, bundle) or "admitted")
    assert refusal(tmp_path, bundle, root=THEIRS.trusted_root()) is None


@pytest.mark.parametrize("name", ["certificateAuthorities", "ctlogs", "tlogs"])
def test_g13_every_part_of_the_trusted_root_is_asked(name: str, tmp_path: Path) -> None:
    root = json.loads(OURS.trusted_root())
    root[name] = json.loads(THEIRS.trusted_root())[name]
    said = refusal(tmp_path, OURS.bundle(str(DIGEST)), root=json.dumps(root).encode())
    assert "does not count" in (said or "admitted")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\x00\xff",
        b"{" * 100_000,
        b" " * (SIZE_LIMIT + 1),
        json.dumps({**OURS.bundle(str(DIGEST)), "more": 1}).encode(),
        json.dumps(OURS.bundle(str(DIGEST))).encode().replace(b"{", b'{"mediaType": "x", ', 1),
    ],
)
def test_g02_what_is_no_bundle_is_refused_in_words(data: bytes, tmp_path: Path) -> None:
    said = refusal(tmp_path, data)
    assert said and "bundle" in said and "\n" not in said


@pytest.mark.parametrize(
    ("pattern", "identity", "matches"),
    [
        ("https://github.com/team/app/.github/workflows/*@refs/tags/*", IDENTITY, True),
        ("https://github.com/team/**", IDENTITY, True),
        ("https://github.com/team/*", IDENTITY, False),
        ("https://github.com/team/app/**@refs/heads/*", IDENTITY, False),
        ("github.com/team/**", IDENTITY, False),
        ("https://github.com/team/app/.github/workflows/release.yml@refs/tags/v", IDENTITY, False),
        ("https://github.com/team/**", f"https://evil.example/?{IDENTITY}", False),
        ("https://github.com/team.app/**", IDENTITY, False),
        ("*@example.org", "me@example.org", True),
        ("*@example.org", "me@example.org.evil.example", False),
    ],
)
def test_patterns_match_from_end_to_end(pattern: str, identity: str, matches: bool, tmp_path: Path) -> None:
    bundle = OURS.bundle(str(DIGEST), Wish(identity=identity))
    said = refusal(tmp_path, bundle, identity="", identity_pattern=pattern)
    assert (said is None) is matches
    assert matches or "SANs do not match" in (said or "")
    assert "OIDCIssuer" in (
        refusal(tmp_path, bundle, identity="", identity_pattern=pattern, issuer="x") or ""
    )


def test_a_statement_may_have_many_subjects_and_none_is_no_statement(tmp_path: Path) -> None:
    from mesocosm.images.trust import attestation

    kind = {"_type": attestation.TYPES[0], "predicateType": PROVENANCE}
    subjects = [{"name": "x", "digest": {"sha1": "00"}}, {"digest": {"sha256": DIGEST.hex}}]

    def asked(value: object) -> str | None:
        return attestation.refusal(json.dumps(value).encode(), [PROVENANCE], DIGEST)

    assert asked({**kind, "subject": subjects}) is None
    assert "signs nothing" in (asked({**kind, "subject": []}) or "")
    assert "signs nothing" in (asked(kind) or "")
    assert "not an object" in (asked({**kind, "subject": [{"digest": DIGEST.hex}]}) or "")
    assert "ambiguous" in (asked({**kind, "Subject": subjects}) or "")
    assert "not a JSON object" in (asked(subjects) or "")


@pytest.mark.parametrize(
    "root",
    [
        b"",
        b"{}",
        OURS.trusted_root().replace(b"version=0.1", b"version=9"),
        json.dumps({**json.loads(OURS.trusted_root()), "tlogs": []}).encode(),
        json.dumps({**json.loads(OURS.trusted_root()), "certificateAuthorities": []}).encode(),
    ],
)
def test_a_bad_trusted_root_admits_nothing(root: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"trusted_root\.json"):
        Keyless(signer_of(tmp_path, root))


def test_a_trusted_root_has_a_limit(tmp_path: Path) -> None:
    padded = OURS.trusted_root().ljust(ROOT_LIMIT)
    Keyless(signer_of(tmp_path, padded))
    with pytest.raises(InvalidConfig, match="is larger than"):
        Keyless(signer_of(tmp_path, padded + b" "))


def test_an_absent_trusted_root_admits_nothing(tmp_path: Path) -> None:
    signer = signer_of(tmp_path)
    Path(signer.trusted_root).unlink()
    with pytest.raises(InvalidConfig, match="No such file"):
        Keyless(signer)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sigstore.verify", None)
    with pytest.raises(Unsupported, match="sigstore is not installed") as caught:
        Keyless(signer_of(tmp_path))
    assert caught.value.hint == "pip install 'mesocosm[sigstore]'"
