"""G-11: a cached private image and who lacks rights to it, with a real registry that wants a password."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import schema1_images
from fixtures import leaks
from fixtures.images import Layout
from fixtures.registry import Registry
from malicious_registry import MaliciousRegistry
from mesocosm.errors import Denied, MesocosmError, NotFound, Unavailable
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.registry.auth import Credential
from provisions import image_of, new_id, paths_of
from registry_fixtures import SmallImage, sha256, write_layout
from tarballs import archive, file

USER, PASSWORD = "someone", "c0rrect-horse"
SECRET = file(b"secret", b"only for some")
PRIVATE = image_of([[file(b"base", b"b")], [SECRET]])
RECHECK = '[[rule]]\nmatch = "127.0.0.1:*/**"\naction = "accept"\nrecheck = true\n'


class Keys:
    """One credential, or none, for every registry."""

    def __init__(self, credential: Credential | None) -> None:
        self._credential = credential

    async def find(self, registry: str, repository: str = "") -> Credential | None:
        return self._credential


ENTITLED, STRANGER = Keys(Credential(USER, PASSWORD)), Keys(None)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants a password, with the private image in it."""
    folder = tmp_path_factory.mktemp("locked")
    with Registry(folder, user=USER, password=PASSWORD) as running:
        leaks.outlives_test(running.pid)
        running.push(Layout(write_layout(PRIVATE, folder / "layout"), "latest"), "private/app:1")
        yield running


@pytest.fixture
def name(locked: Registry) -> str:
    return f"{locked.host}/private/app:1"


@asynccontextmanager
async def asking(folder: Path, who: Keys, rules: str = RECHECK) -> AsyncIterator[Provisioner]:
    """The store below ``folder``, used with somebody's credentials."""
    (folder / "policy.toml").write_text(rules)
    paths = paths_of(folder)
    async with Provisioner.open(paths, policy=folder / "policy.toml", credentials=who) as provisioner:
        yield provisioner
        for owner in provisioner.store.leases.owners("container-"):
            provisioner.store.leases.drop(owner)


async def use(provisioner: Provisioner, text: str, folder: Path, pull: str = "missing") -> str | None:
    """Provision; the digest, or None when it was denied and nothing was leased."""
    try:
        provision = await provisioner.provision(new_id(), text, pull=pull, scratch=folder / "s")
    except Denied as error:
        assert "\n" not in str(error) and error.hint
        assert provisioner.store.leases.owners() == []
        return None
    return provision.identity.digest


@pytest.mark.parametrize("pull", ["missing", "never", "always", "newer"])
async def test_g11_a_cached_image_is_for_those_whom_its_registry_gives_it(
    name: str, pull: str, tmp_path: Path
) -> None:
    async with asking(tmp_path, ENTITLED) as entitled:
        assert await use(entitled, name, tmp_path) == PRIVATE.digest
        assert await use(entitled, name, tmp_path, pull) == PRIVATE.digest
        assert await use(entitled, PRIVATE.digest, tmp_path) == PRIVATE.digest
    async with asking(tmp_path, STRANGER) as stranger:
        assert await use(stranger, name, tmp_path, pull) is None
        assert await use(stranger, PRIVATE.digest, tmp_path) is None
        with pytest.raises(Denied, match="does not give it to these credentials"):
            await stranger.provision(new_id(), name, scratch=tmp_path / "s")
    async with asking(tmp_path, STRANGER, "") as unasked:
        assert (await use(unasked, name, tmp_path)) == PRIVATE.digest  # no rule: one cache for all


async def test_g11_nor_does_it_leave_by_another_door(name: str, tmp_path: Path) -> None:
    async with asking(tmp_path, ENTITLED) as entitled:
        await entitled.pull(name)
        await entitled.tag(name, "example.org/mine:1")
    target = tmp_path / "saved.tar"
    async with asking(tmp_path, STRANGER) as stranger:
        for text in (name, "example.org/mine:1", PRIVATE.digest):
            with open(target, "wb") as file_, pytest.raises(Denied):
                await stranger.save([text], file_.fileno())
            with pytest.raises(Denied):
                await stranger.push(text, "127.0.0.1:1/elsewhere:1")
            with pytest.raises(Denied):
                await stranger.convert(text, None, "zstd")
        with pytest.raises(Denied):
            await stranger.pull(name, policy="missing")
    assert target.stat().st_size == 0
    async with asking(tmp_path, ENTITLED) as entitled:
        with open(target, "wb") as file_:
            await entitled.save([name], file_.fileno())
    assert target.stat().st_size > 0


async def test_g11_without_an_answer_it_is_not_used(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry, asking(tmp_path, STRANGER) as provisioner:
        registry.add(PRIVATE, "a/b", "latest")
        text = f"{registry.host}/a/b"
        assert await use(provisioner, text, tmp_path) == PRIVATE.digest
    async with asking(tmp_path, STRANGER) as provisioner:
        with pytest.raises(Unavailable, match="may not be used unasked"):
            await provisioner.provision(new_id(), text, pull="never", scratch=tmp_path / "s")
    async with asking(tmp_path, STRANGER, "") as provisioner:
        assert await use(provisioner, text, tmp_path, "never") == PRIVATE.digest


def claiming(image: SmallImage, layers: bool) -> SmallImage:
    """Another image that names the private one's layers (or has them by their diff IDs alone)."""
    manifest, config = json.loads(image.manifest), json.loads(image.config)
    config["config"] = {"Cmd": ["/mine"]}
    if not layers:
        own = image_of([[file(b"mine", b"m")], [file(b"mine", b"n")]])
        manifest["layers"] = json.loads(own.manifest)["layers"]
        image = own
    data = json.dumps(config).encode()
    manifest["config"] |= {"digest": sha256(data), "size": len(data)}
    return SmallImage(json.dumps(manifest).encode(), data, image.layers)


@pytest.mark.parametrize("way", ["digest", "diff-id", "archive"])
async def test_g11_a_manifest_of_ones_own_does_not_reach_anothers_layers(
    name: str, way: str, tmp_path: Path
) -> None:
    """Whoever knows a digest can write a manifest that names it; bytes have to come from its own source."""
    claim = claiming(PRIVATE, layers=way != "diff-id")
    everything = f"recheck = true\n{RECHECK}"
    async with MaliciousRegistry() as registry:
        registry.add(claim, "evil/app", "latest")
        text = f"{registry.host}/evil/app"
        if way != "diff-id":
            for digest in map(sha256, PRIVATE.layers):
                del registry.blobs[digest]
        if way == "archive":
            layout = write_layout(claim, tmp_path / "layout")
            for digest in map(sha256, PRIVATE.layers):
                (layout / "blobs/sha256" / digest.partition(":")[2]).unlink()
            text = f"oci:{layout}"
        async with asking(tmp_path, ENTITLED, everything) as entitled:
            await entitled.pull(name)
        async with asking(tmp_path, STRANGER, everything) as stranger:
            with pytest.raises(MesocosmError):
                await stranger.provision(new_id(), text, scratch=tmp_path / "s")
            assert [image.digest for image in await stranger.images()] == [PRIVATE.digest]
            assert not [one for one in (tmp_path / "state/images/ingest").iterdir() if one.is_dir()]


@pytest.mark.parametrize("served", [False, True])
async def test_g11_nor_anothers_configuration(name: str, served: bool, tmp_path: Path) -> None:
    """Its environment may hold what is not for all; whoever can give it may name it."""
    manifest = json.loads(PRIVATE.manifest) | {"annotations": {"a": "b"}}
    claim = SmallImage(json.dumps(manifest).encode(), PRIVATE.config, PRIVATE.layers)
    async with MaliciousRegistry() as registry:
        registry.add(claim, "evil/app", "latest")
        if not served:
            del registry.blobs[sha256(PRIVATE.config)]
        text = f"{registry.host}/evil/app"
        async with asking(tmp_path, ENTITLED) as entitled:
            await entitled.pull(name)
        async with asking(tmp_path, STRANGER) as stranger:
            if served:
                assert await use(stranger, text, tmp_path) == claim.digest
                return
            with pytest.raises(MesocosmError):
                await stranger.provision(new_id(), text, scratch=tmp_path / "s")
            assert [image.digest for image in await stranger.images()] == [PRIVATE.digest]


async def test_g11_shared_layers_that_the_source_has_are_no_obstacle(name: str, tmp_path: Path) -> None:
    shared = claiming(PRIVATE, layers=True)
    async with MaliciousRegistry() as registry, asking(tmp_path, ENTITLED) as provisioner:
        registry.add(shared, "honest/app", "1")
        registry.add(claiming(shared, layers=True), "honest/app", "2")
        await provisioner.pull(name)
        text = f"{registry.host}/honest/app"
        assert await use(provisioner, f"{text}:1", tmp_path) == shared.digest
        asked = len(registry.paths(sha256(PRIVATE.layers[0])))
        assert asked == 1
        assert await use(provisioner, f"{text}:2", tmp_path) is not None
        assert len(registry.paths(sha256(PRIVATE.layers[0]))) == asked  # the repository has shown it once


async def test_g11_a_manifest_of_schema_1_does_not_reach_anothers_layers(name: str, tmp_path: Path) -> None:
    rules = f'recheck = true\nallow-schema1 = ["127.0.0.1:*/**"]\n{RECHECK}'
    async with MaliciousRegistry() as registry:
        schema1_images.serve(registry, PRIVATE)
        text = f"{registry.host}/a/b"
        for digest in map(sha256, PRIVATE.layers):
            del registry.blobs[digest]
        async with asking(tmp_path, ENTITLED, rules) as entitled:
            await entitled.pull(name)
        async with asking(tmp_path, STRANGER, rules) as stranger:
            with pytest.raises(NotFound):
                await stranger.provision(new_id(), text, scratch=tmp_path / "s")
            assert [image.digest for image in await stranger.images()] == [PRIVATE.digest]


async def test_an_image_in_schema_1_is_received_once_and_asked_for_at_each_start(tmp_path: Path) -> None:
    rules = f'allow-schema1 = ["127.0.0.1:*/**"]\n{RECHECK}'
    async with MaliciousRegistry() as registry:
        digest = schema1_images.serve(registry, PRIVATE)
        async with asking(tmp_path, STRANGER, rules) as provisioner:
            made = await use(provisioner, f"{registry.host}/a/b", tmp_path)
            assert made is not None
            fetched = [one for one in registry.seen if "/blobs/" in one.path and one.method == "GET"]
            assert len(fetched) == len(PRIVATE.layers)
            registry.seen.clear()
            assert await use(provisioner, made, tmp_path) == made
            assert [one.path for one in registry.seen] == [f"/v2/a/b/manifests/{digest}"]
        registry.manifests.clear()
        async with asking(tmp_path, STRANGER, rules) as provisioner:
            assert await use(provisioner, made, tmp_path) is None


async def test_what_no_source_has_is_not_asked_of_it(tmp_path: Path) -> None:
    """The configuration of an image made here of a tarball: there is nobody who could give it."""
    tar = tmp_path / "root.tar"
    tar.write_bytes(archive(SECRET))
    async with asking(tmp_path, STRANGER, "recheck = true\n") as provisioner:
        assert await use(provisioner, f"tarball:{tar}", tmp_path) is not None
