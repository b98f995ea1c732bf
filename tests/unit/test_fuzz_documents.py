"""Any bytes are a document of their kind, or an error of ours: what registries, archives, pages and signers
write, and what an administrator mistypes (attacks G-02, G-09, G-13, I-17, I-19, I-20).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fuzzing import amount, cases, judged
from mesocosm.errors import InvalidConfig
from mesocosm.images import mediatypes
from mesocosm.images.appc.discovery import filled, parse_page
from mesocosm.images.appc.manifest import parse_manifest
from mesocosm.images.archive import Archive
from mesocosm.images.config import parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.documents import parse_document
from mesocosm.images.reference import parse_docker_name, parse_reference
from mesocosm.images.registry.challenge import parse_challenges
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.hosts_toml import read_hosts
from mesocosm.images.schema1 import parse_schema1, payload_of, served_as
from mesocosm.images.stores.docker_archive import entries
from mesocosm.images.trust import attestation, policy, signed_statement
from registry_fixtures import small_image
from schema1_images import document_of, signed
from schema1_images import payload_of as payload_for
from tarballs import archive, file

IMAGE = small_image(runtime={"Env": ["A=b"], "Cmd": ["/x"], "User": "1:2", "Volumes": {"/v": {}}})
DIGEST = Digest.parse("sha256:" + "ab" * 32)
NAME = parse_reference("example.org/a/b:1")
PAYLOAD = payload_for(document_of(IMAGE, idle=1))
STATEMENT = {
    "critical": {
        "identity": {"docker-reference": "example.org/a/b:1"},
        "image": {"docker-manifest-digest": str(DIGEST)},
        "type": "cosign container image signature",
    },
    "optional": None,
}
INDEX = {
    "schemaVersion": 2,
    "manifests": [
        {
            "mediaType": mediatypes.OCI_MANIFEST,
            "digest": str(DIGEST),
            "size": 7,
            "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
            "annotations": {"a": "b"},
            "data": "",
        }
    ],
}
ACI = {
    "acKind": "ImageManifest",
    "name": "example.org/app",
    "labels": [{"name": "os", "value": "linux"}],
    "app": {"exec": ["/x"], "user": "0", "group": "0", "environment": [{"name": "A", "value": "b"}]},
    "dependencies": [{"imageName": "example.org/base", "imageID": "sha512-00", "labels": []}],
    "pathWhitelist": ["/a/b", "/c"],
}
SAVED = {"Config": "c.json", "RepoTags": ["a/b:1"], "Layers": ["l/layer.tar"]}
PAGE = b"""<html><head><!-- x --><meta name="ac-discovery" content="example.org https://example.org/{name}.{ext}">
<META content='example.org https://example.org/keys' name=\'ac-discovery-pubkeys\'></head>"""


def encoded(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()


def text(call: Callable[[str], object]) -> Callable[[bytes], object]:
    """A reader of text, given bytes."""
    return lambda data: call(data.decode("utf-8", "replace"))


def schema1(data: bytes) -> None:
    media_type = served_as(data, "", "it")
    parse_schema1(payload_of(data, media_type, "it"), "it").documents([])


def page(data: bytes) -> None:
    for one in parse_page(data).images:
        filled(one.text, {"name": "n", "ext": "aci"})


READERS: dict[str, tuple[list[bytes], Callable[[bytes], object]]] = {
    "manifest": ([IMAGE.manifest, encoded(INDEX)], parse_document),
    "config": ([IMAGE.config], parse_config),
    "schema 1": ([PAYLOAD, signed(PAYLOAD, count=2)], schema1),
    "aci": ([encoded(ACI)], lambda data: parse_manifest(data, "it")),
    "page": ([PAGE], page),
    "reference": (
        [
            b"docker://example.org:5000/a/b:1@" + str(DIGEST).encode(),
            b"debian",
            b"oci:/a/b:latest",
            b"docker-archive:x.tar:a/b:1",
            b"appc:example.org/app:1,os=linux",
            b"tarball:https://example.org/x.tar",
        ],
        text(lambda text: str(parse_reference(str(parse_reference(text))))),
    ),
    "name": ([b"Example.org:5000/a/b:1", b"a_b/c--d"], text(parse_docker_name)),
    "challenge": (
        [b'Bearer realm="https://a/b",service="c",scope="x:y:z", Basic realm=q, Negotiate abc=='],
        text(lambda text: parse_challenges([text])),
    ),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", amount(2000))
def test_any_bytes_are_a_document_or_an_error(name: str, count: int) -> None:
    samples, reader = READERS[name]
    taken = sum(judged(partial(reader, data)) for data in cases(samples, count))
    assert count // 100 <= taken <= count


REFUSALS: dict[str, tuple[list[bytes], Callable[[bytes], str | None]]] = {
    "simple signing": (
        [encoded(STATEMENT)],
        lambda data: signed_statement.refusal(
            data, "cosign container image signature", NAME, DIGEST, exact=True
        ),
    ),
    "in-toto": (
        [
            encoded(
                {
                    "_type": attestation.TYPES[0],
                    "subject": [{"name": "x", "digest": {"sha256": DIGEST.hex}}],
                    "predicateType": policy.APPROVAL,
                    "predicate": {},
                }
            )
        ],
        lambda data: attestation.refusal(data, (policy.APPROVAL,), DIGEST),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("count", amount(2000))
def test_statements_are_refused_in_words(name: str, count: int) -> None:
    (sample,), reader = REFUSALS[name]
    assert reader(sample) is None
    admitted = 0
    for data in cases([sample], count):
        why = reader(data)
        assert why is None or 0 < len(why) < 1000
        admitted += why is None
        assert why is not None or DIGEST.hex.encode() in data
    assert admitted < count // 2


# --- files --------------------------------------------------------------------------------------------------

HOSTS = b"""server = "https://example.org"
skip_verify = false
[host."https://mirror.example"]
capabilities = ["pull", "resolve"]
ca = "ca.crt"
client = [["a", "b"]]
dial_timeout = "1m3s"
[host."https://mirror.example".header]
x = ["y"]
"""
POLICY = b"""default = "accept"
deny-layers = ["sha256:00"]
allow-erofs = ["erofs:/srv/*"]
[[rule]]
match = "example.org/**"
action = "signed"
keys = ["/a"]
[[rule.sigstore]]
identity-pattern = "*@example.org"
issuer = "i"
trusted-root = "/r"
"""
SAVE = archive(
    file(b"manifest.json", encoded([SAVED])),
    file(b"c.json", IMAGE.config),
    file(b"l/layer.tar", b""),
    file(b"repositories", encoded({"a/b": {"1": "l"}})),
)
DEEP = "x = " + "[" * 5000
FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "hosts.toml": (HOSTS, lambda path: read_hosts("example.org", path, HostsConfig())),
    "policy": (POLICY, lambda path: policy.load(path).decide(NAME)),
    "docker archive": (SAVE, lambda path: entries(Archive.open(path))),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("count", amount(150))
def test_any_bytes_are_a_file_or_an_error(name: str, count: int, tmp_path: Path) -> None:
    sample, reader = FILES[name]
    path = tmp_path / "file"
    taken = 0
    for data in cases([sample], count):
        path.write_bytes(data)
        taken += judged(lambda: reader(path))
    assert 0 < taken < count


@pytest.mark.parametrize("name", ["hosts.toml", "policy"])
def test_files_of_many_levels_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(DEEP)
    with pytest.raises(InvalidConfig):
        FILES[name][1](path)
