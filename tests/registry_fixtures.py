"""Small images built by hand, as bytes and as OCI layouts, for tests of registries and stores."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_layer(files: dict[str, bytes]) -> tuple[bytes, str]:
    """Return a gzip layer and its diff ID."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    raw = buffer.getvalue()
    return gzip.compress(raw, mtime=0), sha256(raw)


@dataclass(frozen=True)
class SmallImage:
    """An image's documents and blobs, by digest."""

    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]
    media_type: str = OCI_MANIFEST

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    @property
    def blobs(self) -> dict[str, bytes]:
        return {sha256(data): data for data in (self.config, *self.layers)}


def small_image(
    layers: list[dict[str, bytes]] | None = None, runtime: dict[str, object] | None = None
) -> SmallImage:
    """Return a consistent OCI image for linux/amd64."""
    made = [make_layer(files) for files in layers or [{"hello": b"hello\n"}, {"world": b"world\n" * 100}]]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": runtime if runtime is not None else {"Env": ["PATH=/bin"], "Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in made]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [
                {"mediaType": OCI_LAYER, "digest": sha256(data), "size": len(data)} for data, _ in made
            ],
        }
    ).encode()
    return SmallImage(manifest, config, tuple(data for data, _ in made))


def write_layout(image: SmallImage, root: Path, ref: str = "latest") -> Path:
    """Write an OCI image layout directory."""
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, data in {**image.blobs, image.digest: image.manifest}.items():
        (blobs / digest.partition(":")[2]).write_bytes(data)
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {
        "mediaType": image.media_type,
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {"org.opencontainers.image.ref.name": ref},
    }
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return root


def write_index_layout(images: dict[str, SmallImage], root: Path) -> str:
    """Write a layout whose only entry is an index of these images, by architecture; return its digest."""
    entries = []
    for architecture, image in images.items():
        write_layout(image, root / "parts" / architecture)
        shutil.copytree(root / "parts" / architecture, root, dirs_exist_ok=True)
        platform = {"os": "linux", "architecture": architecture}
        one = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
        entries.append({**one, "platform": platform})
    shutil.rmtree(root / "parts")
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    (root / "blobs/sha256" / sha256(index).removeprefix("sha256:")).write_bytes(index)
    top = {"mediaType": OCI_INDEX, "digest": sha256(index), "size": len(index)}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return sha256(index)


def skopeo_copy(source: str, target: str, *options: str) -> None:
    """Run ``skopeo copy`` without TLS and signature policy."""
    result = subprocess.run(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            *options,
            source,
            target,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
