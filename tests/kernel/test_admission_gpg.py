"""OpenPGP signatures ("simple signing") by real gpg: which images may be fetched, which may start (G-13)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fixtures.admission import attempt
from fixtures.gnupg import Gnupg, gnupg
from malicious_registry import MaliciousRegistry
from provisions import image_of
from tarballs import file

__all__ = ["gnupg"]

IMAGE = image_of([[file(b"a", b"1")]])
OTHER = image_of([[file(b"a", b"2")]])
LONG_AGO = "20200101T000000"


def statement(digest: str, name: str, kind: str = "atomic container signature") -> bytes:
    """What ``skopeo copy --sign-by`` signs."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": {"creator": "test", "timestamp": 1}}).encode()


def skopeo_sign(keys: Gnupg, manifest: Path, name: str, user: str) -> bytes:
    """The signature that skopeo makes."""
    output = manifest.with_suffix(".signature")
    command = ["skopeo", "standalone-sign", "-o", str(output), str(manifest), name, keys.fingerprint(user)]
    done = subprocess.run(command, env={**os.environ, "GNUPGHOME": str(keys.home)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


def put(folder: Path, number: int, message: bytes, digest: str = IMAGE.digest) -> None:
    """Put a signature where containers' tools put it."""
    place = folder / "sigs" / "a" / f"b@{digest.replace(':', '=')}"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"signature-{number}").write_bytes(message)


def policy(folder: Path, key: Path, more: str = "", lookaside: str = "") -> Path:
    """A policy that asks for signatures by one key."""
    path = folder / "policy.toml"
    place = lookaside or f"file://{folder}/sigs"
    path.write_text(
        f'default = "reject"\n[[rule]]\nmatch = "127.0.0.1:*/a/*"\naction = "signed"\n'
        f'gpg-keys = ["{key}"]\nlookaside = "{place}"\n{more}\n'
    )
    return path


async def test_signed_images_are_admitted_and_start_again(gnupg: Gnupg, tmp_path: Path) -> None:
    key, stranger = gnupg.key("team"), gnupg.key("stranger")
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        put(tmp_path, 1, gnupg.sign("stranger", statement(IMAGE.digest, f"{name}:latest")))
        (tmp_path / "manifest").write_bytes(IMAGE.manifest)
        put(tmp_path, 2, skopeo_sign(gnupg, tmp_path / "manifest", f"{name}:latest", "team@example.org"))
        assert await attempt(tmp_path, name, policy(tmp_path, key)) == IMAGE.digest
    rules = policy(tmp_path, key, lookaside="file:///nowhere")
    assert await attempt(tmp_path, name, rules) == IMAGE.digest, "the second check asks nobody"
    assert await attempt(tmp_path, IMAGE.digest, rules) == IMAGE.digest
    rules = policy(tmp_path, stranger)
    assert await attempt(tmp_path, name, rules, "not known to be signed") is None, "today's keys decide"


async def test_signatures_come_from_a_server_too(gnupg: Gnupg, tmp_path: Path) -> None:
    key = gnupg.key("team")
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        message = gnupg.sign("team", statement(IMAGE.digest, f"{name}:latest"))
        place = f"/v2/x/blobs/sigs/a/b@{IMAGE.digest.replace(':', '=')}/signature-1"
        registry.blobs[place.removeprefix("/v2/x/blobs/")] = message
        rules = policy(tmp_path, key, lookaside=f"{registry.url}/v2/x/blobs/sigs")
        assert await attempt(tmp_path, name, rules) == IMAGE.digest
        assert place in registry.paths("signature-1")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", "there is no signature"),
        ("stranger", "does not count"),
        ("flipped", "does not count"),
        ("garbage", "does not count"),
        ("unsigned", "does not count"),
        ("digest", f"not {IMAGE.digest}"),
        ("repository", "made for"),
        ("tag", "made for"),
        ("type", "not atomic container signature"),
        ("expired", "expired on 2020-01-02"),
        ("critical", "is critical, and not understood"),
        ("identity", "is critical, and not understood"),
        ("bomb", "unpacks to more than"),
    ],
)
async def test_g13_anything_else_is_refused_by_name(
    fault: str, words: str, gnupg: Gnupg, tmp_path: Path
) -> None:
    key = gnupg.key("team", expires="1d", at=LONG_AGO) if fault == "expired" else gnupg.key("team")
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        good = statement(IMAGE.digest, f"{name}:latest")
        if fault == "stranger":
            gnupg.key("stranger")
            put(tmp_path, 1, gnupg.sign("stranger", good))
        elif fault == "flipped":
            message = bytearray(gnupg.sign("team", good))
            message[-5] ^= 1
            put(tmp_path, 1, bytes(message))
        elif fault == "garbage":
            put(tmp_path, 1, b"\x00\xff" * 100)
        elif fault == "unsigned":
            put(tmp_path, 1, gnupg.run("--store", data=good))
        elif fault == "digest":
            put(tmp_path, 1, gnupg.sign("team", statement(OTHER.digest, f"{name}:latest")))
        elif fault == "repository":
            put(tmp_path, 1, gnupg.sign("team", statement(IMAGE.digest, f"{registry.host}/a/other:latest")))
        elif fault == "tag":
            put(tmp_path, 1, gnupg.sign("team", statement(IMAGE.digest, f"{name}:old")))
        elif fault == "type":
            put(tmp_path, 1, gnupg.sign("team", statement(IMAGE.digest, f"{name}:latest", "other")))
        elif fault in ("critical", "identity"):
            said = json.loads(good)
            said["critical"] |= {"not-after": "2020-01-01"} if fault == "critical" else {}
            said["critical"]["identity"] |= {"only-on": "another host"} if fault == "identity" else {}
            put(tmp_path, 1, gnupg.sign("team", json.dumps(said).encode()))
        elif fault == "bomb":
            padded = good[:-1] + b" " * (1 << 20) + b"}"
            put(tmp_path, 1, gnupg.sign("team", padded))
        elif fault == "expired":
            put(tmp_path, 1, gnupg.sign("team", good, at="20200101T010000"))
        assert await attempt(tmp_path, name, policy(tmp_path, key), words) is None
        assert not list((tmp_path / "state/images/layers").iterdir())
        if fault == "tag":
            rules = policy(tmp_path, key, 'identity = "repository"')
            assert await attempt(tmp_path, name, rules) == IMAGE.digest


async def test_g13_subkeys_are_judged_as_they_are_now(gnupg: Gnupg, tmp_path: Path) -> None:
    """Whoever has an old subkey dates a new signature back: its own date says nothing."""
    key = gnupg.key("team", at=LONG_AGO)
    expired = gnupg.subkey("team", expires="1d", at=LONG_AGO)
    revoked = gnupg.subkey("team", at=LONG_AGO)
    good = gnupg.subkey("team")
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        said = statement(IMAGE.digest, f"{name}:latest")
        by_revoked = gnupg.sign_with(revoked, said, at="20200101T010000")
        put(tmp_path, 1, gnupg.sign_with(expired, said, at="20200101T010000"))
        assert await attempt(tmp_path, name, policy(tmp_path, key), "expired on 2020-01-02") is None
        put(tmp_path, 1, by_revoked)
        revoke_number = 1 + gnupg.fingerprints("team@example.org")[1:].index(revoked)
        gnupg.revoke_subkey("team", revoke_number)
        assert await attempt(tmp_path, name, policy(tmp_path, key), "was revoked") is None
        put(tmp_path, 1, gnupg.sign_with(good, said))
        assert await attempt(tmp_path, name, policy(tmp_path, key)) == IMAGE.digest
