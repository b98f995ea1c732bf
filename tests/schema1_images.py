"""Images in docker's schema 1, written by hand as docker and its registries did until 2016."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from malicious_registry import MaliciousRegistry, headers
from mesocosm.images import mediatypes
from registry_fixtures import SmallImage, sha256

EMPTY_LAYER = gzip.compress(bytes(1024), mtime=0)
"""What stands for the layer of a step that made none."""


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def document_of(
    image: SmallImage, name: str = "a/b", tag: str = "latest", *, idle: int = 0, architecture: str = "amd64"
) -> dict[str, Any]:
    """The manifest of an image as a value: highest layer first, no configuration of its own.

    ``idle`` steps without a layer lie on top; the topmost step says how the image is run.
    """
    blobs = [*(sha256(layer) for layer in image.layers), *[sha256(EMPTY_LAYER)] * idle]
    steps: list[dict[str, Any]] = []
    for number, _ in enumerate(blobs):
        step: dict[str, Any] = {
            "id": f"{number + 1:064x}",
            "created": "2015-01-01T00:00:00Z",
            "os": "linux",
            "architecture": architecture,
            "container_config": {"Cmd": ["step", str(number)]},
        }
        if steps:
            step["parent"] = steps[-1]["id"]
        if number >= len(image.layers):
            step["throwaway"] = True
        steps.append(step)
    steps[-1]["config"] = json.loads(image.config).get("config")
    return {
        "schemaVersion": 1,
        "name": name,
        "tag": tag,
        "architecture": architecture,
        "fsLayers": [{"blobSum": blob} for blob in reversed(blobs)],
        "history": [{"v1Compatibility": json.dumps(step)} for step in reversed(steps)],
    }


def payload_of(document: dict[str, Any]) -> bytes:
    """The bytes whose digest names a manifest, indented as docker did."""
    return json.dumps(document, indent=3).encode()


def changed_step(document: dict[str, Any], number: int, **members: Any) -> dict[str, Any]:
    """The manifest with members of a step, highest first, replaced; None removes."""
    history = list(document["history"])
    step = json.loads(history[number]["v1Compatibility"]) | members
    kept = {key: value for key, value in step.items() if value is not None}
    history[number] = {"v1Compatibility": json.dumps(kept)}
    return {**document, "history": history}


def signature(payload: bytes, cut: int, tail: bytes, **replaced: Any) -> dict[str, Any]:
    """A JWS over a payload of which ``cut`` bytes are served, and then ``tail``."""
    form = {"formatLength": cut, "formatTail": base64url(tail), "time": "2015-01-01T00:00:00Z"}
    protected = base64url(json.dumps(form).encode())
    key = ec.generate_private_key(ec.SECP256R1())
    text = f"{protected}.{base64url(payload)}".encode()
    r, s = utils.decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
    made = {
        "header": {"jwk": public_key(key), "alg": "ES256"},
        "signature": base64url(r.to_bytes(32) + s.to_bytes(32)),
        "protected": protected,
    }
    return made | replaced


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


def with_signatures(payload: bytes, signatures: Sequence[dict[str, Any]]) -> bytes:
    """The payload with these signatures in it, as registries sent it."""
    head, tail = payload[:-2], payload[-2:]
    return head + b',\n   "signatures": ' + json.dumps(list(signatures)).encode() + tail


def signed(payload: bytes, *, count: int = 1) -> bytes:
    """The payload with ``count`` good signatures in it."""
    cut = len(payload) - 2
    return with_signatures(payload, [signature(payload, cut, payload[cut:]) for _ in range(count)])


def serve(
    registry: MaliciousRegistry,
    image: SmallImage,
    document: dict[str, Any] | None = None,
    media_type: str = mediatypes.DOCKER_SCHEMA1_SIGNED,
    *,
    sent: bytes | None = None,
) -> str:
    """Serve an image in schema 1 as registries do, as a/b:latest and by digest; returns the digest.

    ``sent`` are the bytes to send, those that belong to the type where none are given.
    """
    payload = payload_of(document or document_of(image))
    if sent is None:
        sent = signed(payload) if media_type == mediatypes.DOCKER_SCHEMA1_SIGNED else payload
    digest = sha256(payload)
    registry.blobs.update(image.blobs)
    registry.serve_manifest("a/b", "latest", sent, media_type)
    registry.manifests["a/b", digest] = (sent, media_type)
    registry.always(f"/a/b/manifests/{digest}", headers(Docker_Content_Digest=digest))
    registry.always("/a/b/manifests/latest", headers(Docker_Content_Digest=digest))
    return digest


def serve_list(
    registry: MaliciousRegistry, *entries: tuple[str, str, str, int], kind: str = mediatypes.DOCKER_LIST
) -> str:
    """Serve an index at a/b:list of entries of type, digest, architecture and size; returns its digest."""
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "manifests": [
            {
                "mediaType": media_type,
                "digest": digest,
                "size": size,
                "platform": {"os": "linux", "architecture": architecture},
            }
            for media_type, digest, architecture, size in entries
        ],
    }
    data = json.dumps(document).encode()
    registry.serve_manifest("a/b", "list", data, kind)
    return sha256(data)
