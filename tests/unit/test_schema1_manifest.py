"""Docker's schema 1: what is read of a manifest, and what is not taken (attacks G-02)."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from mesocosm.errors import Corrupt, Exhausted, MesocosmError
from mesocosm.images import mediatypes
from mesocosm.images.config import parse_config
from mesocosm.images.digest import Digest
from mesocosm.images.documents import parse_document
from mesocosm.images.measuring import Measurement
from mesocosm.images.schema1 import SIGNATURE_LIMIT, STEP_LIMIT, Schema1, parse_schema1, payload_of
from mesocosm.images.synthesis import Measured
from registry_fixtures import small_image
from schema1_images import (
    base64url,
    changed_step,
    document_of,
    signature,
    signed,
    with_signatures,
)
from schema1_images import payload_of as payload_for

SIGNED, UNSIGNED = mediatypes.DOCKER_SCHEMA1_SIGNED, mediatypes.DOCKER_SCHEMA1
IMAGE = small_image(runtime={"Env": ["PATH=/bin"], "Cmd": ["/hello"], "User": "1:2"})
DOCUMENT = document_of(IMAGE)
PAYLOAD = payload_for(DOCUMENT)
CUT = len(PAYLOAD) - 2


def parsed(document: dict[str, Any]) -> Schema1:
    return parse_schema1(payload_for(document), "manifest")


def measured(data: bytes) -> Measured:
    measurement = Measurement()
    measurement.write(data)
    measurement.finish()
    return measurement.of(Digest.of(data))


# --- payload ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, SIGNATURE_LIMIT])
def test_a_payload_is_what_was_signed_byte_for_byte(count: int) -> None:
    assert payload_of(signed(PAYLOAD, count=count), SIGNED, "manifest") == PAYLOAD
    assert payload_of(PAYLOAD, UNSIGNED, "manifest") == PAYLOAD


def test_a_payload_may_end_in_any_space() -> None:
    payload = PAYLOAD[:-2] + b" \r\n\t} \n"
    sent = with_signatures(PAYLOAD, [signature(payload, CUT, payload[CUT:])])
    assert payload_of(sent, SIGNED, "manifest") == payload


def protected(**members: Any) -> dict[str, Any]:
    """A signature whose protected header has these members."""
    form = {"formatLength": CUT, "formatTail": base64url(PAYLOAD[CUT:])} | members
    kept = {key: value for key, value in form.items() if value is not None}
    return signature(PAYLOAD, CUT, PAYLOAD[CUT:], protected=base64url(json.dumps(kept).encode()))


GOOD = signature(PAYLOAD, CUT, PAYLOAD[CUT:])
TWICE = base64url(b'{"formatLength": 1, "formatLength": %d, "formatTail": "Cn0"}' % CUT)
LIES: dict[str, tuple[bytes, str]] = {
    "no signatures": (PAYLOAD, "signatures are missing"),
    "an empty list": (with_signatures(PAYLOAD, []), "signatures are missing"),
    "not a list": (PAYLOAD[:-2] + b', "signatures": {}}', "not a list"),
    "not an object": (PAYLOAD[:-2] + b', "signatures": [7]}', "not a JSON object"),
    "they disagree": (with_signatures(PAYLOAD, [GOOD, protected(formatLength=CUT - 1)]), "disagree"),
    "tails disagree": (with_signatures(PAYLOAD, [GOOD, protected(formatTail=base64url(b"}"))]), "disagree"),
    "no length": (with_signatures(PAYLOAD, [protected(formatLength=None)]), "formatLength is missing"),
    "a negative length": (with_signatures(PAYLOAD, [protected(formatLength=-2)]), "formatLength"),
    "a length too long": (with_signatures(PAYLOAD, [protected(formatLength=1 << 40)]), "JSON"),
    "a length of nothing": (with_signatures(PAYLOAD, [protected(formatLength=0)]), "JSON"),
    "no tail": (with_signatures(PAYLOAD, [protected(formatTail=None)]), "formatTail"),
    "a tail with content": (
        with_signatures(PAYLOAD, [protected(formatTail=base64url(b', "tag": "evil"}'))]),
        "does more",
    ),
    "a padded tail": (with_signatures(PAYLOAD, [protected(formatTail="Cn0=")]), "not base64url"),
    "stray bits": (with_signatures(PAYLOAD, [protected(formatTail="Cn1")]), "one form"),
    "a header in two ways": (with_signatures(PAYLOAD, [GOOD | {"protected": TWICE}]), "twice"),
    "another case": (with_signatures(PAYLOAD, [GOOD | {"Protected": "e30"}]), "ambiguous"),
    "no signature": (with_signatures(PAYLOAD, [GOOD | {"signature": ""}]), "signature is not base64url"),
    "no header": (with_signatures(PAYLOAD, [GOOD | {"header": None}]), "not a JSON object"),
    "more than was signed": (
        with_signatures(PAYLOAD[:-2] + b', "evil": 1\n}', [GOOD]),
        "something else than what they stand in",
    ),
    "less than was served": (with_signatures(PAYLOAD, [protected(formatLength=30)]), "JSON"),
    "signatures twice": (with_signatures(signed(PAYLOAD), [GOOD]), "twice"),
    "Signatures": (signed(PAYLOAD).replace(b'"signatures"', b'"Signatures"'), "ambiguous"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_G02_signatures_that_do_not_sign_what_was_served_are_refused(lie: str) -> None:
    sent, why = LIES[lie]
    with pytest.raises(Corrupt, match=why):
        payload_of(sent, SIGNED, "manifest")


def test_G02_a_manifest_is_what_it_was_served_as() -> None:
    with pytest.raises(Corrupt, match="served as unsigned"):
        payload_of(signed(PAYLOAD), UNSIGNED, "manifest")


def test_more_signatures_than_anybody_makes_are_refused() -> None:
    with pytest.raises(Exhausted, match="signatures"):
        payload_of(with_signatures(PAYLOAD, [GOOD] * (SIGNATURE_LIMIT + 1)), SIGNED, "manifest")


# --- content ------------------------------------------------------------------------------------------------


def test_an_image_is_what_its_manifest_says() -> None:
    manifest = parsed(document_of(IMAGE, idle=1))
    assert [str(layer) for layer in manifest.layers] == [str(Digest.of(layer)) for layer in IMAGE.layers]
    top, documents = manifest.documents([measured(layer) for layer in IMAGE.layers])
    made = parse_document(documents[top.digest], content_type=top.media_type).require_image("it")  # type: ignore[union-attr]
    assert [layer.compression for layer in made.layers] == ["gzip", "gzip"]
    config = parse_config(documents[made.config.digest])
    assert [str(one) for one in config.diff_ids] == json.loads(IMAGE.config)["rootfs"]["diff_ids"]
    assert (config.env, config.cmd, config.user) == (("PATH=/bin",), ("/hello",), "1:2")
    assert (config.created, str(config.platform)) == ("2015-01-01T00:00:00Z", "linux/amd64")
    assert [step.created_by for step in config.history] == [f"step {n}" for n in range(3)]
    assert [step.empty_layer for step in config.history] == [False, False, True]


def test_the_same_manifest_makes_the_same_image_and_plain_layers_stay_plain() -> None:
    manifest = parsed(DOCUMENT)
    layers = [measured(layer) for layer in IMAGE.layers]
    assert manifest.documents(layers) == manifest.documents(layers)
    plain = measured(gzip.decompress(IMAGE.layers[0]))
    assert plain.descriptor.compression == ""
    assert plain.diff_id == layers[0].diff_id


def test_the_topmost_layer_speaks_for_the_image_and_the_manifest_where_that_is_silent() -> None:
    silent = changed_step(DOCUMENT, 0, architecture=None, os=None)
    config = parse_config(parsed({**silent, "architecture": "arm64"}).config([]))
    assert str(config.platform) == "linux/arm64"
    same = changed_step({**DOCUMENT, "architecture": "x86_64"}, 0, architecture="amd64")
    assert str(parse_config(parsed(same).config([])).platform) == "linux/amd64"


HISTORY, LAYERS = DOCUMENT["history"], DOCUMENT["fsLayers"]
STRANGE: dict[str, tuple[dict[str, Any], str]] = {
    "no version": ({**DOCUMENT, "schemaVersion": None}, "schemaVersion"),
    "version 2": ({**DOCUMENT, "schemaVersion": 2}, "schemaVersion"),
    "layers of schema 2": ({**DOCUMENT, "layers": []}, "both fsLayers and layers"),
    "a configuration": ({**DOCUMENT, "config": {}}, "both fsLayers and config"),
    "an index": ({**DOCUMENT, "manifests": []}, "both fsLayers and manifests"),
    "signatures": ({**DOCUMENT, "signatures": [GOOD]}, "both fsLayers and signatures"),
    "another type": ({**DOCUMENT, "mediaType": mediatypes.OCI_MANIFEST}, "mediaType"),
    "no layers": ({**DOCUMENT, "fsLayers": [], "history": []}, "fsLayers are missing"),
    "fewer layers": ({**DOCUMENT, "fsLayers": LAYERS[1:]}, "1 layers, and 2 are described"),
    "less history": ({**DOCUMENT, "history": HISTORY[1:]}, "2 layers, and 1 are described"),
    "no digest": ({**DOCUMENT, "fsLayers": [{"blobSum": "x"}, LAYERS[1]]}, "blobSum"),
    "a path for a digest": (
        {**DOCUMENT, "fsLayers": [{"blobSum": "sha256:" + "../" * 21 + "x"}, LAYERS[1]]},
        "blobSum",
    ),
    "no step": ({**DOCUMENT, "history": [{}, HISTORY[1]]}, "v1Compatibility is missing"),
    "a step that is no JSON": (
        {**DOCUMENT, "history": [{"v1Compatibility": "{"}, HISTORY[1]]},
        "history 0 is not JSON",
    ),
    "a step with a key twice": (
        {**DOCUMENT, "history": [{"v1Compatibility": '{"id": "a", "id": "b"}'}, HISTORY[1]]},
        "twice",
    ),
    "a step that is a list": (
        {**DOCUMENT, "history": [{"v1Compatibility": "[]"}, HISTORY[1]]},
        "not a JSON object",
    ),
    "keys of another case": (changed_step(DOCUMENT, 0, Parent="x"), "ambiguous"),
    "an ID that is none": (changed_step(DOCUMENT, 0, id="../../etc"), "64 hex digits"),
    "one ID for two": (changed_step(DOCUMENT, 0, id=f"{1:064x}"), "one ID"),
    "no chain": (changed_step(DOCUMENT, 0, parent="f" * 64), "does not stand on"),
    "no end": (changed_step(DOCUMENT, 1, parent="f" * 64), "does not stand on"),
    "the wrong way round": (
        {**DOCUMENT, "history": HISTORY[::-1], "fsLayers": LAYERS[::-1]},
        "does not stand on",
    ),
    "two architectures": ({**DOCUMENT, "architecture": "arm64"}, "architecture"),
    "a configuration that is none": (changed_step(DOCUMENT, 0, config="x"), "config is not an object"),
    "throwaway in words": (changed_step(DOCUMENT, 0, throwaway="no"), "throwaway"),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_G02_manifests_that_contradict_themselves_are_refused(strange: str) -> None:
    document, why = STRANGE[strange]
    with pytest.raises(Corrupt, match=why):
        parsed(document)


@pytest.mark.parametrize("steps", [501, STEP_LIMIT + 1])
def test_G02_a_huge_history_is_refused(steps: int) -> None:
    idle = steps - 501
    image = small_image([{"a": b""}])
    document = document_of(type(image)(image.manifest, image.config, image.layers * 501), idle=idle)
    with pytest.raises(Exhausted, match="layers, more than the"):
        parsed(document)


def test_a_layer_that_was_pushed_twice_is_there_once() -> None:
    """Old dockers now and then wrote a layer twice in a row, with all that they said of it."""
    twice = {key: [DOCUMENT[key][0], *DOCUMENT[key], DOCUMENT[key][1]] for key in ("fsLayers", "history")}
    manifest = parsed(DOCUMENT | twice)
    assert (manifest.layers, manifest.steps) == (parsed(DOCUMENT).layers, parsed(DOCUMENT).steps)
    other = {"fsLayers": [LAYERS[1], *LAYERS], "history": [HISTORY[0], *HISTORY]}
    with pytest.raises(Corrupt, match="one ID"):
        parsed(DOCUMENT | other)


def test_many_steps_without_layers_are_fine() -> None:
    manifest = parsed(document_of(IMAGE, idle=STEP_LIMIT - 2))
    assert (len(manifest.layers), len(manifest.steps)) == (2, STEP_LIMIT)


@pytest.mark.parametrize(
    "runtime", [{"Env": ["nonsense"]}, {"User": "a:b:c"}, {"Cmd": 7}, {"Volumes": {"..": {}}}]
)
def test_what_is_to_run_is_checked_like_any_configuration(runtime: dict[str, Any]) -> None:
    manifest = parsed(changed_step(DOCUMENT, 0, config=runtime))
    with pytest.raises(MesocosmError, match="config"):
        parse_config(manifest.config([]))


@pytest.mark.parametrize(("repository", "tag"), [("a/other", "latest"), ("a/b", "other"), ("A/b", "latest")])
def test_G02_a_manifest_of_another_name_is_refused(repository: str, tag: str) -> None:
    with pytest.raises(Corrupt, match="answered with the manifest of a/b:latest"):
        parsed(DOCUMENT).require_asked_for(repository, tag, "it")
    parsed(DOCUMENT).require_asked_for("a/b", "latest", "it")
    parsed(DOCUMENT).require_asked_for("a/b", None, "it")
