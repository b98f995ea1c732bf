"""Docker's schema 1: refused in words, also where the registry names the digest that the specification wants
(that of the bytes without their signatures); what the words advise works.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from malicious_registry import MaliciousRegistry, headers
from mesocosm.errors import Unsupported
from mesocosm.images import mediatypes
from provisions import image_of, opened
from registry_fixtures import SmallImage, sha256, skopeo_copy
from tarballs import file

IMAGE = image_of([[file(b"base", b"b")], [file(b"top", b"t")]])


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def payload_of(image: SmallImage) -> bytes:
    """The image as docker wrote it until 2016: highest layer first, no configuration of its own."""
    ids = [f"{number:064x}" for number in range(1, len(image.layers) + 1)]
    common = {"created": "2015-01-01T00:00:00Z", "os": "linux", "architecture": "amd64"}
    history = [
        {"v1Compatibility": json.dumps({"id": one, **common, **({"parent": parent} if parent else {})})}
        for one, parent in zip(ids, ["", *ids], strict=False)
    ]
    document = {
        "schemaVersion": 1,
        "name": "a/b",
        "tag": "latest",
        "architecture": "amd64",
        "fsLayers": [{"blobSum": sha256(layer)} for layer in reversed(image.layers)],
        "history": history[::-1],
    }
    return json.dumps(document, indent=3).encode()


def signed(payload: bytes) -> bytes:
    """The payload with a JWS of pretty form in it, as registries sent it."""
    head, tail = payload[:-2], payload[-2:]
    form = {"formatLength": len(head), "formatTail": base64url(tail), "time": "2015-01-01T00:00:00Z"}
    protected = base64url(json.dumps(form).encode())
    key = ec.generate_private_key(ec.SECP256R1())
    text = f"{protected}.{base64url(payload)}".encode()
    r, s = utils.decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
    signature = {
        "header": {"jwk": public_key(key), "alg": "ES256"},
        "signature": base64url(r.to_bytes(32) + s.to_bytes(32)),
        "protected": protected,
    }
    return head + b',\n   "signatures": ' + json.dumps([signature]).encode() + tail


def public_key(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The key as docker's libtrust writes it: named by a digest of itself, in groups of four."""
    encoded = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    name = base64.b32encode(hashlib.sha256(encoded).digest()[:30]).decode()
    numbers = key.public_key().public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "kid": ":".join(name[at : at + 4] for at in range(0, len(name), 4)),
        "x": base64url(numbers.x.to_bytes(32)),
        "y": base64url(numbers.y.to_bytes(32)),
    }


def serve(registry: MaliciousRegistry, media_type: str) -> str:
    """Serve the image in schema 1 as registries do; returns its digest."""
    payload = payload_of(IMAGE)
    sent = signed(payload) if media_type == mediatypes.DOCKER_SCHEMA1_SIGNED else payload
    digest = sha256(payload)
    registry.blobs.update(IMAGE.blobs)
    registry.serve_manifest("a/b", "latest", sent, media_type)
    registry.manifests["a/b", digest] = (sent, media_type)
    registry.always("/manifests/", headers(Docker_Content_Digest=digest))
    return digest


@pytest.mark.parametrize("media_type", sorted(mediatypes.SCHEMA1))
@pytest.mark.parametrize("by_digest", [False, True], ids=["by tag", "by digest"])
async def test_G02_schema_1_is_refused_for_what_it_is_before_anything_is_fetched(
    tmp_path: Path, media_type: str, by_digest: bool
) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        digest = serve(registry, media_type)
        name = f"a/b@{digest}" if by_digest else "a/b:latest"
        with pytest.raises(Unsupported, match="docker's schema 1") as refused:
            await provisioner.pull(f"{registry.host}/{name}")
        assert refused.value.hint is not None and "skopeo copy docker://" in refused.value.hint
        assert not registry.paths("/blobs/")


@pytest.mark.parametrize("media_type", sorted(mediatypes.SCHEMA1))
async def test_G02_converted_as_the_hint_says_it_comes_in(tmp_path: Path, media_type: str) -> None:
    layout = tmp_path / "layout"
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        serve(registry, media_type)
        await asyncio.to_thread(skopeo_copy, f"docker://{registry.host}/a/b:latest", f"oci:{layout}:latest")
        pulled = await provisioner.pull(f"oci:{layout}:latest")
        wanted = json.loads(IMAGE.config)["rootfs"]["diff_ids"]
        assert [layer.diff_id for layer in pulled.layers] == wanted
