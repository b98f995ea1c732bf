"""Seals of layers kept as trees: every kind of damage is found and brought back, and nothing else is."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mesocosm.errors import Busy
from mesocosm.images.digest import Digest
from mesocosm.images.layers.store import Form
from mesocosm.images.layers.tree_seal import Content, Reading, seal_of_tree
from mesocosm.images.provisioner import Provisioner
from provisions import image_of, new_id, opened
from registry_fixtures import write_layout
from tarballs import FIFO, Member, directory, file, hardlink, symlink

SPARSE = Member(
    b"sparse",
    data=b"xy",
    pax=(
        (b"GNU.sparse.map", b"%d,1,%d,1" % (1 << 33, 3 << 33)),
        (b"GNU.sparse.size", b"%d" % (32 << 30)),
        (b"GNU.sparse.numblocks", b"2"),
    ),
)
IMAGE = image_of(
    [
        [file(b"below/gone")],
        [
            directory(b"d", 0o750),
            file(b"d/one", os.urandom(3 << 20)),
            hardlink(b"d/two", b"d/one"),
            file(b"replaced", b"first"),
            file(b"replaced", b"then"),
            file(b"empty", b""),
            symlink(b"link", b"d/one"),
            Member(b"fifo", FIFO, mode=0o640),
            Member(b"noted", data=b"x", pax=((b"SCHILY.xattr.user.a", b"\x00\xff"),)),
            file(b"not/described/file"),
            file(b"below/.wh.gone", b""),
            file(b"opaque/.wh..wh..opq", b""),
            SPARSE,
        ],
    ]
)


def write_in_place(path: Path) -> None:
    """One bit, and the time as it was."""
    before = path.stat()
    with path.open("r+b") as changed:
        changed.seek(2 << 20)
        byte = changed.read(1)[0]
        changed.seek(2 << 20)
        changed.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def relink(root: Path) -> None:
    """The same bytes, look and time, but no longer one file."""
    shutil.copy2(root / "d/one", root / "other")
    os.rename(root / "other", root / "d/two")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "byte": lambda root: write_in_place(root / "d/one"),
    "shorter": lambda root: os.truncate(root / "d/one", 5),
    "hole": lambda root: _write_at(root / "sparse", 5 << 30),
    "mode": lambda root: (root / "empty").chmod(0o4755),
    "owner": lambda root: os.chown(root / "link", 1, 2, follow_symlinks=False),
    "time": lambda root: os.utime(root / "replaced", ns=(1, 1)),
    "attribute": lambda root: os.setxattr(root / "noted", "user.a", b"\x00\xfe"),
    "new attribute": lambda root: os.setxattr(root / "replaced", "user.b", b""),
    "capability": lambda root: os.setxattr(
        root / "replaced", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    ),
    "mark": lambda root: os.removexattr(root / "opaque", "trusted.overlay.opaque"),
    "whiteout": lambda root: (root / "below/gone").unlink(),
    "removed": lambda root: (root / "empty").unlink(),
    "added": lambda root: (root / "d/more").touch(),
    "link": lambda root: _relinked(root / "link"),
    "hard link": relink,
    "root": lambda root: root.chmod(0o700),
}


def _write_at(path: Path, offset: int) -> None:
    before = path.stat()
    with path.open("r+b") as changed:
        changed.seek(offset)
        changed.write(b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _relinked(path: Path) -> None:
    before = path.lstat()
    path.unlink()
    path.symlink_to("d/two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


async def pulled(provisioner: Provisioner, folder: Path) -> tuple[str, Path]:
    """The image as trees; its name, and the upper layer's directory."""
    name = f"oci:{write_layout(IMAGE, folder / 'layout')}"
    await provisioner.pull(name, backend="overlay")
    layer = (await provisioner.inspect(name)).layers[-1]
    return name, provisioner.store.layers.content(Digest.parse(layer.diff_id), Form.TREE)


async def test_a_layer_of_every_kind_of_member_is_sound(tmp_path: Path) -> None:
    """What was noted while it came in is what is found on the disk."""
    async with opened(tmp_path) as provisioner:
        name, root = await pulled(provisioner, tmp_path)
        for diff_id, form in provisioner.store.layers.list():
            record = provisioner.store.layers.record(diff_id, form)
            assert record is not None and record.seal.startswith("tree-crc32:")
        assert (await provisioner.scrub()).damaged == ()
        sealed = seal_of_tree(root, Reading())
        shutil.rmtree(root.parent)
        await provisioner.pull(name, backend="overlay")
        assert seal_of_tree(root, Reading()) == sealed, "the same layer, another seal"


@pytest.mark.parametrize("kind", DAMAGE)
async def test_damage_is_found_and_brought_back(kind: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        name, root = await pulled(provisioner, tmp_path)
        await provisioner.pull(name)
        assert (await provisioner.verify(name)).sound
        DAMAGE[kind](root)
        verdict = await provisioner.verify(name)
        assert verdict.damaged == (f"sha256:{root.parent.name}",)
        assert (await provisioner.scrub(repair=False)).damaged == verdict.damaged
        done = await provisioner.scrub()
        assert (done.damaged, done.left) == (verdict.damaged, ())
        assert not root.exists()
        await provisioner.pull(name, backend="overlay")
        assert root.exists() and (await provisioner.verify(name)).sound


async def test_a_tree_that_a_container_runs_from_stays(tmp_path: Path) -> None:
    """Its files would be gone from the container, the sound ones too."""
    async with opened(tmp_path) as provisioner:
        name, root = await pulled(provisioner, tmp_path)
        container = new_id()
        await provisioner.provision(container, name, backend="overlay", scratch=tmp_path / "s")
        (root / "replaced").write_text("damaged")
        with pytest.raises(Busy, match=str(container)):
            await provisioner.verify(name, repair=True)
        done = await provisioner.scrub()
        assert done.left == done.damaged == (f"sha256:{root.parent.name}",)
        assert (root / "d/one").exists()
        await provisioner.release(container)
        await provisioner.verify(name, repair=True)
        await provisioner.pull(name, backend="overlay")
        assert (root / "replaced").read_text() == "then" and (await provisioner.verify(name)).sound


def test_the_sum_of_zeros_is_that_of_zeros_written_out() -> None:
    chance = random.Random(1)
    for _ in range(200):
        content, plain = Content(), b""
        for _ in range(3):
            data = chance.randbytes(chance.randrange(50))
            content.update(data)
            plain += data + bytes(chance.choice((0, 1, 7, 4096, 100_001)))
            content.skip_to(len(plain))
        assert content.value == zlib.crc32(plain)
