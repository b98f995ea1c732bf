"""Provisioning in tests: a store of the test's own, images by hand in every form, roots to look into."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from mesocosm.images.progress import Report
from mesocosm.images.provisioner import Provisioner
from mesocosm.linux import mounts
from mesocosm.model import ContainerID
from mesocosm.paths import Paths
from mesocosm.plan import RootStep
from mesocosm.plan.operations import BindRoot, OverlayRoot
from registry_fixtures import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, SmallImage, sha256
from tarballs import Member, archive


def paths_of(folder: Path) -> Paths:
    """Roots below a test's folder."""
    paths = Paths(folder / "state", folder / "run")
    for path in (paths.root, paths.runtime):
        path.mkdir(mode=0o700, exist_ok=True)
    return paths


@asynccontextmanager
async def opened(
    folder: Path, rules: str = "", *, progress: Report | None = None
) -> AsyncIterator[Provisioner]:
    """A provisioner on a store below ``folder``, with these rules for a policy; leaves no mount behind,
    whatever is still leased.
    """
    paths, policy = paths_of(folder), folder / "policy.toml"
    if rules or policy.exists():
        policy.write_text(rules)
    async with Provisioner.open(paths, policy=policy, progress=progress) as provisioner:
        try:
            yield provisioner
        finally:
            for owner in provisioner.store.leases.owners("container-"):
                provisioner.store.leases.drop(owner)


def new_id() -> ContainerID:
    """A container's ID."""
    return ContainerID.generate()


@contextmanager
def shown(step: RootStep, where: Path) -> Iterator[Path]:
    """The root that a step describes, mounted at ``where``, as the child would assemble it."""
    if isinstance(step, OverlayRoot):
        options = [("volatile", None)] if step.volatile else []
        fd = mounts.overlay(step.layers, upper=step.upper, work=step.work, options=options)
    elif isinstance(step, BindRoot):
        fd = mounts.clone_tree(step.source)
        if step.read_only:
            mounts.set_attributes(fd, mounts.ATTRIBUTES["ro"])
    else:
        raise TypeError(f"the child alone assembles {step}")
    where.mkdir(exist_ok=True)
    target = os.open(where, os.O_PATH | os.O_DIRECTORY)
    try:
        mounts.attach(fd, target)
    finally:
        os.close(target)
        os.close(fd)
    try:
        yield where
    finally:
        mounts.detach(str(where))


def image_of(
    layers: Sequence[Sequence[Member]],
    *,
    runtime: dict[str, object] | None = None,
    architecture: str = "amd64",
) -> SmallImage:
    """An OCI image of hand-written layers, lowest first, gzip-compressed."""
    raw = [archive(*members) for members in layers]
    blobs = [gzip.compress(data, mtime=0) for data in raw]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-05-06T07:08:09Z",
            "config": runtime if runtime is not None else {"Env": ["PATH=/bin"], "Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [sha256(data) for data in raw]},
            "history": [{"created_by": f"step {number}"} for number in range(len(raw))],
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [{"mediaType": OCI_LAYER, "digest": sha256(data), "size": len(data)} for data in blobs],
        }
    ).encode()
    return SmallImage(manifest, config, tuple(blobs))


def pack(folder: Path, target: Path) -> Path:
    """A directory's files as an uncompressed tar file."""
    with tarfile.open(target, "w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False)
    return target


def tar_of(files: dict[str, bytes], target: Path, links: dict[str, str] | None = None) -> Path:
    """A tar file of these members, and symbolic links."""
    with tarfile.open(target, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, link in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = link
            tar.addfile(info)
    return target


def docker_archive(image: SmallImage, target: Path, names: Sequence[str] = ("example.org/app:1",)) -> Path:
    """The image as ``docker save`` writes it today."""
    layers = {f"layer{number}/layer.tar": gzip.decompress(blob) for number, blob in enumerate(image.layers)}
    manifest = [{"Config": "config.json", "RepoTags": list(names), "Layers": list(layers)}]
    files = {"manifest.json": json.dumps(manifest).encode(), "config.json": image.config, **layers}
    return tar_of(files, target)


def legacy_archive(image: SmallImage, target: Path) -> Path:
    """The image as ``docker save`` wrote it before version 1.10."""
    config = json.loads(image.config)
    files: dict[str, bytes] = {}
    for number, blob in enumerate(image.layers):
        head: dict[str, object] = {"id": f"id{number}", "os": "linux", "architecture": config["architecture"]}
        head["container_config"] = {"Cmd": ["step", str(number)]}
        if number:
            head["parent"] = f"id{number - 1}"
        if number == len(image.layers) - 1:
            head |= {"created": config["created"], "config": config["config"]}
        files[f"id{number}/VERSION"] = b"1.0"
        files[f"id{number}/json"] = json.dumps(head).encode()
        files[f"id{number}/layer.tar"] = gzip.decompress(blob)
    files["repositories"] = json.dumps({"example.org/app": {"1": f"id{len(image.layers) - 1}"}}).encode()
    return tar_of(files, target)
