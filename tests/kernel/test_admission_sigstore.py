"""Keyless signatures beside an image: where they are found, which images may be fetched, which may start."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fixtures.admission import KEY, attempt, signature_of, tag_of
from fixtures.images import Layout
from fixtures.registry import Registry
from fixtures.sigstore import (
    BUNDLE,
    IDENTITY,
    ISSUER,
    Sigstore,
    Wish,
    artifact_of,
    key_bundle,
    listing_of,
    new_key,
)
from malicious_registry import MaliciousRegistry, status
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.push import UploadSource
from mesocosm.images.trust.bundles import COUNT_LIMIT, SIZE_LIMIT
from provisions import image_of
from registry_fixtures import SmallImage, sha256, write_layout
from tarballs import file

IMAGE = image_of([[file(b"a", b"1")]])
OTHER = image_of([[file(b"a", b"2")]])
OURS = Sigstore()
THEIRS = Sigstore()


def signed(image: SmallImage, wish: Wish | None = None) -> SmallImage:
    """The artifact of a good signature."""
    return artifact_of(json.dumps(OURS.bundle(image.digest, wish)).encode(), image)


def serve(registry: MaliciousRegistry, artifacts: Sequence[SmallImage], *, image: SmallImage = IMAGE) -> None:
    """Serve artifacts with the index under the tag that lists what refers to an image."""
    for one in artifacts:
        registry.add(one, "a/b", one.digest)
    tag = image.digest.replace(":", "-")
    registry.serve_manifest("a/b", tag, listing_of(artifacts), mediatypes.OCI_INDEX)


def slices_of(data: bytes) -> UploadSource:
    """Bytes, as they are pushed."""

    async def source(offset: int, count: int) -> AsyncIterator[bytes]:
        yield data[offset : offset + count]

    return source


def policy(folder: Path, more: str = "", root: Sigstore = OURS, **changes: str) -> Path:
    """A policy that asks for one signer."""
    (folder / "root.json").write_bytes(root.trusted_root())
    wanted = {"identity": IDENTITY, "issuer": ISSUER, "trusted-root": str(folder / "root.json"), **changes}
    signer = ", ".join(f'{name} = "{value}"' for name, value in wanted.items())
    path = folder / "policy.toml"
    path.write_text(
        f'default = "reject"\n[[rule]]\nmatch = "127.0.0.1:*/a/*"\naction = "signed"\n'
        f"sigstore = [{{ {signer} }}]\n{more}\n"
    )
    return path


async def test_signed_images_are_admitted_and_start_again_without_a_network(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        serve(registry, [signed(IMAGE, Wish(identity="https://example.org/other")), signed(IMAGE)])
        assert await attempt(tmp_path, name, policy(tmp_path)) == IMAGE.digest
    assert await attempt(tmp_path, name, policy(tmp_path)) == IMAGE.digest, "the second check asks nobody"
    assert await attempt(tmp_path, IMAGE.digest, policy(tmp_path)) == IMAGE.digest
    words = "not known to be signed"
    assert await attempt(tmp_path, name, policy(tmp_path, identity="me@example.org"), words) is None
    assert await attempt(tmp_path, name, policy(tmp_path, issuer="https://example.org"), words) is None
    assert await attempt(tmp_path, name, policy(tmp_path, root=THEIRS), words) is None, "today's root decides"
    assert await attempt(tmp_path, name, policy(tmp_path)) == IMAGE.digest


def keyed(folder: Path, more: str = "") -> Path:
    """A policy that asks for one key."""
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public)
    rules = folder / "keyed.toml"
    rules.write_text(f'[[rule]]\nmatch = "**"\naction = "signed"\nkeys = ["{folder}/key.pub"]\n{more}\n')
    return rules


async def test_bundles_by_keys_have_to_be_asked_for(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        assert await attempt(tmp_path, name, keyed(tmp_path), "there is no signature") is None
        serve(registry, [artifact_of(json.dumps(key_bundle(IMAGE.digest, KEY)).encode(), IMAGE)])
        assert await attempt(tmp_path, name, keyed(tmp_path), "take them with bundles = true") is None
        registry.add(signature_of(IMAGE.digest, name), "a/b", tag_of(IMAGE.digest))
        assert await attempt(tmp_path, name, keyed(tmp_path)) == IMAGE.digest


async def test_a_bundle_by_a_key_admits_and_starts_again_without_a_network(tmp_path: Path) -> None:
    rules = keyed(tmp_path, "bundles = true")
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        assert await attempt(tmp_path, name, rules, "there is no signature") is None
        serve(registry, [artifact_of(json.dumps(key_bundle(IMAGE.digest, KEY)).encode(), IMAGE)])
        assert await attempt(tmp_path, name, rules) == IMAGE.digest
    assert await attempt(tmp_path, name, rules) == IMAGE.digest, "the second check asks nobody"
    assert await attempt(tmp_path, name, keyed(tmp_path), "not known to be signed") is None
    assert await attempt(tmp_path, name, keyed(tmp_path, "bundles = true")) == IMAGE.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: key_bundle(IMAGE.digest, new_key()), "by none of the keys"),
        (lambda: key_bundle(OTHER.digest, KEY), "it signs sha256:"),
        (lambda: key_bundle(IMAGE.digest, KEY, Wish(predicate="https://example.org/scan")), "it states"),
        (lambda: key_bundle(IMAGE.digest, KEY, Wish(payload_type="text/plain")), "signs text/plain"),
        (lambda: key_bundle(IMAGE.digest, KEY, Wish(statement_type="x")), "has the type x"),
        (lambda: OURS.bundle(IMAGE.digest), "by who holds a certificate"),
        (lambda: relabelled(Wish(payload_type="text/plain")), "by none of the keys"),
        (lambda: doubled(key_bundle(IMAGE.digest, KEY)), "2 signatures"),
        (lambda: doubled({**key_bundle(IMAGE.digest, KEY), "dsseEnvelope": None}), "not a statement"),
        (lambda: mangled(key_bundle(IMAGE.digest, KEY)), "is not base 64"),
    ],
)
async def test_g13_bundles_by_keys_that_are_not_the_ones_asked_for(
    change: Callable[[], dict[str, Any]], words: str, tmp_path: Path
) -> None:
    """One of them beside a good one is no harm; alone it admits nothing, and its refusal says why."""
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name, rules = f"{registry.host}/a/b", keyed(tmp_path, "bundles = true")
        bad = artifact_of(json.dumps(change()).encode(), IMAGE)
        serve(registry, [bad])
        assert await attempt(tmp_path, name, rules, words) is None
        good = artifact_of(json.dumps(key_bundle(IMAGE.digest, KEY)).encode(), IMAGE)
        serve(registry, [bad, good])
        assert await attempt(tmp_path, name, rules) == IMAGE.digest


def relabelled(wish: Wish) -> dict[str, Any]:
    """A bundle that says to sign a statement, where something of another type was signed."""
    bundle = key_bundle(IMAGE.digest, KEY, wish)
    bundle["dsseEnvelope"]["payloadType"] = Wish().payload_type
    return bundle


def doubled(bundle: dict[str, Any]) -> dict[str, Any]:
    """A bundle with its signature twice."""
    if bundle["dsseEnvelope"]:
        bundle["dsseEnvelope"]["signatures"] *= 2
    return bundle


def mangled(bundle: dict[str, Any]) -> dict[str, Any]:
    """A bundle whose signature is no base 64."""
    bundle["dsseEnvelope"]["signatures"] = [{"sig": "not base 64"}]
    return bundle


async def test_g13_a_proof_changed_in_the_store_admits_nothing(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        serve(registry, [signed(IMAGE)])
        assert await attempt(tmp_path, name, policy(tmp_path)) == IMAGE.digest
    (kept,) = (tmp_path / "state/images/signatures").iterdir()
    proof: dict[str, Any] = json.loads(kept.read_text())
    for change in ({"signature": ""}, {"digest": OTHER.digest}, {"kind": "cosign"}, {"statement": "eA=="}):
        kept.write_text(json.dumps({**proof, **change}))
        admitted = await attempt(tmp_path, name, policy(tmp_path), "not known to be signed")
        assert admitted == (IMAGE.digest if "statement" in change else None), change


async def test_bundles_are_found_by_the_list_of_referrers(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        artifact = signed(IMAGE)
        registry.add(artifact, "a/b", artifact.digest)
        listing = status(200, {"Content-Type": mediatypes.OCI_INDEX}, listing_of([artifact]))
        registry.always(f"/referrers/{IMAGE.digest}", listing)
        assert await attempt(tmp_path, f"{registry.host}/a/b", policy(tmp_path)) == IMAGE.digest
        (asked,) = registry.paths("/referrers/")
        assert f"artifactType={BUNDLE}" in asked.replace("%2F", "/").replace("%2B", "+")


async def test_bundles_are_found_in_a_real_registry_by_its_tag_scheme(
    registry: Registry, tmp_path: Path
) -> None:
    name = registry.push(Layout(write_layout(IMAGE, tmp_path / "layout"), "latest"), "a/keyless:latest")
    assert await attempt(tmp_path, name, policy(tmp_path), "there is no signature") is None
    artifact = signed(IMAGE)
    async with await RegistryClient.open(registry.host, hosts=HostsConfig(certs_dirs=())) as client:
        for data in artifact.blobs.values():
            blob = Descriptor("application/octet-stream", Digest.of(data), len(data))
            await client.push_blob("a/keyless", blob, slices_of(data))
        await client.push_manifest("a/keyless", artifact.digest, artifact.manifest, artifact.media_type)
    assert await attempt(tmp_path, name, policy(tmp_path)) == IMAGE.digest


async def test_a_signed_index_admits_the_image_it_leads_to(tmp_path: Path) -> None:
    entry = {
        "mediaType": IMAGE.media_type,
        "digest": IMAGE.digest,
        "size": len(IMAGE.manifest),
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    index = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [entry]}
    top = SmallImage(json.dumps(index).encode(), b"{}", (), mediatypes.OCI_INDEX)
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", IMAGE.digest)
        registry.add(top, "a/b", "latest")
        name = f"{registry.host}/a/b"
        assert await attempt(tmp_path, name, policy(tmp_path), "there is no signature") is None
        serve(registry, [signed(top)], image=top)
        assert await attempt(tmp_path, name, policy(tmp_path)) == IMAGE.digest
    assert await attempt(tmp_path, name, policy(tmp_path)) == IMAGE.digest


def junk(size: int) -> SmallImage:
    """An artifact whose bundle is so many bytes of nothing."""
    return artifact_of(b" " * size, IMAGE)


def edited(times: int, **changes: object) -> SmallImage:
    """A good artifact whose layer is listed so often, and otherwise."""
    good = signed(IMAGE)
    manifest = json.loads(good.manifest)
    manifest["layers"] = [manifest["layers"][0] | changes] * times
    return SmallImage(json.dumps(manifest).encode(), good.config, good.layers, good.media_type)


@pytest.mark.parametrize(
    ("artifact", "words"),
    [
        (None, "there is no signature"),
        (artifact_of(json.dumps(OURS.bundle(OTHER.digest)).encode(), IMAGE), f"not {IMAGE.digest}"),
        (artifact_of(json.dumps(THEIRS.bundle(IMAGE.digest)).encode(), IMAGE), "does not count"),
        (signed(IMAGE, Wish(identity="me@example.org")), "SANs do not match"),
        (signed(IMAGE, Wish(issuer="https://example.org")), "OIDCIssuer"),
        (
            signed(IMAGE, Wish(predicate="https://example.org/scanned")),
            "it states https://example.org/scanned",
        ),
        (edited(2), "is not one layer of the type"),
        (edited(0), "is not one layer of the type"),
        (edited(1, mediaType="application/json"), "is not one layer of the type"),
        (junk(100), "is not JSON"),
        (junk(0), "has 0 bytes"),
        (junk(SIZE_LIMIT + 1), f"has {SIZE_LIMIT + 1} bytes, not 1 to {SIZE_LIMIT}"),
    ],
)
async def test_g13_anything_else_beside_the_image_is_refused_by_name(
    artifact: SmallImage | None, words: str, tmp_path: Path
) -> None:
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        if artifact is not None:
            serve(registry, [artifact])
        assert await attempt(tmp_path, f"{registry.host}/a/b", policy(tmp_path), words) is None
        assert not list((tmp_path / "state/images/layers").iterdir())
        large = [
            one for one in registry.paths("/blobs/") if artifact and one.endswith(sha256(junk(0).config))
        ]
        assert not large


async def test_g06_no_more_bundles_are_fetched_than_allowed(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        serve(registry, [*(junk(10 + number) for number in range(COUNT_LIMIT + 8)), signed(IMAGE)])
        name = f"{registry.host}/a/b"
        words = f"only {COUNT_LIMIT} of its {COUNT_LIMIT + 9} bundles were looked at"
        assert await attempt(tmp_path, name, policy(tmp_path), words) is None
        fetched = [one for one in registry.paths("/a/b/manifests/sha256:") if IMAGE.digest not in one]
        assert len(fetched) == COUNT_LIMIT
        assert len(registry.paths("/blobs/")) == COUNT_LIMIT + 1, "and the image's configuration"


async def test_statements_about_something_else_do_not_hide_a_signature(tmp_path: Path) -> None:
    about = "https://slsa.dev/provenance/v1"
    others = [artifact_of(b" " * (10 + number), IMAGE, about) for number in range(COUNT_LIMIT + 8)]
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        serve(registry, [*others, signed(IMAGE)])
        assert await attempt(tmp_path, f"{registry.host}/a/b", policy(tmp_path)) == IMAGE.digest
        fetched = [one for one in registry.paths("/a/b/manifests/sha256:") if IMAGE.digest not in one]
        assert len(fetched) == 1


async def test_a_listed_artifact_that_is_gone_or_lies_hides_nothing(tmp_path: Path) -> None:
    gone, lying, plain = junk(20), junk(30), junk(40)
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        serve(registry, [gone, lying, plain, signed(IMAGE)])
        del registry.manifests["a/b", gone.digest]
        registry.manifests["a/b", lying.digest] = (b"{}", lying.media_type)
        del registry.blobs[sha256(plain.layers[0])]
        assert await attempt(tmp_path, f"{registry.host}/a/b", policy(tmp_path)) == IMAGE.digest


async def test_signatures_in_cosigns_older_form_are_refused_with_the_way_out(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        registry.add(signature_of(IMAGE.digest, name), "a/b", tag_of(IMAGE.digest))
        words = "no proof that a log holds them: sign with cosign 3"
        assert await attempt(tmp_path, name, policy(tmp_path), words) is None


async def test_either_of_a_rules_signers_is_enough(tmp_path: Path) -> None:
    second = '[[rule.sigstore]]\nidentity-pattern = "*@example.org"\nissuer = "https://i"\n'
    second += f'trusted-root = "{tmp_path}/root.json"\n'
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        serve(registry, [signed(IMAGE, Wish(identity="me@example.org", issuer="https://i"))])
        rules = policy(tmp_path)
        rules.write_text(rules.read_text().replace("sigstore = [", "\n[[rule.sigstore]]\n# "))
        lines = f'identity = "{IDENTITY}"\nissuer = "{ISSUER}"\ntrusted-root = "{tmp_path}/root.json"\n'
        rules.write_text(rules.read_text() + lines + second)
        assert await attempt(tmp_path, f"{registry.host}/a/b", rules) == IMAGE.digest
