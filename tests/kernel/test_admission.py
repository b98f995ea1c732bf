"""Policy enforced before fetching and before starting; signatures as cosign makes them (G-13)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import schema1_images
from fixtures.admission import KEY, attempt, signature_of, tag_of
from malicious_registry import MaliciousRegistry
from mesocosm.errors import Denied
from mesocosm.images import mediatypes
from mesocosm.images.layers.store import Form
from mesocosm.images.provisioner import Provisioner
from provisions import image_of, new_id, paths_of
from registry_fixtures import SmallImage, write_layout
from tarballs import file

IMAGE = image_of([[file(b"a", b"1")]])
OTHER = image_of([[file(b"a", b"2")]])
STRANGER = ec.generate_private_key(ec.SECP256R1())


def write_policy(folder: Path, rules: str) -> Path:
    """A policy file, and the key it may speak of."""
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pub").write_bytes(public)
    path = folder / "policy.toml"
    path.write_text(rules.replace("KEY", str(folder / "key.pub")))
    return path


SIGNED = 'default = "reject"\n[[rule]]\nmatch = "127.0.0.1:*/a/*"\naction = "signed"\nkeys = ["KEY"]\n'


async def test_signed_images_are_admitted(tmp_path: Path) -> None:
    policy = write_policy(tmp_path, SIGNED)
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        registry.add(signature_of(IMAGE.digest, f"{registry.host}/a/b"), "a/b", tag_of(IMAGE.digest))
        assert await attempt(tmp_path, f"{registry.host}/a/b", policy) == IMAGE.digest
    assert await attempt(tmp_path, f"{registry.host}/a/b", policy) == IMAGE.digest  # asks nobody


async def test_what_was_admitted_is_brought_back_from_here_by_any_name(tmp_path: Path) -> None:
    """By its digest too, judged by the names it has; nobody is asked for what is known."""
    policy = write_policy(tmp_path, SIGNED)
    async with MaliciousRegistry() as registry:
        name = f"{registry.host}/a/b"
        registry.add(IMAGE, "a/b", "latest")
        registry.add(signature_of(IMAGE.digest, name), "a/b", tag_of(IMAGE.digest))
        assert await attempt(tmp_path, name, policy) == IMAGE.digest
        asked = len(registry.seen)
        async with Provisioner.open(paths_of(tmp_path), policy=policy) as provisioner:
            [layer] = provisioner.store.catalogue.require(IMAGE.digest).diff_ids
            for text in (name, IMAGE.digest):
                provisioner.store.layers.condemn(layer, Form.EROFS)
                assert not (await provisioner.verify(text, repair=True)).sound
                assert (await provisioner.verify(text)).sound
            policy.write_text('default = "reject"\n')
            for text in (name, IMAGE.digest):
                provisioner.store.layers.condemn(layer, Form.EROFS)
                with pytest.raises(Denied, match="is rejected by policy"):
                    await provisioner.verify(text, repair=True)
        assert len(registry.seen) == asked


@pytest.mark.parametrize("fault", ["none", "stranger", "digest", "name", "type", "flipped"])
async def test_g13_anything_else_is_not(fault: str, tmp_path: Path) -> None:
    policy = write_policy(tmp_path, SIGNED)
    async with MaliciousRegistry() as registry:
        name = f"{registry.host}/a/b"
        registry.add(IMAGE, "a/b", "latest")
        made = {
            "stranger": signature_of(IMAGE.digest, name, STRANGER),
            "digest": signature_of(OTHER.digest, name),
            "name": signature_of(IMAGE.digest, f"{registry.host}/a/other"),
            "type": signature_of(IMAGE.digest, name, kind="something else"),
            "flipped": signature_of(IMAGE.digest, name),
        }.get(fault)
        if made is not None:
            if fault == "flipped":
                annotation = json.loads(made.manifest)["layers"][0]["annotations"]
                old = annotation["dev.cosignproject.cosign/signature"]
                new = base64.b64encode(base64.b64decode(old)[:-1] + b"\x00").decode()
                made = SmallImage(made.manifest.replace(old.encode(), new.encode()), made.config, made.layers)
            registry.add(made, "a/b", tag_of(IMAGE.digest))
        assert await attempt(tmp_path, name, policy) is None
        assert not list((tmp_path / "state/images/layers").iterdir())


async def test_g13_who_is_rejected_by_name_is_not_asked(tmp_path: Path) -> None:
    """Neither what the name stands for, nor which platforms there are: a registry would see who asks."""
    policy = write_policy(tmp_path, 'default = "reject"')
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        async with Provisioner.open(paths_of(tmp_path), policy=policy) as provisioner:
            for work in (provisioner.pull, provisioner.pull_all):
                with pytest.raises(Denied, match="is rejected by policy"):
                    await work(name)
            with pytest.raises(Denied, match="is rejected by policy"):
                await provisioner.provision(new_id(), name, pull="newer", scratch=tmp_path / "s")
            assert registry.seen == []
            write_policy(tmp_path, 'default = "accept"')
            assert (await provisioner.pull(name)).digest == IMAGE.digest
            assert registry.seen != []


async def test_a_rule_made_later_stops_the_next_start(tmp_path: Path) -> None:
    """Before every start, not only before the fetch: an image that is here is judged by today's policy."""
    layout = f"oci:{write_layout(IMAGE, tmp_path / 'layout')}"
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        assert await attempt(tmp_path, name, tmp_path / "absent") == IMAGE.digest
        assert await attempt(tmp_path, name, write_policy(tmp_path, 'default = "reject"')) is None
        assert await attempt(tmp_path, name, write_policy(tmp_path, SIGNED)) is None
        assert await attempt(tmp_path, IMAGE.digest, write_policy(tmp_path, 'default = "reject"')) is None
        denied = json.loads(IMAGE.config)["rootfs"]["diff_ids"][0]
        for one in (name, layout, IMAGE.digest):
            policy = write_policy(tmp_path, f'deny-layers = ["{denied}"]')
            assert await attempt(tmp_path, one, policy) is None
        assert await attempt(tmp_path, name, write_policy(tmp_path, 'deny-layers = ["sha256:00"]'))


async def test_a_rule_made_later_is_met_by_the_next_pull(tmp_path: Path) -> None:
    """What has not changed is not fetched again, but its signature is looked for where policy now asks."""
    async with MaliciousRegistry() as registry:
        registry.add(IMAGE, "a/b", "latest")
        name = f"{registry.host}/a/b"
        assert await attempt(tmp_path, name, tmp_path / "absent") == IMAGE.digest
        policy = write_policy(tmp_path, SIGNED)
        async with Provisioner.open(paths_of(tmp_path), policy=policy) as provisioner:
            with pytest.raises(Denied, match="is not signed as policy asks"):
                await provisioner.pull(name)
        assert await attempt(tmp_path, name, policy, f"mesocosm pull {name}") is None
        registry.add(signature_of(IMAGE.digest, name), "a/b", tag_of(IMAGE.digest))
        async with Provisioner.open(paths_of(tmp_path), policy=policy) as provisioner:
            await provisioner.pull(name)
            write_policy(tmp_path, 'default = "reject"')
            with pytest.raises(Denied, match=r"rejected by policy \(its default\) \(see .*policy.toml\)"):
                await provisioner.pull(name)
        assert await attempt(tmp_path, name, write_policy(tmp_path, SIGNED)) == IMAGE.digest


async def test_roots_without_layers_are_judged_too(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    policy = write_policy(
        tmp_path, f'default = "reject"\n[[rule]]\nmatch = "dir:{tree}"\naction = "accept"\n'
    )
    async with Provisioner.open(paths_of(tmp_path), policy=policy) as provisioner:
        await provisioner.provision(new_id(), f"dir:{tree}", scratch=tmp_path / "s")
        with pytest.raises(Denied, match="host is rejected"):
            await provisioner.provision(new_id(), "host", scratch=tmp_path / "s")


async def test_a_signature_of_schema_1_speaks_of_its_payload(tmp_path: Path) -> None:
    rules = f'allow-schema1 = ["127.0.0.1:*/**"]\n{SIGNED}'
    async with MaliciousRegistry() as registry:
        digest = schema1_images.serve(registry, IMAGE)
        name = f"{registry.host}/a/b"
        assert await attempt(tmp_path, name, write_policy(tmp_path, rules)) is None
        assert not registry.paths("/blobs/")
        registry.add(signature_of(digest, name, STRANGER), "a/b", tag_of(digest))
        assert await attempt(tmp_path, name, write_policy(tmp_path, rules)) is None
        assert not any((tmp_path / "state/images/blobs/sha256").iterdir())
        registry.add(signature_of(digest, name), "a/b", tag_of(digest))
        made = await attempt(tmp_path, name, write_policy(tmp_path, rules))
        assert made not in (None, digest)
    assert await attempt(tmp_path, name, write_policy(tmp_path, rules)) == made  # asks nobody
    payload = tmp_path / "state/images/blobs/sha256" / digest.removeprefix("sha256:")
    payload.unlink()  # what the signature speaks of: without it nothing shows that it speaks of the image
    assert await attempt(tmp_path, name, write_policy(tmp_path, rules)) is None


async def test_a_signature_of_an_index_speaks_of_the_schema_1_in_it(tmp_path: Path) -> None:
    """Of what the index lists, and of nothing that is made to look like it."""
    rules = f'allow-schema1 = ["127.0.0.1:*/**"]\n{SIGNED}'
    async with MaliciousRegistry() as registry:
        digest = schema1_images.serve(registry, IMAGE)
        index = schema1_images.serve_list(registry, (mediatypes.DOCKER_SCHEMA1, digest, "amd64", 1000))
        name = f"{registry.host}/a/b:list"
        assert await attempt(tmp_path, name, write_policy(tmp_path, rules)) is None
        assert not registry.paths("/blobs/")
        registry.add(signature_of(index, f"{registry.host}/a/b"), "a/b", tag_of(index))
        made = await attempt(tmp_path, name, write_policy(tmp_path, rules))
        assert made not in (None, digest, index)
    assert await attempt(tmp_path, name, write_policy(tmp_path, rules)) == made  # asks nobody
    (tmp_path / "state/images/blobs/sha256" / digest.removeprefix("sha256:")).unlink()
    assert await attempt(tmp_path, name, write_policy(tmp_path, rules)) is None


async def test_g13_a_signed_manifest_of_schema_1_vouches_for_no_other_image(tmp_path: Path) -> None:
    """A record that claims to be made of it is not believed: the image has to follow from it."""
    rules = f'allow-schema1 = ["127.0.0.1:*/**"]\n{SIGNED}'
    async with MaliciousRegistry() as registry:
        digest = schema1_images.serve(registry, IMAGE)
        name = f"{registry.host}/a/b"
        registry.add(signature_of(digest, name), "a/b", tag_of(digest))
        made = await attempt(tmp_path, name, write_policy(tmp_path, rules))
        assert made is not None
        registry.add(OTHER, "a/other", "latest")
        async with Provisioner.open(paths_of(tmp_path), policy=tmp_path / "absent") as provisioner:
            other = await provisioner.pull(f"{registry.host}/a/other")
            catalogue = provisioner.store.catalogue
            record = catalogue.image(other.digest)
            ref = catalogue.ref(f"docker://{name}:latest")
            assert record is not None and ref is not None
            catalogue.add(msgspec.structs.replace(record, origin=digest))
            catalogue.name(msgspec.structs.replace(ref, digest=other.digest))
    proofs = tmp_path / "state/images/signatures"
    proof = proofs / f"{made.removeprefix('sha256:')}.json"
    proof.rename(proofs / f"{other.digest.removeprefix('sha256:')}.json")
    assert await attempt(tmp_path, name, write_policy(tmp_path, rules)) is None
