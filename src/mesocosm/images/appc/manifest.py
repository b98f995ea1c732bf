"""What an App Container image says of itself (appc spec, "Image Manifest Schema")."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted, about
from mesocosm.images.appc.layer import uncompressed
from mesocosm.images.config import GROUPS
from mesocosm.images.foreign import shown
from mesocosm.images.layers.entries import clean_path
from mesocosm.images.limits import DEFAULT_LIMITS
from mesocosm.images.reference import is_ac_name
from mesocosm.images.strict import Fields, Json, load
from mesocosm.images.tar.header import TarEntry
from mesocosm.images.tar.reader import EntrySink, TarReader

MANIFEST_LIMIT: Final = 1 << 20


class Dependency(msgspec.Struct, frozen=True):
    """What an image asks for below it: a name, labels that must be there, and perhaps an image ID."""

    name: str
    labels: tuple[tuple[str, str], ...]
    image_id: str | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """An image manifest; ``whitelist`` are cleaned paths (b"" is the root directory), none where all of the
    image counts; ``runtime`` is OCI's ``config`` of the app.

    ``user`` and ``group`` are the app's, while ``User`` of ``runtime`` is empty: names, numbers, or the
    absolute path of a file in the image whose owner or group is meant; None where there is no app.
    """

    name: str
    labels: dict[str, str]
    dependencies: tuple[Dependency, ...]
    whitelist: frozenset[bytes]
    runtime: dict[str, Json]
    user: str | None
    group: str | None


def read_manifest(path: Path) -> Manifest:
    """Return an ACI's manifest; blocking.  Raises Corrupt when it has none, or a bad one."""
    sink = _ManifestSink(path)
    reader = TarReader(sink, whole=False)
    with about(str(path)):
        for piece in uncompressed(path):
            reader.feed(piece)
            if sink.complete:
                return parse_manifest(bytes(sink.content), f"{path}, manifest")
    raise Corrupt(f"{path} has no manifest", hint="it is no App Container image")


class _ManifestSink(EntrySink):
    """Sink of the tar reader that keeps the member ``manifest``."""

    def __init__(self, path: Path) -> None:
        self.content = bytearray()
        self.complete = False
        self._path = path
        self._inside = False

    def begin(self, entry: TarEntry) -> None:
        self._inside = clean_path(entry.path, DEFAULT_LIMITS) == b"manifest" and entry.kind == stat.S_IFREG
        if self._inside and entry.size > MANIFEST_LIMIT:
            raise Exhausted(f"{self._path}: its manifest is larger than {MANIFEST_LIMIT} bytes")

    def data(self, view: memoryview) -> None:
        if self._inside:
            self.content += view

    def end(self) -> None:
        self.complete = self.complete or self._inside


def parse_manifest(data: bytes, what: str) -> Manifest:
    """Return the manifest that ``data`` holds; raises Corrupt."""
    top = Fields(load(data, what), what, ("acKind", "name", "labels", "app", "dependencies", "pathWhitelist"))
    name = top.text("name")
    if top.text("acKind") != "ImageManifest" or not name:
        raise Corrupt(f"{what} is not an image manifest")
    if not is_ac_name(name):
        raise top.fail("name", f"is {shown(name, 80)!r}, which no App Container image has")
    whitelist = frozenset(clean_path(path.encode(), DEFAULT_LIMITS) for path in top.texts("pathWhitelist"))
    labels = dict(_pairs(top, "labels"))
    app = _app(top)
    return Manifest(
        name=name,
        labels=labels,
        dependencies=tuple(_dependency(item, what) for item in top.items("dependencies")),
        whitelist=whitelist,
        runtime=_runtime(app, name, labels),
        user=(app.text("user") or "0") if app else None,
        group=(app.text("group") or "0") if app else None,
    )


def _pairs(fields: Fields, name: str) -> tuple[tuple[str, str], ...]:
    """A list of objects with ``name`` and ``value``."""
    found = []
    for item in fields.items(name):
        pair = Fields(item, f"{fields.where}, {name}", ("name", "value"))
        found.append((pair.text("name") or "", pair.text("value") or ""))
    return tuple(found)


def _dependency(item: Json, what: str) -> Dependency:
    fields = Fields(item, f"{what}, dependency", ("imageName", "labels", "imageID"))
    name = fields.text("imageName")
    if name is None or not is_ac_name(name):
        raise fields.fail("imageName", f"is {shown(name, 80)!r}, which no App Container image has")
    return Dependency(name, _pairs(fields, "labels"), fields.text("imageID"))


def _app(top: Fields) -> Fields | None:
    if not top.has("app"):
        return None
    return Fields(
        top.raw("app"),
        f"{top.where}, app",
        ("exec", "user", "group", "supplementaryGIDs", "environment", "mountPoints"),
    )


def _runtime(app: Fields | None, name: str, labels: dict[str, str]) -> dict[str, Json]:
    described: dict[str, Json] = {
        "appc.name": name,
        **{f"appc.{key}": value for key, value in labels.items()},
    }
    if app is None:
        return {"Labels": described}
    environment: list[Json] = [f"{key}={value}" for key, value in _pairs(app, "environment")]
    points = [
        Fields(item, f"{app.where}, mountPoints", ("path", "readOnly")) for item in app.items("mountPoints")
    ]
    arguments: list[Json] = list(app.texts("exec"))
    groups: list[Json] = list(app.integers("supplementaryGIDs", GROUPS))
    return {
        "Labels": described,
        "Entrypoint": arguments,
        "Env": environment,
        "User": "",
        **({"AdditionalGids": groups} if groups else {}),
        "WorkingDir": app.text("workingDirectory") or "",
        "Volumes": {point.text("path") or "": _volume(point) for point in points},
    }


def _volume(point: Fields) -> dict[str, Json]:
    return {"ReadOnly": True} if point.flag("readOnly") else {}
