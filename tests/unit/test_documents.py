"""Manifests, indexes, platforms and image configurations from hostile bytes (G-01, G-02, I-17)."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import Corrupt, Exhausted, MesocosmError, NotFound, Unsupported
from mesocosm.images import mediatypes
from mesocosm.images.config import ImageConfig, match_layers, parse_config, parse_signal
from mesocosm.images.digest import Digest
from mesocosm.images.documents import (
    EMPTY,
    Index,
    Manifest,
    descriptor_json,
    parse_descriptor,
    parse_document,
)
from mesocosm.images.platform import Platform, normalised, parse_platform
from mesocosm.images.strict import DOCUMENT_LIMIT, Json, load
from registry_fixtures import sha256, small_image

IMAGE = small_image()
MANIFEST = json.loads(IMAGE.manifest)
CONFIG = json.loads(IMAGE.config)


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def manifest_with(**changes: object) -> bytes:
    return encode({**MANIFEST, **changes})


def config_with(**runtime: object) -> bytes:
    return encode({**CONFIG, "config": runtime})


def entry(platform: str, number: int, **more: object) -> dict[str, object]:
    result: dict[str, object] = {
        "mediaType": mediatypes.OCI_MANIFEST,
        "digest": sha256(bytes([number])),
        "size": number,
        **more,
    }
    if platform:
        names = ("os", "architecture", "variant")
        result["platform"] = dict(zip(names, platform.split("/"), strict=False))
    return result


def index_of(*entries: dict[str, object]) -> Index:
    found = parse_document(encode({"schemaVersion": 2, "manifests": entries}))
    assert isinstance(found, Index)
    return found


# --- strict JSON ---


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1, "a": 1}',
        b'{"b": {"a": 1, "a": 2}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 30 + b"}",
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": "\xff"}',
        b'{"a": ' * 5000,
        b"[" * 100_000,
        b'{"a": ' * 40 + b"1" + b"}" * 40,
        b'{"a": 1,}',
        b"{'a': 1}",
    ],
)
def test_G02_what_two_readers_could_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(Corrupt):
        load(text, "it")


def test_G02_a_key_twice_among_half_a_million_is_found_at_once() -> None:
    keys = b",".join(b'"%x":0' % number for number in range(300_000))
    with pytest.raises(Corrupt, match="the key '493df' twice"):
        load(b'{%b,"493df":1}' % keys, "it")
    assert len(load(b"{%b}" % keys, "it")) == 300_000


def test_strict_json_takes_what_is_plain() -> None:
    text = '{"a": [1, -2, 3.5, true, null, {"b": "\u00e9\\ud83d\\ude00"}]}'.encode()
    assert load(text, "it") == {"a": [1, -2, 3.5, True, None, {"b": "\u00e9\U0001f600"}]}


def test_documents_above_the_limit_are_refused() -> None:
    with pytest.raises(Exhausted):
        load(b" " * (DOCUMENT_LIMIT + 1), "it")


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_our_errors(data: bytes) -> None:
    for parse in (parse_document, parse_config):
        with pytest.raises(MesocosmError):
            parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data(), st.sampled_from([MANIFEST, CONFIG]), JSON)
def test_any_member_swapped_for_any_value_is_parsed_or_a_typed_error(
    data: st.DataObject, whole: dict[str, object], value: object
) -> None:
    document = copy.deepcopy(whole)
    place: Any = document
    while True:
        if isinstance(place, dict):
            key: Any = data.draw(st.sampled_from(sorted(place)))
        elif isinstance(place, list) and place:
            key = data.draw(st.integers(0, len(place) - 1))
        else:
            return
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            place[key] = value
            break
        place = inner
    for parse in (parse_document, parse_config):
        try:
            parse(encode(document))
        except MesocosmError as error:
            assert str(error).isprintable()


# --- manifests ---


def test_an_oci_manifest_is_read_whole() -> None:
    found = parse_document(IMAGE.manifest, content_type=mediatypes.OCI_MANIFEST + "; charset=utf-8")
    assert isinstance(found, Manifest)
    assert str(found.digest) == IMAGE.digest
    assert found.size == len(IMAGE.manifest)
    assert [layer.compression for layer in found.require_image("x").layers] == ["gzip", "gzip"]
    assert found.config.size == len(IMAGE.config)


@pytest.mark.parametrize(
    "content_type", [None, "", "application/json", "text/plain", "application/octet-stream"]
)
@pytest.mark.parametrize("own", [True, False])
def test_the_type_comes_from_the_document_or_the_header_or_the_shape(
    content_type: str | None, own: bool
) -> None:
    document = dict(MANIFEST)
    if not own:
        del document["mediaType"]
    found = parse_document(encode(document), content_type=content_type)
    assert found.media_type == mediatypes.OCI_MANIFEST


@pytest.mark.parametrize(
    "data, content_type",
    [
        (manifest_with(manifests=[]), None),
        (manifest_with(mediaType=mediatypes.OCI_INDEX), None),
        (manifest_with(mediaType=mediatypes.DOCKER_MANIFEST), mediatypes.OCI_MANIFEST),
        (IMAGE.manifest, mediatypes.OCI_INDEX),
        (IMAGE.manifest, mediatypes.DOCKER_LIST),
        (encode({"schemaVersion": 2, "manifests": []}), mediatypes.OCI_MANIFEST),
        (encode({"schemaVersion": 2, "manifests": [], "config": {}}), mediatypes.OCI_INDEX),
        (encode({"schemaVersion": 2}), mediatypes.OCI_MANIFEST),
        (manifest_with(Layers=[]), None),
        (manifest_with(MEDIATYPE="x"), None),
        (manifest_with(schemaVersion=3), None),
        (manifest_with(schemaVersion="2"), None),
        (manifest_with(schemaVersion=True), None),
        (manifest_with(layers={}), None),
        (manifest_with(layers=[1]), None),
        (manifest_with(config=None), None),
    ],
)
def test_G02_ambiguous_and_malformed_manifests_are_refused(data: bytes, content_type: str | None) -> None:
    with pytest.raises(Corrupt):
        parse_document(data, content_type=content_type)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "sha256:../../x"},
        {"size": -1},
        {"size": 1.0},
        {"size": True},
        {"size": None},
        {"size": 1 << 70},
        {"mediaType": ""},
        {"mediaType": "x"},
        {"mediaType": "a/b\n"},
        {"urls": "http://x"},
        {"annotations": {"a": 1}},
        {"data": "!"},
        {"data": "e30="},
        {"Digest": "sha256:" + "0" * 64},
        {"platform": "linux"},
    ],
)
def test_malformed_descriptors_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Corrupt):
        parse_document(manifest_with(config={**MANIFEST["config"], **changes}))


def test_embedded_data_is_verified_and_kept() -> None:
    found = parse_descriptor(json.loads(encode(descriptor_json(EMPTY))), "x")
    assert found == EMPTY
    assert found.data == b"{}"


def test_descriptors_survive_writing_and_reading() -> None:
    for number, one in enumerate(
        [entry("linux/arm/v7", 3, annotations={"a": "b"}), entry("", 4, urls=["http://x"])]
    ):
        parsed = parse_descriptor(json.loads(encode(one)), f"entry {number}")
        assert parse_descriptor(descriptor_json(parsed), "again") == parsed


def test_500_layers_are_taken_and_501_refused_by_name() -> None:
    layer = MANIFEST["layers"][0]
    found = parse_document(manifest_with(layers=[layer] * 500))
    assert isinstance(found, Manifest)
    with pytest.raises(Exhausted, match="501 layers"):
        parse_document(manifest_with(layers=[layer] * 501))


@pytest.mark.parametrize(
    "content_type", [mediatypes.DOCKER_SCHEMA1_SIGNED, mediatypes.DOCKER_SCHEMA1, None, "application/json"]
)
def test_schema_1_is_refused_with_the_reason(content_type: str | None) -> None:
    data = encode({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": []})
    with pytest.raises(Unsupported, match="schema 1") as refused:
        parse_document(data, content_type=content_type)
    assert refused.value.hint is not None and "skopeo copy" in refused.value.hint


@pytest.mark.parametrize(
    "media_type, words",
    [
        (mediatypes.DOCKER_FOREIGN_LAYER + ".gzip", "foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", "foreign"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.in-toto+json", "unknown media type"),
        ("application/vnd.squashfs.layer.v1", "unknown media type"),
    ],
)
def test_I21_layers_that_are_not_unpacked_are_refused_in_words(media_type: str, words: str) -> None:
    found = parse_document(manifest_with(layers=[{**MANIFEST["layers"][0], "mediaType": media_type}]))
    assert isinstance(found, Manifest)
    with pytest.raises(Unsupported, match=words):
        found.require_image("x")


def test_artifacts_are_read_and_refused_as_images_in_words() -> None:
    document = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "artifactType": "application/vnd.example.sbom",
        "config": descriptor_json(EMPTY),
        "layers": [descriptor_json(EMPTY)],
        "subject": MANIFEST["config"],
    }
    found = parse_document(encode(document))
    assert isinstance(found, Manifest)
    assert found.subject is not None
    with pytest.raises(Unsupported, match="artifact of type application/vnd.example.sbom"):
        found.require_image("x")
    del document["artifactType"]
    with pytest.raises(Corrupt, match="artifactType"):
        parse_document(encode(document))


# --- indexes and platforms ---


def test_selection_takes_the_platform_asked_for() -> None:
    index = index_of(
        entry("linux/amd64", 1),
        entry("linux/arm64/v8", 2),
        entry("linux/arm/v6", 3),
        entry("linux/arm/v7", 4),
        entry("windows/amd64", 5),
        entry("unknown/unknown", 6, annotations={"vnd.docker.reference.type": "attestation-manifest"}),
    )
    for wanted, size in [("linux/amd64", 1), ("linux/arm64", 2), ("linux/arm/v6", 3), ("linux/arm", 4)]:
        assert index.select(parse_platform(wanted), "x").size == size
    with pytest.raises(NotFound, match=r"linux/riscv64.*linux/amd64, linux/arm/v6"):
        index.select(parse_platform("linux/riscv64"), "x")


def test_selection_prefers_the_newest_variant_that_still_runs() -> None:
    index = index_of(entry("linux/amd64", 1), entry("linux/amd64/v2", 2), entry("linux/amd64/v4", 4))
    for wanted, size in [("linux/amd64", 1), ("linux/amd64/v3", 2), ("linux/amd64/v4", 4)]:
        assert index.select(parse_platform(wanted), "x").size == size
    with pytest.raises(NotFound):
        index_of(entry("linux/arm/v7", 1), entry("linux/arm/v8", 2)).select(
            parse_platform("linux/arm/v6"), "x"
        )


def test_a_lone_entry_without_platform_is_taken_and_several_are_not() -> None:
    assert index_of(entry("", 7)).select(Platform(), "x").size == 7
    with pytest.raises(NotFound):
        index_of(entry("", 7), entry("", 8)).select(Platform(), "x")


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd64\n", "linux/am d64"]
)
def test_malformed_platforms_are_refused(text: str) -> None:
    with pytest.raises(MesocosmError):
        parse_platform(text)


def test_machine_names_are_normalised() -> None:
    assert str(normalised(Platform("Linux", "x86_64"))) == "linux/amd64"
    assert str(normalised(Platform("linux", "aarch64", "8"))) == "linux/arm64"
    assert str(normalised(Platform("linux", "armhf"))) == "linux/arm"
    assert str(normalised(Platform("linux", "armel"))) == "linux/arm/v6"


# --- configuration ---


def test_a_full_configuration_is_read() -> None:
    data = encode(
        {
            **CONFIG,
            "created": "2024-01-01T00:00:00Z",
            "config": {
                "User": "1000:1000",
                "AdditionalGids": [7, 4294967294],
                "Env": ["A=b", "C="],
                "Entrypoint": ["/e"],
                "Cmd": "/c",
                "WorkingDir": "/w",
                "Volumes": {"/v//x/./y": {"ReadOnly": True}, "/w": {"ReadOnly": 1}, "/z": 5},
                "ExposedPorts": {"80": {}, "53/udp": {}},
                "StopSignal": "SIGRTMIN+3",
                "Labels": {"a": "b"},
                "Healthcheck": {"Test": ["CMD", "true"]},
                "Shell": ["/bin/bash", "-c"],
                "Unknown": 5,
            },
            "history": [{"created_by": "x"}, {"empty_layer": True}],
        }
    )
    found = parse_config(data)
    assert found.digest == Digest.of(data)
    assert (found.user, found.env, found.entrypoint, found.cmd) == (
        "1000:1000",
        ("A=b", "C="),
        ("/e",),
        ("/c",),
    )
    assert found.groups == (7, 4294967294)
    assert (found.volumes, found.exposed_ports) == (
        ("/v/x/y", "/w", "/z"),
        ("80/tcp", "53/udp"),
    )
    assert found.fixed_volumes == ("/v/x/y",)
    assert (found.stop_signal, found.labels, found.shell) == (37, {"a": "b"}, ("/bin/bash", "-c"))
    assert found.healthcheck == '{"Test":["CMD","true"]}'
    assert [step.empty_layer for step in found.history] == [False, True]
    assert len(found.diff_ids) == 2


def test_what_go_writes_for_nothing_is_nothing() -> None:
    found = parse_config(config_with(Env=None, Cmd=None, Entrypoint=None, Volumes=None, Labels=None, User=""))
    assert (found.env, found.cmd, found.entrypoint, found.volumes, found.labels) == ((), None, None, (), {})
    assert parse_config(encode({**CONFIG, "config": None})).cmd is None
    assert parse_config(config_with(Cmd=[])).cmd == ()


@pytest.mark.parametrize(
    "runtime",
    [
        {"Volumes": {"/../../etc": {}}},
        {"Volumes": {"/": {}}},
        {"Volumes": {"/a\nb": {}}},
        {"Volumes": ["/a"]},
        {"Entrypoint": ["/bin/sh\0"]},
        {"Cmd": [1]},
        {"Env": ["PATH"]},
        {"Env": ["=x"]},
        {"Env": ["A=\0"]},
        {"User": "a:b:c"},
        {"User": "root\n"},
        {"AdditionalGids": "7"},
        {"AdditionalGids": ["7"]},
        {"AdditionalGids": [True]},
        {"AdditionalGids": [-1]},
        {"AdditionalGids": [4294967295]},
        {"additionalgids": [7]},
        {"StopSignal": "9999"},
        {"StopSignal": "SIGWINNER"},
        {"StopSignal": "0"},
        {"StopSignal": "RTMAX+1"},
        {"ExposedPorts": {"80/icmp": {}}},
        {"ExposedPorts": {"99999": {}}},
        {"Labels": {"a": 1}},
        {"Healthcheck": "x"},
        {"user": "root"},
        {"env": []},
    ],
)
def test_I17_malformed_wishes_of_an_image_are_refused(runtime: dict[str, object]) -> None:
    with pytest.raises(Corrupt):
        parse_config(config_with(**runtime))


def test_I17_labels_with_anybodys_keys_are_only_labels() -> None:
    labels = {"containerd.io/restart.loguri": "binary:///bin/sh", "mesocosm.restart": "always", "": "x"}
    found = parse_config(config_with(Labels=labels))
    assert found.labels == labels
    assert found == parse_config(config_with(Labels=labels))
    assert msg_without_labels(found) == msg_without_labels(parse_config(config_with(Labels={})))


def msg_without_labels(config: ImageConfig) -> dict[str, object]:
    return {
        key: value for key, value in msgspec.structs.asdict(config).items() if key not in ("labels", "digest")
    }


@pytest.mark.parametrize(
    "rootfs",
    [
        None,
        {},
        {"type": "layers"} | {"diff_ids": ["sha256:x"]},
        {"type": "other", "diff_ids": []},
        {"type": "layers", "diff_ids": "x"},
    ],
)
def test_malformed_root_file_systems_are_refused(rootfs: Json) -> None:
    with pytest.raises(Corrupt):
        parse_config(encode({**CONFIG, "rootfs": rootfs}))


def test_manifest_and_configuration_must_speak_of_the_same_layers() -> None:
    manifest = parse_document(IMAGE.manifest)
    assert isinstance(manifest, Manifest)
    match_layers(manifest, parse_config(IMAGE.config), "x")
    rootfs = {**CONFIG["rootfs"], "diff_ids": CONFIG["rootfs"]["diff_ids"][:1]}
    with pytest.raises(Corrupt, match="2 layers, the configuration 1"):
        match_layers(manifest, parse_config(encode({**CONFIG, "rootfs": rootfs})), "x")


@pytest.mark.parametrize(
    "text, number", [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN", 34), ("SIGRTMAX-1", 63), ("64", 64)]
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "SIG", "SIG_DFL", "RTMIN-1", "\u0661", "1_0", "+9", "15 "])
def test_no_signals(text: str) -> None:
    assert parse_signal(text) is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("arm64", "linux/arm64"),
        ("arm/v6", "linux/arm/v6"),
        ("x86_64", "linux/amd64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_an_architecture_alone_means_linux(text: str, meant: str) -> None:
    assert str(parse_platform(text)) == meant
