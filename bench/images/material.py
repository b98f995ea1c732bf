"""The image that is pulled, unpacked and mounted: six layers, as gzip and as zstd, made once and kept.

The lowest layer is a Debian root made by debootstrap; the others hold copies of its files below other paths,
drawn by a fixed seed, so that sizes, kinds and compressibility are those of real software.  The last one also
takes files of lower layers away.  The archives are what Docker, containerd and podman write: whole seconds,
no names of users, an extended header only for what does not fit.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from backports import zstd  # the benchmark's Python is the project's: 3.11

from fixtures.cache import cached
from fixtures.roots import make_debian

RECIPE = "2"
SHARES = (150, 110, 70, 25, 5)
"""MB of the layers above the Debian root."""

QUICK_SHARES = (3, 2, 1, 1, 1)
CODECS = ("gzip", "zstd")
_NAME = "org.opencontainers.image.ref.name"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+"
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "zstd": lambda data: zstd.compress(data, 3),
}


class Material(NamedTuple):
    """An OCI layout with one image for each codec, named after it."""

    layout: Path

    def blobs(self, codec: str) -> list[Path]:
        """The layers' files, the lowest first."""
        index = json.loads((self.layout / "index.json").read_bytes())
        names = {one["annotations"][_NAME]: one["digest"] for one in index["manifests"]}
        manifest = json.loads(self._blob(names[codec]).read_bytes())
        return [self._blob(layer["digest"]) for layer in manifest["layers"]]

    def _blob(self, digest: str) -> Path:
        return self.layout / "blobs" / digest.replace(":", "/")


def material(*, quick: bool) -> Material:
    """The image, from the cache or made now; ``quick``: a small one, without the Debian root."""
    shares = QUICK_SHARES if quick else SHARES
    name = "bench-image-quick" if quick else "bench-image"
    made = cached(
        name, f"{RECIPE} {shares}", lambda folder: _make(folder / "layout", shares, whole=not quick)
    )
    return Material(made / "layout")


def _make(layout: Path, shares: tuple[int, ...], *, whole: bool) -> None:
    (layout / "blobs/sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    root = make_debian()
    layers = [_base(root) if whole else _share(root, 0, 3)]
    layers += [_share(root, number + 1, size) for number, size in enumerate(shares)]
    config = _put(layout, json.dumps(_configuration(layers)).encode(), _CONFIG)
    manifests = []
    for codec in CODECS:
        packed = [_put(layout, _COMPRESS[codec](data), _LAYER + codec) for data in layers]
        document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": packed}
        entry = _put(layout, json.dumps(document).encode(), _MANIFEST)
        manifests.append({**entry, "annotations": {_NAME: codec}})
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))


def _configuration(layers: list[bytes]) -> dict[str, object]:
    digests = ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/true"], "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": [{"created_by": f"layer {number}"} for number in range(len(layers))],
    }


def _put(layout: Path, data: bytes, media_type: str) -> dict[str, object]:
    hexadecimal = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / hexadecimal).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{hexadecimal}", "size": len(data)}


def _base(root: Path) -> bytes:
    return _tar((path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*")))


def _share(root: Path, number: int, megabytes: int) -> bytes:
    """Files of the root below ``/opt/part-N``, up to so many MB."""
    files = [path for path in sorted((root / "usr").rglob("*")) if path.is_symlink() or path.is_file()]
    random.Random(number).shuffle(files)
    chosen: list[Path] = []
    room = megabytes * 1_000_000
    for path in files:
        room -= path.lstat().st_size
        if room < 0:
            break
        chosen.append(path)
    folders = {parent for path in chosen for parent in path.parents if parent.is_relative_to(root / "usr")}
    members = sorted({*chosen, *folders})
    gone = [f"opt/part-{number - 1}/usr/share/doc/.wh..wh..opq"] if number == len(SHARES) else []
    return _tar(((path, f"opt/part-{number}/{path.relative_to(root)}") for path in members), gone)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member as Go's archive/tar is told to write it by those tools."""
    member.mtime = int(member.mtime)
    member.uname = member.gname = ""
    return member


def _tar(members: Iterator[tuple[Path, str]], whiteouts: list[str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, name in members:
            tar.add(path, name, recursive=False, filter=_plain)
        for name in whiteouts or ():
            tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()
