"""Our own stores, and the one of docs/stores.md, held to the suite that is shipped for those of others."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from fixtures.registry import Registry
from mesocosm.errors import Corrupt
from mesocosm.images.conformance import StoreConformance
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.reference import Reference
from mesocosm.images.stores.appc import AppcStore
from mesocosm.images.stores.base import Document, Found, fetching
from mesocosm.images.stores.docker import RegistryStore
from mesocosm.images.stores.docker_archive import DockerArchiveStore
from mesocosm.images.stores.oci import OciStore
from mesocosm.images.stores.tarball import TarballStore
from provisions import docker_archive, image_of, legacy_archive, pack
from registry_fixtures import SmallImage, skopeo_copy, write_layout
from tarballs import archive, directory, file
from thirdparty import acme_images  # the file that docs/stores.md shows


def layered(word: bytes) -> SmallImage:
    """An image of two layers."""
    return image_of([[directory(b"d"), file(b"d/word", word)], [file(b"second", word * 1000)]])


def tarball(path: Path, word: bytes) -> Path:
    """A root as a tar file."""
    path.write_bytes(archive(directory(b"d"), file(b"d/word", word)))
    return path


class TestLayouts(StoreConformance):
    """``oci:``."""

    store = OciStore

    def reference(self) -> str:
        if not (self.folder / "layout").exists():
            write_layout(layered(b"first"), self.folder / "layout")
        return f"oci:{self.folder / 'layout'}"

    def absent(self) -> str:
        return f"oci:{self.folder / 'nothing'}"

    def change(self) -> bool:
        shutil.rmtree(self.folder / "layout")
        write_layout(layered(b"changed"), self.folder / "layout")
        return True


class TestLayoutArchives(StoreConformance):
    """``oci-archive:``."""

    store = OciStore

    def reference(self) -> str:
        self._write(b"first")
        return f"oci-archive:{self.folder / 'layout.tar'}"

    def absent(self) -> str:
        return f"oci-archive:{self.folder / 'nothing.tar'}"

    def change(self) -> bool:
        self._write(b"changed")
        return True

    def _write(self, word: bytes) -> None:
        pack(write_layout(layered(word), self.folder / word.decode()), self.folder / "layout.tar")


class TestSaved(StoreConformance):
    """``docker-archive:``."""

    store = DockerArchiveStore

    def reference(self) -> str:
        return f"docker-archive:{docker_archive(layered(b'first'), self.folder / 'image.tar')}"

    def absent(self) -> str:
        return f"docker-archive:{self.folder / 'nothing.tar'}"

    def change(self) -> bool:
        docker_archive(layered(b"changed"), self.folder / "image.tar")
        return True


class TestSavedLongAgo(TestSaved):
    """``docker-archive:`` in docker's first form."""

    def reference(self) -> str:
        return f"docker-archive:{legacy_archive(layered(b'first'), self.folder / 'image.tar')}"

    def change(self) -> bool:
        legacy_archive(layered(b"changed"), self.folder / "image.tar")
        return True


class TestTarballs(StoreConformance):
    """``tarball:``."""

    store = TarballStore

    def reference(self) -> str:
        return f"tarball:{tarball(self.folder / 'root.tar', b'first')}"

    def absent(self) -> str:
        return f"tarball:{self.folder / 'nothing.tar'}"

    def change(self) -> bool:
        tarball(self.folder / "root.tar", b"changed, and longer")
        return True


class TestAppContainers(StoreConformance):
    """``aci:``, with what it depends on."""

    store = AppcStore

    def reference(self) -> str:
        self._write("base", b"base")
        self._write("app", b"first", dependencies=[{"imageName": "example.com/base"}])
        return f"aci:{self.folder / 'app.aci'}"

    def absent(self) -> str:
        return f"aci:{self.folder / 'nothing.aci'}"

    def change(self) -> bool:
        self._write("base", b"changed")
        return True

    def _write(self, name: str, word: bytes, **manifest: object) -> None:
        described = {
            "acKind": "ImageManifest",
            "acVersion": "0.8.11",
            "name": f"example.com/{name}",
            **manifest,
        }
        members = (file(b"manifest", json.dumps(described).encode()), file(f"rootfs/{name}".encode(), word))
        (self.folder / f"{name}.aci").write_bytes(gzip.compress(archive(*members), mtime=0))


class TestRegistries(StoreConformance):
    """``docker://``, of a real registry."""

    store = RegistryStore

    def setup_method(self) -> None:
        super().setup_method()
        self._registry = Registry(self.folder / "registry").__enter__()

    def teardown_method(self) -> None:
        self._registry.__exit__()
        super().teardown_method()

    def reference(self) -> str:
        return self._push(b"first")

    def absent(self) -> str:
        return f"docker://{self._registry.host}/a/nothing:1"

    def change(self) -> bool:
        self._push(b"changed")
        return True

    def _push(self, word: bytes) -> str:
        layout, name = self.folder / f"layout-{word.decode()}", f"docker://{self._registry.host}/a/b:1"
        if not layout.exists():
            write_layout(layered(word), layout)
        skopeo_copy(f"oci:{layout}:latest", name, "--dest-tls-verify=false")
        return name


class TestThirdParty(StoreConformance):
    """``golden://``."""

    store = acme_images.GoldenStore

    def setup_method(self) -> None:
        super().setup_method()
        self._shelf, acme_images.SHELF = acme_images.SHELF, self.folder

    def teardown_method(self) -> None:
        acme_images.SHELF = self._shelf
        super().teardown_method()

    def reference(self) -> str:
        if not (self.folder / "web.tar").exists():
            tarball(self.folder / "web.tar", b"first")
        return "golden://web"

    def absent(self) -> str:
        return "golden://nothing"

    def change(self) -> bool:
        tarball(self.folder / "web.tar", b"changed, and longer")
        return True


class Golden(acme_images.GoldenStore):
    """The same, to be given a fault: the suite has to find each."""

    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | None:
        return self.spoilt(await super().discover(reference, platform, etag=self.asked(etag), report=report))

    def asked(self, etag: str | None) -> str | None:
        """The ETag that counts."""
        return etag

    def spoilt(self, found: Found | None) -> Found | None:
        """The answer."""
        return found


class AnswersAlways(Golden):
    def asked(self, etag: str | None) -> str | None:
        return None


class NeverNotices(Golden):
    def spoilt(self, found: Found | None) -> Found | None:
        return self.first.setdefault("answer", found)

    first: ClassVar[dict[str, Found | None]] = {}


class IsNeverTheSame(Golden):
    times: ClassVar[Iterator[int]] = itertools.count()

    def spoilt(self, found: Found | None) -> Found | None:
        if found is None:
            return None
        top, data = found.top, found.documents[0].data + b" " * next(self.times)
        other = Document(msgspec.structs.replace(top, digest=Digest.of(data), size=len(data)), data)
        return msgspec.structs.replace(found, documents=(other, *found.documents[1:]))


class LiesAboutItsLayers(Golden):
    def spoilt(self, found: Found | None) -> Found | None:
        if found is None:
            return None
        config = msgspec.structs.replace(found.config, diff_ids=(Digest.of(b"another"),))
        return msgspec.structs.replace(found, config=config)


class LiesAboutItsDocuments(Golden):
    def spoilt(self, found: Found | None) -> Found | None:
        if found is None:
            return None
        lying = Document(found.top, found.documents[0].data + b" ")
        return msgspec.structs.replace(found, documents=(lying, *found.documents[1:]))


class BeginsAnew(Golden):
    def spoilt(self, found: Found | None) -> Found | None:
        if found is None:
            return None
        path = Path(found.source)

        async def opened(descriptor: Descriptor, offset: int) -> AsyncIterator[bytes]:
            del descriptor, offset
            yield path.read_bytes()

        return msgspec.structs.replace(found, fetch=fetching(opened))


class LeavesOpen(Golden):
    files: ClassVar[list[int]] = []

    def spoilt(self, found: Found | None) -> Found | None:
        self.files.append(os.open(acme_images.SHELF / "web.tar", os.O_RDONLY))
        return found


class RaisesAnything(Golden):
    async def discover(
        self, reference: Reference, platform: Platform, *, etag: str | None = None, report: Report = silent
    ) -> Found | None:
        os.stat(acme_images.SHELF / f"{reference.path}.tar")  # noqa: ASYNC240, PTH116
        return await super().discover(reference, platform, etag=etag, report=report)


FAULTS = {
    AnswersAlways: "test_what_has_not_changed_costs_nothing",
    NeverNotices: "test_a_change_is_noticed",
    IsNeverTheSame: "test_asked_again_it_says_the_same",
    LiesAboutItsLayers: "test_layers_are_what_the_documents_say",
    LiesAboutItsDocuments: "test_an_image_is_described_by_its_documents",
    BeginsAnew: "test_a_layer_goes_on_where_it_stopped",
    LeavesOpen: "test_nothing_is_left_open_and_nothing_unfinished",
    RaisesAnything: "test_what_is_not_there_is_not_found_in_one_line",
}


@pytest.mark.parametrize("store", FAULTS)
def test_each_fault_is_found(store: type[Golden]) -> None:
    class Held(TestThirdParty):
        pass

    Held.store = store
    held = Held()
    held.setup_method()
    try:
        with pytest.raises((AssertionError, FileNotFoundError, Corrupt)):
            getattr(held, FAULTS[store])()
    finally:
        held.teardown_method()
        while LeavesOpen.files:
            os.close(LeavesOpen.files.pop())
