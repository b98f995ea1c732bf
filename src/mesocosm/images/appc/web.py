"""App Container images found by their names, and fetched into the blob store."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted, MesocosmError, NotFound
from mesocosm.images.appc.discovery import IMAGE, SIGNATURE, Discovery, filled
from mesocosm.images.appc.manifest import Dependency, read_manifest
from mesocosm.images.appc.source import Aci, described, is_image
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import shown
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.platform import Platform
from mesocosm.images.progress import Report, silent
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.transfer import in_thread
from mesocosm.images.trust.signed_part import Part
from mesocosm.images.trust.signed_statement import LIMIT
from mesocosm.images.unnamed import arriving
from mesocosm.images.web import Web

LATEST: Final = "latest"
"""The version of a name that says none (appc spec, "Simple Discovery")."""

_ARCH: Final = {
    ("386", ""): "i386",
    ("arm64", ""): "aarch64",
    ("arm64", "v8"): "aarch64",
    ("arm", "v6"): "armv6l",
    ("arm", "v7"): "armv7l",
}


class _Fetched(msgspec.Struct, frozen=True):
    """An image as it was asked for, where it was found, and what it can be asked for again by."""

    name: str
    labels: dict[str, str]
    url: str
    validator: str | None


class Discovered:
    """The images of one discovery: each name is looked for once."""

    def __init__(
        self,
        web: Web,
        hosts: HostsConfig | None,
        blobs: BlobStore,
        platform: Platform,
        report: Report = silent,
    ) -> None:
        """``report`` is told of the images that are fetched."""
        self._web = web
        self._discovery = Discovery(web, hosts)
        self._blobs = blobs
        self._platform = platform
        self._report = report
        self._known: dict[tuple[str, tuple[tuple[str, str], ...]], Aci] = {}
        self._fetched: list[_Fetched] = []

    @property
    def etag(self) -> str | None:
        """What `unchanged` can be asked with later; None where a server gave no validator."""
        if any(one.validator is None for one in self._fetched):
            return None
        return msgspec.json.encode(self._fetched).decode()

    async def unchanged(self, etag: str) -> bool:
        """Whether every image that an earlier discovery fetched is still found at its address, and the same
        there: one conditional request for each, and those that find it.
        """
        try:
            fetched = msgspec.json.decode(etag, type=list[_Fetched])
        except (msgspec.MsgspecError, UnicodeError):
            return False
        for one in fetched:
            if one.validator is None or not await self._leads_to(one):
                return False
            what = f"image {one.url}"
            if not await self._web.unchanged(one.url, one.validator, what=what):
                return False
        return bool(fetched)

    async def _leads_to(self, known: _Fetched) -> bool:
        """Whether discovery comes to the same address as before."""
        values = {**self._defaults(), **known.labels, "name": known.name, "ext": IMAGE}
        simple = filled(self._discovery.simple(known.name), values)
        if known.url == simple:
            return True
        if simple is not None:
            with contextlib.suppress(NotFound):
                await self._web.read(simple, most=LIMIT, what=f"image {simple}")
                return False
        urls = [filled(template, values) for template in await self._discovery.meta(known.name)]
        return next(filter(None, urls), None) == known.url

    async def find(self, dependency: Dependency, dependent: Aci) -> Aci:
        """As `Source.find`."""
        try:
            aci = await self.get(dependency.name, dict(dependency.labels))
        except NotFound as error:
            raise NotFound(
                f"{dependent.name} depends on {described(dependency)}: {error.message}", hint=error.hint
            ) from error
        if not await in_thread(is_image, aci.path, dependency.image_id):
            wanted = shown(dependency.image_id, 80)
            raise Corrupt(f"{aci.name} is not the image {wanted} that {dependent.name} depends on")
        return aci

    async def get(self, name: str, labels: Mapping[str, str]) -> Aci:
        """Return an image, fetched.  Raises NotFound, Corrupt when it is another one, and as `Web.fetch`."""
        key = (name, tuple(sorted(labels.items())))
        if key not in self._known:
            self._known[key] = await self._get(name, labels)
        return self._known[key]

    async def signed(self, aci: Aci) -> Part:
        """As `Source.signed`."""
        signature: bytes | None = None
        offered: tuple[str, ...] = ()
        with contextlib.suppress(NotFound):
            signature = await self._web.read(aci.signature, most=LIMIT, what=f"signature {aci.signature}")
        with contextlib.suppress(MesocosmError):
            offered = await self._discovery.keys((await in_thread(read_manifest, aci.path)).name)
        return Part(aci.name, aci.path, signature, offered)

    async def _get(self, name: str, labels: Mapping[str, str]) -> Aci:
        values = {**self._defaults(), **labels, "name": name}
        failure: NotFound | Corrupt = NotFound(
            f"no App Container image {shown(name, 120)}:{shown(values['version'], 60)} was discovered",
            hint="neither its address nor its pages (ac-discovery) lead to one",
        )
        try:
            return await self._fetch(self._discovery.simple(name), values, labels)
        except NotFound:
            pass
        except Corrupt as error:  # some sites have a page for whatever is asked for
            failure = error
        for template in await self._discovery.meta(name):
            with contextlib.suppress(NotFound):
                return await self._fetch(template, values, labels)
        raise failure

    async def _fetch(self, template: str, values: Mapping[str, str], labels: Mapping[str, str]) -> Aci:
        url = filled(template, {**values, "ext": IMAGE})
        if url is None:
            raise NotFound(f"{shown(template, 120)} asks for labels that the image does not have")
        with arriving(self._blobs, url) as blob:
            came = await self._web.fetch(
                url, blob, most=DEFAULT_LIMITS.stream, what=f"image {url}", report=self._report
            )
            digest: Digest = await in_thread(blob.publish)
        validator = came.validator if came else None
        self._fetched.append(_Fetched(values["name"], dict(labels), url, validator))
        path = self._blobs.path(digest)
        try:
            manifest = await in_thread(read_manifest, path)
        except (Corrupt, Exhausted) as error:
            raise type(error)(error.message.replace(str(path), url), hint=error.hint) from error
        wrong = [f"{key}={value}" for key, value in labels.items() if manifest.labels.get(key) != value]
        if manifest.name != values["name"] or wrong:
            asked = " ".join([values["name"], *wrong])
            raise Corrupt(f"{url} is the image {shown(manifest.name, 120)}, not {shown(asked, 200)}")
        signature = filled(template, {**values, "ext": SIGNATURE}) if "{ext}" in template else f"{url}.asc"
        return Aci(url, path, signature or "")

    def _defaults(self) -> dict[str, str]:
        platform = self._platform
        arch = _ARCH.get((platform.architecture, platform.variant), platform.architecture)
        return {"version": LATEST, "os": platform.os, "arch": arch}
