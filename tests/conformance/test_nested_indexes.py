"""Indexes that list indexes: chosen through them by platform, whether they name one or not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from malicious_registry import MaliciousRegistry
from mesocosm.errors import Corrupt, Exhausted, NotFound
from mesocosm.images.stores.resolve import DEPTH, LOOKED_INTO
from provisions import image_of, opened
from registry_fixtures import OCI_INDEX, OCI_MANIFEST, SmallImage, sha256
from tarballs import file

IMAGES = {one: image_of([[file(b"is", one.encode())]], architecture=one) for one in ("amd64", "arm64")}


def described(data: bytes, kind: str, architecture: str = "") -> dict[str, object]:
    """A descriptor, of a platform or of none."""
    one: dict[str, object] = {"mediaType": kind, "digest": sha256(data), "size": len(data)}
    return one | ({"platform": {"os": "linux", "architecture": architecture}} if architecture else {})


def index(*entries: dict[str, object]) -> bytes:
    """An index of these."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def of_image(architecture: str) -> dict[str, object]:
    """The descriptor of an image, with its platform."""
    return described(IMAGES[architecture].manifest, OCI_MANIFEST, architecture)


INNER = {one: index(of_image(one)) for one in IMAGES}


@asynccontextmanager
async def served(top: bytes, *others: bytes) -> AsyncIterator[tuple[MaliciousRegistry, str]]:
    """A registry with both images, these indexes, and ``top`` under the name."""
    async with MaliciousRegistry() as registry:
        for image in IMAGES.values():
            registry.add(image, "a/b", "image")
        for one in others:
            registry.serve_manifest("a/b", sha256(one), one, OCI_INDEX)
        registry.serve_manifest("a/b", "latest", top, OCI_INDEX)
        yield registry, f"{registry.host}/a/b"


async def test_what_is_in_them_is_found_by_platform(tmp_path: Path) -> None:
    deep = index(described(INNER["arm64"], OCI_INDEX))
    top = index(described(INNER["amd64"], OCI_INDEX), described(deep, OCI_INDEX))
    async with served(top, deep, *INNER.values()) as (_, name), opened(tmp_path) as provisioner:
        for architecture, image in IMAGES.items():
            found = await provisioner.pull(name, platform=f"linux/{architecture}")
            assert found.digest == image.digest
        with pytest.raises(NotFound, match="no image for linux/riscv64") as refusal:
            await provisioner.pull(name, platform="linux/riscv64")
        assert refusal.value.hint is not None and "linux/amd64, linux/arm64" in refusal.value.hint
        assert {one.digest for one in await provisioner.pull_all(name)} == {
            image.digest for image in IMAGES.values()
        }


async def test_a_pin_may_name_any_document_that_was_passed(tmp_path: Path) -> None:
    top = index(*(described(one, OCI_INDEX) for one in INNER.values()))
    async with served(top, *INNER.values()) as (registry, name), opened(tmp_path) as provisioner:
        for passed in (top, INNER["amd64"], IMAGES["amd64"].manifest):
            found = await provisioner.pull(f"{name}@{sha256(passed)}", platform="linux/amd64")
            assert found.digest == IMAGES["amd64"].digest
        registry.serve_manifest("a/b", sha256(INNER["amd64"]), INNER["arm64"], OCI_INDEX)
        with pytest.raises(Corrupt):
            await provisioner.pull(f"{name}@{sha256(INNER['amd64'])}", platform="linux/arm64")


async def test_they_are_not_looked_into_where_a_platform_is_named(tmp_path: Path) -> None:
    """Whatever else an index lists, and is not there, takes nothing from the image."""
    gone = index(of_image("arm64"), of_image("amd64"))
    top = index(described(gone, OCI_INDEX), of_image("amd64"), described(INNER["arm64"], OCI_INDEX))
    async with served(top) as (registry, name), opened(tmp_path) as provisioner:
        found = await provisioner.pull(name, platform="linux/amd64")
        assert found.digest == IMAGES["amd64"].digest
        assert not registry.paths(sha256(gone))


def nested(levels: int, image: SmallImage = IMAGES["amd64"]) -> list[bytes]:
    """Indexes in each other, the innermost first, each beside one more that leads nowhere."""
    made = [index(described(image.manifest, OCI_MANIFEST, "amd64"))]
    while len(made) < levels:
        made.append(index(described(INNER["arm64"], OCI_INDEX), described(made[-1], OCI_INDEX)))
    return made


async def test_their_depth_is_bounded(tmp_path: Path) -> None:
    for levels in (DEPTH, DEPTH + 1):
        made = nested(levels)
        async with served(made[-1], INNER["arm64"], *made) as (_, name), opened(tmp_path) as provisioner:
            if levels == DEPTH:
                assert (await provisioner.pull(name, platform="amd64")).digest == IMAGES["amd64"].digest
            else:
                with pytest.raises(Exhausted, match="nests more than"):
                    await provisioner.pull(name, platform="amd64")


async def test_their_number_is_bounded(tmp_path: Path) -> None:
    for count in (LOOKED_INTO, LOOKED_INTO + 1):
        others = [index({**of_image("arm64"), "annotations": {"n": str(n)}}) for n in range(count - 1)]
        made = [*others, INNER["amd64"]]
        top = index(*(described(one, OCI_INDEX) for one in made))
        async with served(top, *made) as (registry, name), opened(tmp_path) as provisioner:
            if count == LOOKED_INTO:
                assert (await provisioner.pull(name, platform="amd64")).digest == IMAGES["amd64"].digest
            else:
                with pytest.raises(Exhausted, match="beside each other"):
                    await provisioner.pull(name, platform="amd64")
            assert len(registry.paths("/manifests/")) <= LOOKED_INTO + 2
