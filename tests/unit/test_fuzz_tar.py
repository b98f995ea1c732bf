"""Any bytes are an archive, a compressed stream, or an error of ours (attacks I-09, I-10, I-11)."""

from __future__ import annotations

import bz2
import gzip
import lzma
from functools import partial

import pytest
from backports import zstd

from fuzzing import Dice, amount, cases, changed, judged
from mesocosm.images.decompress import Decompressor
from mesocosm.images.limits import Limits
from mesocosm.images.tar.reader import EntrySink, TarEntry, TarReader
from tarballs import (
    BLOCK,
    CHARACTER,
    END,
    FIFO,
    Member,
    archive,
    directory,
    file,
    hardlink,
    header,
    padded,
    pax,
    record,
    symlink,
    with_sum,
)

LIMITS = Limits(stream=8 << 20, file=4 << 20, entries=1000)


class Deaf(EntrySink):
    """Takes members, and looks at nothing but the order of what it is told."""

    def __init__(self) -> None:
        self.left = 0

    def begin(self, entry: TarEntry) -> None:
        assert 0 <= entry.size <= LIMITS.file
        assert self.left == 0
        assert b"\0" not in entry.path + entry.link
        self.left = entry.stored

    def data(self, view: memoryview) -> None:
        self.left -= len(view)
        assert self.left >= 0

    def end(self) -> None:
        assert self.left == 0


def old_sparse() -> bytes:
    """A sparse file in GNU's old form."""
    block = bytearray(header(b"old", b"S", size=512, magic=b"ustar  \0"))
    block[386:410] = b"%011o\0%011o\0" % (1024, 512)
    block[483:495] = b"%011o\0" % 4096
    return with_sum(bytes(block)) + bytes(512)


def pax_sparse(*records: tuple[bytes, bytes], data: bytes = bytes(512)) -> bytes:
    """A sparse file in one of PAX's forms."""
    return pax(b"".join(record(*one) for one in records)) + header(b"sparse", size=len(data)) + padded(data)


TARS = [
    archive(
        directory(b"d"),
        file(b"d/f", b"x" * 700),
        symlink(b"l", b"d/f"),
        hardlink(b"h", b"d/f"),
        Member(b"c", CHARACTER, device=(1, 3)),
        Member(b"p", FIFO),
        file(b"n" * 200, b"long"),
    ),
    archive(
        Member(b"x", data=b"1", pax=((b"SCHILY.xattr.user.a", b"1"), (b"mtime", b"1.5"), (b"uid", b"70000")))
    ),
    pax(record(b"comment", b"0123") + record(b"mtime", b"7"), b"g") + archive(file(b"x")),
    header(b"././@LongLink", b"L", size=200) + padded(b"y" * 199 + b"\0") + archive(file(b"y")),
    old_sparse() + END,
    pax_sparse((b"GNU.sparse.major", b"0"), (b"GNU.sparse.map", b"0,512"), (b"GNU.sparse.size", b"2048"))
    + END,
    pax_sparse(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"2048"),
        data=padded(b"1\n0\n512\n") + bytes(512),
    )
    + END,
]


def changed_tar(dice: Dice, sample: bytes) -> bytes:
    """A changed archive: one of its blocks, or anything at all; its headers mostly have right sums again."""
    data = changed(dice, sample)
    if dice.randrange(4):
        at = dice.randrange(len(sample) // BLOCK) * BLOCK
        block = changed(dice, sample[at : at + BLOCK])[:BLOCK].ljust(BLOCK, b"\0")
        data = sample[:at] + block + sample[at + BLOCK :]
    if dice.randrange(8) == 0:
        return data
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    heads = [len(one) == BLOCK and one[257:262] == b"ustar" for one in blocks]
    return b"".join(with_sum(one) if head else one for one, head in zip(blocks, heads, strict=True))


def feed(data: bytes, step: int) -> None:
    reader = TarReader(Deaf(), LIMITS)
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
    reader.finish()


@pytest.mark.parametrize("count", amount(4000))
def test_any_bytes_are_an_archive_or_an_error(count: int) -> None:
    taken = 0
    for number, data in enumerate(cases(TARS, count, changed_tar)):
        whole = judged(partial(feed, data, 1 << 20))
        if number % 8 == 0:
            assert judged(partial(feed, data, 97)) == whole, "it matters where pieces end"
        taken += whole
    assert count // 50 < taken < count, "changes that reach nothing find nothing"


PLAIN = TARS[0] * 3
STREAMS = [gzip.compress(PLAIN), zstd.compress(PLAIN), bz2.compress(PLAIN), lzma.compress(PLAIN), PLAIN]


def inflate(data: bytes) -> None:
    running = Decompressor(None, LIMITS)
    size = sum(len(piece) for piece in running.feed(data))
    size += sum(len(piece) for piece in running.finish())
    assert size <= LIMITS.stream


@pytest.mark.parametrize("count", amount(600))
def test_any_bytes_are_a_stream_or_an_error(count: int) -> None:
    taken = sum(judged(partial(inflate, data)) for data in cases(STREAMS, count))
    assert 0 < taken < count
