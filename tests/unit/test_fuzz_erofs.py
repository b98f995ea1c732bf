"""Any bytes are a layer's EROFS file, or Corrupt: a damaged one neither holds its reader nor fills memory."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

import pytest

from fuzzing import Dice, amount, cases, changed, judged
from layers import ingest
from mesocosm.errors import Corrupt
from mesocosm.images.digest import Digest
from mesocosm.images.erofs import format as fmt
from mesocosm.images.erofs.merge import write_merged
from mesocosm.images.erofs.reader import ErofsImage
from tarballs import CHARACTER, Member, archive, directory, file, hardlink, symlink

CHAIN = Digest("sha256", "ab" * 32)
READ_LIMIT = 1 << 20

LAYER = archive(
    directory(b"d"),
    file(b"d/small", b"x" * 70),
    file(b"d/big", b"y" * 9000),
    Member(b"a", data=b"1", pax=((b"SCHILY.xattr.user.a", b"1"),)),
    symlink(b"l", b"d/small"),
    hardlink(b"h", b"d/big"),
    Member(b"c", CHARACTER, device=(1, 3)),
    file(b"d/.wh.gone", b""),
    *(file(b"m/%0120d" % number, b"") for number in range(40)),
)


def summed(image: bytes) -> bytes:
    """The image with its superblock's checksum put right."""
    bits = image[fmt.SUPER_OFFSET + 12] if len(image) > fmt.SUPER_OFFSET + 12 else 0
    size = 1 << bits
    end = size if size > fmt.SUPER_OFFSET else fmt.SUPER_OFFSET + size
    body = bytearray(image[fmt.SUPER_OFFSET : end])
    body[4:8] = bytes(4)
    check = struct.pack("<I", fmt.crc32c(bytes(body)))
    return image[: fmt.SUPER_OFFSET + 4] + check + image[fmt.SUPER_OFFSET + 8 :]


def changed_image(dice: Dice, sample: bytes) -> bytes:
    """An image changed where it says something: in its superblock, or in what is no file's content."""
    at = dice.choice((0, 0, dice.randrange(len(sample) - 512)))
    if at == 0:
        end = fmt.SUPER_OFFSET + fmt.SUPER_SIZE
        head = changed(dice, sample[fmt.SUPER_OFFSET : end])[: fmt.SUPER_SIZE].ljust(fmt.SUPER_SIZE, b"\0")
        data = sample[: fmt.SUPER_OFFSET] + head + sample[end:]
    else:
        part = changed(dice, sample[at : at + 512])[:512].ljust(512, b"\0")
        data = sample[:at] + part + sample[at + 512 :]
    return summed(data) if dice.randrange(8) else data[: dice.randrange(len(data))]


def read_all(path: Path) -> None:
    """All that is done with a layer: its tree, its files, a look-up through a link, a merge."""
    with ErofsImage(path) as image:
        for name, node in image.walk():
            if node.children is None and node.size <= READ_LIMIT and node.names == 1:
                judged(partial(image.read_file, name, READ_LIMIT))
        judged(lambda: image.read_file(b"l", READ_LIMIT))
    merged = path.with_name("merged")
    merged.unlink(missing_ok=True)
    write_merged(merged, [path, path], CHAIN)


@pytest.mark.parametrize("count", amount(150))
def test_any_bytes_are_a_layer_or_corrupt(count: int, tmp_path: Path) -> None:
    honest = tmp_path / "honest"
    ingest("erofs-a", honest, LAYER)
    read_all(honest)
    sample, path = honest.read_bytes(), tmp_path / "changed"
    taken = 0
    for data in cases([sample], count, changed_image):
        path.write_bytes(data)
        taken += judged(lambda: read_all(path))
    assert count // 50 < taken < count


def offset_of(path: Path, name: bytes) -> int:
    """Where in the file an inode stands."""
    with ErofsImage(path) as image:
        start: int = fmt.SUPER.unpack(path.read_bytes()[fmt.SUPER_OFFSET :][: fmt.SUPER_SIZE])[10]
        nid: int = image.lookup(name).nid
        bits: int = image.block_bits
        return (start << bits) + nid * fmt.SLOT


def test_directories_within_themselves_end(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    ingest("erofs-a", path, LAYER)
    with ErofsImage(path) as image:
        there, root = image.lookup(b"d").nid, image.root.nid
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<Q", there), struct.pack("<Q", root)))
    with ErofsImage(path) as image, pytest.raises(Corrupt, match="in two places"):
        image.tree()


def test_directories_that_share_their_content_end(tmp_path: Path) -> None:
    """A few bytes for each of many directories, which all show the same names."""
    path = tmp_path / "layer"
    names = (file(b"m/%0120d" % number, b"") for number in range(40))
    ingest(
        "erofs-a",
        path,
        archive(directory(b"m"), *names, *(directory(b"e/%03d" % number) for number in range(900))),
    )
    data = bytearray(path.read_bytes())
    shown = offset_of(path, b"m")
    fields = list(fmt.INODE.unpack(data[shown : shown + fmt.INODE_SIZE]))
    fields[0], fields[4] = 1 | fmt.FLAT_PLAIN << 1, 4096
    for number in range(900):
        at = offset_of(path, b"e/%03d" % number)
        data[at : at + fmt.INODE_SIZE] = fmt.INODE.pack(*fields)
    path.write_bytes(data)
    with ErofsImage(path) as image, pytest.raises(Corrupt, match="share their content"):
        image.tree()
