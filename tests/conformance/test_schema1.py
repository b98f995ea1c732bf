"""Docker's schema 1: refused in words unless policy allows it, also where the registry names the digest that
the specification wants (that of the bytes without their signatures).  Where it is allowed it becomes an image
like any other, known by both digests.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from fixtures.images import Layout
from fixtures.registry import Registry
from malicious_registry import (
    Answer,
    Fault,
    MaliciousRegistry,
    change,
    endless,
    for_method,
    headers,
    status,
    tells_nothing,
    truncate,
)
from mesocosm.errors import Corrupt, Denied, Exhausted, MesocosmError, NotFound, Unsupported
from mesocosm.images import mediatypes
from mesocosm.images.description import describe
from mesocosm.images.limits import Limits as StreamLimits
from mesocosm.images.progress import Phase, Progress
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.stores import docker_schema1
from provisions import image_of, new_id, opened, shown
from registry_fixtures import SmallImage, sha256, skopeo_copy, write_layout
from schema1_images import (
    EMPTY_LAYER,
    changed_step,
    document_of,
    payload_of,
    serve,
    serve_list,
    signed,
)
from tarballs import file

BASE, TOP = [file(b"base", b"b")], [file(b"top", b"t")]
IMAGE = image_of([BASE, TOP])
DIFF_IDS = json.loads(IMAGE.config)["rootfs"]["diff_ids"]
DOCUMENT = document_of(IMAGE)
PAYLOAD = payload_of(DOCUMENT)
ALLOWED = 'allow-schema1 = ["127.0.0.1:*/**"]\n'
TYPES = sorted(mediatypes.SCHEMA1)


def nothing_left(provisioner: Provisioner) -> bool:
    """Whether nothing was kept, and nothing is held."""
    store = provisioner.store
    images, refs = list(store.catalogue.images()), list(store.catalogue.refs())
    return not [*images, *refs, *store.layers.list(), *store.blobs.list(), *store.leases.owners()]


# --- not allowed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("by_digest", [False, True], ids=["by tag", "by digest"])
async def test_G02_schema_1_is_refused_for_what_it_is_before_anything_is_fetched(
    tmp_path: Path, media_type: str, by_digest: bool
) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        digest = serve(registry, IMAGE, media_type=media_type)
        name = f"a/b@{digest}" if by_digest else "a/b:latest"
        with pytest.raises(Unsupported, match="docker's schema 1") as refused:
            await provisioner.pull(f"{registry.host}/{name}")
        assert refused.value.hint is not None and "skopeo copy docker://" in refused.value.hint
        assert "allow-schema1" in refused.value.hint
        assert not registry.paths("/blobs/")
        assert all("distribution.manifest.v1" not in seen.headers["accept"] for seen in registry.seen)


@pytest.mark.parametrize("media_type", TYPES)
async def test_G02_converted_as_the_hint_says_it_comes_in(tmp_path: Path, media_type: str) -> None:
    layout = tmp_path / "layout"
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        serve(registry, IMAGE, media_type=media_type)
        await asyncio.to_thread(skopeo_copy, f"docker://{registry.host}/a/b:latest", f"oci:{layout}:latest")
        pulled = await provisioner.pull(f"oci:{layout}:latest")
        assert [layer.diff_id for layer in pulled.layers] == DIFF_IDS


@pytest.mark.parametrize(
    "rules",
    ["", 'allow-schema1 = ["127.0.0.1:*/other/*"]\n', 'allow-schema1 = ["127.0.0.1:*"]\n'],
)
async def test_G02_a_downgrade_is_refused_where_policy_does_not_allow_it(tmp_path: Path, rules: str) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, rules) as provisioner:
        name = f"{registry.host}/a/b:latest"
        registry.add(IMAGE, "a/b", "latest")
        before = await provisioner.pull(name)
        serve(registry, image_of([[file(b"evil", b"e")]]))
        seen = len(registry.seen)
        with pytest.raises(Unsupported, match="schema 1"):
            await provisioner.pull(name)
        assert not [one for one in registry.seen[seen:] if "/blobs/" in one.path]
        assert (await provisioner.inspect(name)).digest == before.digest == IMAGE.digest


@pytest.mark.parametrize(
    "rules",
    [
        f'{ALLOWED}default = "reject"\n',
        f'{ALLOWED}[[rule]]\nmatch = "127.0.0.1:*/a/*"\naction = "reject"\n',
        f'{ALLOWED}[[rule]]\nmatch = "127.0.0.1:*/a/*"\naction = "signed"\nkeys = ["/dev/null"]\n',
    ],
    ids=["rejected", "rejected by a rule", "not signed"],
)
async def test_g13_policy_decides_before_a_layer_is_asked_for(tmp_path: Path, rules: str) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, rules) as provisioner:
        serve(registry, IMAGE)
        with pytest.raises(MesocosmError):
            await provisioner.pull(f"{registry.host}/a/b:latest")
        assert not registry.paths("/blobs/")
        assert nothing_left(provisioner)


async def test_g13_what_is_allowed_no_more_does_not_start_and_is_not_asked_for(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        name = f"{registry.host}/a/b:latest"
        digest = serve(registry, IMAGE)
        async with opened(tmp_path, ALLOWED) as provisioner:
            made = await provisioner.pull(name)
            await provisioner.provision(new_id(), name, scratch=tmp_path / "s")
        async with opened(tmp_path) as provisioner:
            for text in (name, made.digest, f"{registry.host}/a/b@{digest}"):
                with pytest.raises(Denied, match="schema 1") as refused:
                    await provisioner.provision(new_id(), text, scratch=tmp_path / "s")
                assert refused.value.hint is not None and "allow-schema1" in refused.value.hint
            assert provisioner.store.leases.owners() == []


# --- allowed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("by_digest", [False, True], ids=["by tag", "by digest"])
async def test_where_it_is_allowed_it_becomes_an_image_known_by_both_digests(
    tmp_path: Path, media_type: str, by_digest: bool
) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        digest = serve(registry, IMAGE, document_of(IMAGE, idle=2), media_type)
        name = f"{registry.host}/a/b" + (f"@{digest}" if by_digest else ":latest")
        pulled = await provisioner.pull(name)
        assert [layer.diff_id for layer in pulled.layers] == DIFF_IDS
        assert pulled.complete and pulled.digest != digest
        assert (pulled.origin, pulled.published) == (digest, digest)
        (ref,) = provisioner.store.catalogue.refs()
        assert (ref.digest, ref.top) == (pulled.digest, digest)
        assert provisioner.store.leases.owners() == []
        assert not registry.paths(sha256(EMPTY_LAYER))  # steps without a layer have none to fetch
        told = describe(pulled, *await provisioner.documents(name))
        assert (told.digest, told.origin) == (pulled.digest, digest)
        assert told.repo_digests == (f"{registry.host}/a/b@{digest}",)
        for text in (digest, digest[7:19], f"{registry.host}/a/b@{digest}"):
            assert (await provisioner.inspect(text)).digest == pulled.digest
        assert len(await provisioner.history(name)) == 4


@pytest.mark.parametrize("sent", [PAYLOAD, signed(PAYLOAD)], ids=["unsigned", "signed"])
async def test_registries_that_call_every_manifest_json_are_understood(tmp_path: Path, sent: bytes) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        digest = serve(registry, IMAGE, media_type="application/json; charset=utf-8", sent=sent)
        assert (await provisioner.pull(f"{registry.host}/a/b")).origin == digest
        registry.serve_manifest("a/new", "latest", IMAGE.manifest, "application/json")
        assert (await provisioner.pull(f"{registry.host}/a/new")).digest == IMAGE.digest


async def test_what_runs_has_the_layers_files_and_the_topmost_steps_words(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        made = await provisioner.provision(new_id(), f"{registry.host}/a/b", scratch=tmp_path / "s")
        assert (made.runtime.command, made.runtime.env) == (("/hello",), ("PATH=/bin",))
        with shown(made.root, tmp_path / "root") as root:
            assert [(root / one).read_text() for one in ("base", "top")] == ["b", "t"]


@pytest.mark.parametrize("backend", ["erofs", "copy"])
async def test_before_throwaway_was_known_the_empty_layer_was_there_many_times(
    tmp_path: Path, backend: str
) -> None:
    image = image_of([BASE, [], TOP, [], []])
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, image)
        name = f"{registry.host}/a/b"
        made = await provisioner.provision(new_id(), name, backend=backend, scratch=tmp_path / "s")
        with shown(made.root, tmp_path / "root") as root:
            assert sorted(path.name for path in root.iterdir()) == ["base", "top"]
        fetched = [one for one in registry.seen if "/blobs/" in one.path and one.method == "GET"]
        assert len(fetched) == 3


async def test_a_second_pull_costs_one_conditional_request(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        first = await provisioner.pull(f"{registry.host}/a/b")
        registry.seen.clear()
        assert (await provisioner.pull(f"{registry.host}/a/b")).digest == first.digest
        (only,) = registry.seen
        assert only.headers["if-none-match"]


async def test_without_an_etag_it_costs_the_manifest_and_nothing_is_measured_again(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        digest = serve(registry, IMAGE)
        registry._always.clear()
        registry.always("/manifests/", headers(Docker_Content_Digest=digest, ETag=""))
        first = await provisioner.pull(f"{registry.host}/a/b")
        for layer in IMAGE.layers:
            del registry.blobs[sha256(layer)]
        registry.seen.clear()
        assert (await provisioner.pull(f"{registry.host}/a/b")).digest == first.digest
        assert [one.path for one in registry.seen] == ["/v2/a/b/manifests/latest"]


async def test_what_is_here_of_another_image_is_not_fetched_again(tmp_path: Path) -> None:
    seen: list[Progress] = []
    async with (
        MaliciousRegistry() as registry,
        opened(tmp_path, ALLOWED, progress=seen.append) as provisioner,
    ):
        registry.add(image_of([BASE]), "a/base", "latest")
        await provisioner.pull(f"{registry.host}/a/base")
        serve(registry, IMAGE)
        registry.seen.clear()
        seen.clear()
        pulled = await provisioner.pull(f"{registry.host}/a/b")
        assert not registry.paths(sha256(IMAGE.layers[0]))
        finished = [one for one in seen if one.phase is Phase.DOWNLOAD and one.finished]
        news = {one.subject for one in finished if not one.already}
        assert news == {sha256(IMAGE.layers[1])}
        assert len([one for one in finished if one.subject in news]) == 1
        assert [layer.diff_id for layer in pulled.layers] == DIFF_IDS


async def test_it_is_checked_mended_and_collected_like_any_image(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        name, digest = f"{registry.host}/a/b:latest", serve(registry, IMAGE)
        pulled = await provisioner.pull(name)
        store = provisioner.store
        await provisioner.prune()
        assert (await provisioner.verify(name)).sound
        for damaged in (digest, pulled.digest, pulled.image_id, pulled.layers[0].digest):
            path = store.blobs.path(type(store.blobs.put(b"")).parse(damaged))
            path.chmod(0o600)
            path.write_bytes(b"x" + path.read_bytes()[1:])
            assert (await provisioner.verify(name, repair=True)).damaged == (damaged,)
            assert (await provisioner.verify(name)).sound, damaged
        path.chmod(0o600)
        path.write_bytes(b"x" + path.read_bytes()[1:])
        assert (await provisioner.scrub()).left == ()
        assert (await provisioner.verify(name)).sound
        removed = await provisioner.remove(name)
        assert removed.deleted == (pulled.digest,)
        assert [one for one in store.blobs.list() if str(one.digest) in (digest, pulled.digest)] == []


async def test_layers_that_are_gone_come_back_by_the_digest_that_the_registry_knows(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        name, digest = f"{registry.host}/a/b:latest", serve(registry, IMAGE)
        pulled = await provisioner.pull(name)
        store = provisioner.store
        for diff_id, form in list(store.layers.list()):
            store.layers.condemn(diff_id, form)
        for stored in list(store.blobs.list()):
            store.blobs.delete(stored.digest)
        registry.serve_manifest("a/b", "latest", b"{}", "application/json")  # the tag has moved on
        provision = await provisioner.provision(new_id(), name, scratch=tmp_path / "s")
        assert provision.identity.digest == pulled.digest
        assert (await provisioner.inspect(name)).origin == digest


async def test_a_damaged_record_is_made_anew_with_its_origin(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        digest = serve(registry, IMAGE)
        pulled = await provisioner.pull(f"{registry.host}/a/b")
        (record,) = (provisioner.store.root / "images").glob("*.json")
        record.write_text("{")
        assert provisioner.store.catalogue.image(pulled.digest) is None
        await provisioner.recover([])
        mended = provisioner.store.catalogue.image(pulled.digest)
        assert mended is not None and mended.origin == digest


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
async def test_it_travels_as_an_image_of_today(tmp_path: Path, form: Any) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        name = f"{registry.host}/a/b:latest"
        pulled = await provisioner.pull(name)
        assert await provisioner.push(name, f"{registry.host}/a/new:1") == pulled.digest
        assert registry.manifests["a/new", "1"][1] == mediatypes.OCI_MANIFEST
        archive = tmp_path / "archive.tar"
        with archive.open("wb") as target:
            await provisioner.save([name], target.fileno(), form=form)
        (tmp_path / "elsewhere").mkdir()
        async with opened(tmp_path / "elsewhere") as elsewhere:
            assert (await elsewhere.pull(f"{registry.host}/a/new:1")).digest == pulled.digest
            (loaded,) = await elsewhere.load(archive)
            assert [layer.diff_id for layer in loaded.layers] == DIFF_IDS
            assert loaded.origin is None
            await elsewhere.provision(new_id(), loaded.digest, scratch=tmp_path / "s")


async def test_pulled_for_all_platforms_it_is_the_one_it_is(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        (pulled,) = await provisioner.pull_all(f"{registry.host}/a/b")
        assert pulled.platform == "linux/amd64"


async def test_an_image_for_another_platform_is_told_before_its_layers_come(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE, document_of(IMAGE, architecture="arm64"))
        with pytest.raises(NotFound, match=r"is an image for linux/arm64"):
            await provisioner.pull(f"{registry.host}/a/b")
        assert not registry.paths("/blobs/")
        pulled = await provisioner.pull(f"{registry.host}/a/b", platform="linux/arm64")
        assert pulled.platform == "linux/arm64"


def ranges_of_unknown_length() -> Fault:
    """The byte that is asked for, and not how many there are."""
    return change(lambda answer: Answer(206, {"Content-Range": "bytes 0-0/*"}, answer.body[:1]))


# --- listed in an index -------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", TYPES)
async def test_an_entry_of_a_list_is_refused_in_words_where_policy_does_not_allow_it(
    tmp_path: Path, media_type: str
) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path) as provisioner:
        digest = serve(registry, IMAGE, media_type=media_type)
        serve_list(registry, (media_type, digest, "amd64", len(PAYLOAD)))
        with pytest.raises(Unsupported, match=r"a/b:list for linux/amd64 is in docker's schema 1"):
            await provisioner.pull(f"{registry.host}/a/b:list")
        assert registry.paths() == ["/v2/a/b/manifests/list"]
        assert nothing_left(provisioner)


@pytest.mark.parametrize("media_type", TYPES)
async def test_an_entry_of_a_list_is_taken_where_policy_allows_it(tmp_path: Path, media_type: str) -> None:
    """distribution's "manifest-v2-2.md": entries may be of schema 1."""
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        digest = serve(registry, IMAGE, {**DOCUMENT, "tag": "amd64"}, media_type)
        index = serve_list(registry, (media_type, digest, "amd64", 12345))
        name = f"{registry.host}/a/b:list"
        pulled = await provisioner.pull(name)
        assert [layer.diff_id for layer in pulled.layers] == DIFF_IDS
        assert pulled.origin == digest
        (ref,) = provisioner.store.catalogue.refs()
        assert (ref.digest, ref.top) == (pulled.digest, index)
        await provisioner.provision(new_id(), name, scratch=tmp_path / "s")
        registry.seen.clear()
        assert (await provisioner.pull(name)).digest == pulled.digest
        (only,) = registry.seen
        assert only.headers["if-none-match"] == f'"{index}"'
        pinned = await provisioner.pull(f"{registry.host}/a/b@{index}")
        assert pinned.digest == pulled.digest
        (whole,) = await provisioner.pull_all(name)
        assert whole.digest == pulled.digest
        await provisioner.prune()
        assert (await provisioner.verify(name)).sound
        (record,) = (provisioner.store.root / "images").glob("*.json")
        record.write_text("{")
        assert provisioner.store.catalogue.image(pulled.digest) is None
        await provisioner.recover([])
        mended = provisioner.store.catalogue.image(pulled.digest)
        assert mended is not None and mended.origin == digest


async def test_an_entry_of_today_is_taken_before_one_of_schema_1(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        old = serve(registry, IMAGE)
        registry.add(IMAGE, "a/b", "new")
        serve_list(
            registry,
            (mediatypes.DOCKER_SCHEMA1, old, "amd64", len(PAYLOAD)),
            (IMAGE.media_type, IMAGE.digest, "amd64", len(IMAGE.manifest)),
        )
        pulled = await provisioner.pull(f"{registry.host}/a/b:list")
        assert (pulled.digest, pulled.origin) == (IMAGE.digest, None)


@pytest.mark.parametrize("lie", ["another manifest", "of today", "another repository's"])
async def test_G02_what_an_index_lists_has_to_be_what_it_says(tmp_path: Path, lie: str) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        document = {**DOCUMENT, "name": "a/other"} if lie == "another repository's" else DOCUMENT
        digest = serve(registry, IMAGE, document)
        if lie == "another manifest":
            registry.manifests["a/b", digest] = (signed(payload_of({**DOCUMENT, "tag": "x"})), TYPES[1])
        if lie == "of today":
            digest = IMAGE.digest
            registry.add(IMAGE, "a/b", "new")
        serve_list(registry, (mediatypes.DOCKER_SCHEMA1_SIGNED, digest, "amd64", len(PAYLOAD)))
        with pytest.raises(Corrupt):
            await provisioner.pull(f"{registry.host}/a/b:list")
        assert not registry.paths("/blobs/")
        assert nothing_left(provisioner)


# --- hostile ------------------------------------------------------------------------------------------------

HOSTILE: dict[str, tuple[dict[str, Any], bytes | None, str]] = {
    "another repository's": ({**DOCUMENT, "name": "a/other"}, None, "manifest of a/other:latest"),
    "another tag's": ({**DOCUMENT, "tag": "1"}, None, "manifest of a/b:1"),
    "another payload": (DOCUMENT, signed(payload_of({**DOCUMENT, "tag": "1"})), "has other content"),
    "more than is signed": (DOCUMENT, signed(PAYLOAD).replace(b'"tag"', b'"x": 1, "tag"'), "JSON|sign"),
    "a key twice": (DOCUMENT, signed(PAYLOAD).replace(b'"tag"', b'"tag": "x", "tag"'), "twice"),
    "layers of another": ({**DOCUMENT, "fsLayers": DOCUMENT["fsLayers"][1:]}, None, "ambiguous"),
    "a bad step": ({**DOCUMENT, "history": [{"v1Compatibility": "{]"}] * 2}, None, "not JSON"),
    "a bad configuration": (changed_step(DOCUMENT, 0, config={"Env": ["x"]}), None, "Env"),
}  # fmt: skip


@pytest.mark.parametrize("lie", HOSTILE)
async def test_G02_hostile_manifests_are_refused_before_anything_is_fetched(tmp_path: Path, lie: str) -> None:
    document, sent, why = HOSTILE[lie]
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE, document, sent=sent)
        with pytest.raises(Corrupt, match=why) as refused:
            await provisioner.pull(f"{registry.host}/a/b:latest")
        assert "\n" not in str(refused.value)
        assert not registry.paths("/blobs/")
        assert nothing_left(provisioner)


async def test_G01_a_pin_is_the_payloads_digest_and_no_other(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        other = payload_of({**DOCUMENT, "tag": "other"})
        for pin in (sha256(other), sha256(signed(PAYLOAD))):
            registry.manifests["a/b", pin] = (signed(PAYLOAD), mediatypes.DOCKER_SCHEMA1_SIGNED)
            with pytest.raises(Corrupt, match="has other content"):
                await provisioner.pull(f"{registry.host}/a/b@{pin}")
        registry.serve_manifest("a/b", sha256(other), signed(other), mediatypes.DOCKER_SCHEMA1_SIGNED)
        registry.manifests["a/b", sha256(other)] = (signed(other), mediatypes.DOCKER_SCHEMA1_SIGNED)
        registry.always(sha256(other), headers(Docker_Content_Digest=sha256(other)))
        assert (await provisioner.pull(f"{registry.host}/a/b@{sha256(other)}")).origin == sha256(other)


async def test_G01_a_layer_that_is_not_what_the_manifest_names_is_refused(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        registry.blobs[sha256(IMAGE.layers[1])] = IMAGE.layers[0]
        with pytest.raises(Corrupt, match=sha256(IMAGE.layers[1])):
            await provisioner.pull(f"{registry.host}/a/b")
        assert list(provisioner.store.catalogue.images()) == []
        assert list(provisioner.store.layers.list()) == []


@pytest.mark.parametrize(
    ("length", "error"),
    [
        ("1", Corrupt),
        ("4096", MesocosmError),
        (str(1 << 61), Exhausted),
    ],
    ids=["less", "more", "absurd"],
)
async def test_G06_a_registry_that_lies_about_a_layers_size_gains_nothing(
    tmp_path: Path, length: str, error: type[MesocosmError]
) -> None:
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        blob = sha256(IMAGE.layers[0])
        registry.on(blob, status(200, {"Content-Length": length}))  # the first request for it, by HEAD
        with pytest.raises(error):
            await provisioner.pull(f"{registry.host}/a/b")
        assert registry.seen[-1].path
        assert list(provisioner.store.catalogue.images()) == []


UNTOLD: dict[str, tuple[Fault, ...]] = {
    "no length by HEAD": (for_method("HEAD", tells_nothing()),),
    "no HEAD at all": (for_method("HEAD", status(405)),),
    "not found by HEAD": (for_method("HEAD", status(404)),),
    "no length and no ranges": (for_method("HEAD", tells_nothing()), ranges_of_unknown_length()),
    "no length at all": (tells_nothing(),),
    "no length at all, dropped": (tells_nothing(), tells_nothing(), truncate(100), tells_nothing()),
}


@pytest.mark.parametrize("way", UNTOLD)
async def test_sizes_that_a_registry_does_not_tell_are_found_another_way(tmp_path: Path, way: str) -> None:
    """By a range of one byte; else by the blob itself, which then has not to be fetched again."""
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        blob = sha256(IMAGE.layers[0])
        if len(UNTOLD[way]) > 1:
            registry.on(blob, *UNTOLD[way])
        else:
            registry.always(blob, *UNTOLD[way])
        pulled = await provisioner.pull(f"{registry.host}/a/b")
        assert [layer.diff_id for layer in pulled.layers] == DIFF_IDS
        assert pulled.layers[0].size == len(IMAGE.layers[0])
        asked = [(one.method, one.headers.get("range")) for one in registry.seen if blob in one.path]
        assert asked[:2] == [("HEAD", None), ("GET", "bytes=0-0")]


async def test_G06_a_layer_of_untold_size_ends_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_schema1, "DEFAULT_LIMITS", StreamLimits(stream=1 << 20))
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, IMAGE)
        registry.on(sha256(IMAGE.layers[0]), tells_nothing())  # HEAD
        registry.always(sha256(IMAGE.layers[0]), endless())
        with pytest.raises(Exhausted, match="larger than the 1048576 bytes"):
            await provisioner.pull(f"{registry.host}/a/b")
        assert list(provisioner.store.catalogue.images()) == []
        assert not list((provisioner.store.root / "ingest").iterdir())


async def test_an_interrupted_pull_goes_on_where_it_stopped(tmp_path: Path) -> None:
    large = image_of([BASE, [file(b"large", os.urandom(3 << 20))]])
    async with MaliciousRegistry() as registry:
        serve(registry, large)
        blob = sha256(large.layers[1])
        async with opened(tmp_path, ALLOWED) as provisioner:
            registry.always(blob, half_then_nothing())
            with pytest.raises(MesocosmError):
                await provisioner.pull(f"{registry.host}/a/b")
        registry._always = [one for one in registry._always if one[0] != blob]
        registry.seen.clear()
        async with opened(tmp_path, ALLOWED) as provisioner:
            await provisioner.pull(f"{registry.host}/a/b")
        (fetched,) = [one for one in registry.seen if blob in one.path and one.method == "GET"]
        assert fetched.headers["range"].startswith("bytes=")


def half_then_nothing() -> Any:
    """Half of a blob, and then not even that."""
    half, gone = truncate(1 << 20), status(403)
    given: list[bool] = []

    async def fault(request: Any, answer: Any) -> Any:
        if request.method == "HEAD":
            return await change(lambda one: one)(request, answer)
        given.append(True)
        return await (half if len(given) == 1 else gone)(request, answer)

    return fault


async def test_an_archive_within_the_limits_of_any_layer(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", mtime=0) as packed:
        for _ in range(80):
            packed.write(bytes(1 << 20))
    image = SmallImage(IMAGE.manifest, IMAGE.config, (bomb.getvalue(),))
    async with MaliciousRegistry() as registry, opened(tmp_path, ALLOWED) as provisioner:
        serve(registry, image)
        with pytest.raises(Exhausted):
            await provisioner.pull(f"{registry.host}/a/b")
        assert list(provisioner.store.layers.list()) == []


# --- a real registry, and what skopeo makes -----------------------------------------------------------------


@pytest.fixture(scope="module")
def old(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image in schema 1, as skopeo signs it, in docker's registry; its name there."""
    layout = write_layout(IMAGE, tmp_path_factory.mktemp("old") / "layout")
    return registry.push(Layout(layout, "latest"), "old/app:1", "--format", "v2s1")


def digest_there(name: str) -> str:
    """What the registry calls it."""
    host, _, path = name.partition("/")
    repository, _, tag = path.partition(":")
    request = urllib.request.Request(
        f"http://{host}/v2/{repository}/manifests/{tag}",
        headers={"Accept": mediatypes.DOCKER_SCHEMA1_SIGNED},
        method="HEAD",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Content-Type"] == mediatypes.DOCKER_SCHEMA1_SIGNED
        return str(answer.headers["Docker-Content-Digest"])


async def test_a_real_registrys_image_is_pulled_pinned_and_pushed(
    tmp_path: Path, registry: Registry, old: str
) -> None:
    digest = await asyncio.to_thread(digest_there, old)
    async with opened(tmp_path, ALLOWED) as provisioner:
        pulled = await provisioner.pull(old)
        assert pulled.origin == digest
        assert [layer.diff_id for layer in pulled.layers] == DIFF_IDS
        before = len(await asyncio.to_thread(registry.requests))
        assert (await provisioner.pull(old)).digest == pulled.digest
        asked = (await asyncio.to_thread(registry.requests))[before:]
        assert asked == ["GET /v2/old/app/manifests/1"]
        pinned = f"{old.rpartition(':')[0]}@{digest}"
        assert (await provisioner.pull(pinned)).digest == pulled.digest
        provision = await provisioner.provision(new_id(), pinned, scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as root:
            assert sorted(path.name for path in root.iterdir()) == ["base", "top"]
        assert await provisioner.push(old, f"{registry.host}/new/app:1") == pulled.digest
        (tmp_path / "elsewhere").mkdir()
        async with opened(tmp_path / "elsewhere") as elsewhere:
            assert (await elsewhere.pull(f"{registry.host}/new/app:1")).digest == pulled.digest


async def test_a_real_registry_gives_what_is_of_today_where_schema_1_is_allowed(
    tmp_path: Path, registry: Registry
) -> None:
    layout = await asyncio.to_thread(write_layout, IMAGE, tmp_path / "layout")
    name = await asyncio.to_thread(registry.push, Layout(layout, "latest"), "new/today:1", "--format", "v2s2")
    async with opened(tmp_path, ALLOWED) as provisioner:
        assert (await provisioner.pull(name)).origin is None


async def test_a_real_registry_is_refused_where_policy_does_not_allow_it(tmp_path: Path, old: str) -> None:
    async with opened(tmp_path) as provisioner:
        with pytest.raises(Unsupported, match="schema 1"):
            await provisioner.pull(old)
        assert nothing_left(provisioner)
