"""Decompression under bounds: attack rows I-09 and I-16, and honest streams of every kind."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import Corrupt, Exhausted, MesocosmError, Unsupported
from mesocosm.images.decompress import PIECE, Compression, Decompressor, gzip_header_length, sniff
from mesocosm.images.limits import Limits

PLAIN = b"".join(b"line %d of a layer\n" % index for index in range(4000))
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "none": bytes,
}
KINDS: tuple[Compression, ...] = ("gzip", "zstd", "xz", "bzip2", "none")


def expand(
    blob: bytes, declared: Compression | None = None, limits: Limits | None = None, step: int = 1 << 18
) -> bytes:
    """Decompress a whole stream given in pieces."""
    stream = Decompressor(declared, limits or Limits())
    out = io.BytesIO()
    for at in range(0, len(blob), step):
        for piece in stream.feed(blob[at : at + step]):
            assert len(piece) <= PIECE or stream.compression == "none"
            out.write(piece)
    for piece in stream.finish():
        out.write(piece)
    assert stream.taken == len(blob)
    assert stream.given == len(out.getvalue())
    return out.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
def test_round_trip_declared_and_sniffed(kind: Compression, step: int) -> None:
    plain = PLAIN if step > 7 else PLAIN[:2000]
    blob = ENCODERS[kind](plain)
    assert expand(blob, kind, step=step) == plain
    assert expand(blob, None, step=step) == plain


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("step", [1, 5, 1 << 18])
def test_members_follow_each_other(kind: Compression, step: int) -> None:
    """pigz, eStargz and zstd:chunked write many members; all of them are the layer (I-16)."""
    parts = [b"one", b"", b"three" * 100]
    blob = b"".join(map(ENCODERS[kind], parts))
    assert expand(blob, kind, step=step) == b"".join(parts)


def test_zstd_skippable_frames_are_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    assert sniff(skippable) == "zstd"
    assert expand(skippable + zstd.compress(PLAIN) + skippable, "zstd") == PLAIN


@pytest.mark.parametrize("flags", range(32))
@pytest.mark.parametrize("step", [1, 3, 11, 1 << 18])
def test_gzip_headers_of_every_shape(flags: int, step: int) -> None:
    """RFC 1952: extra field, name, comment, header checksum, in any combination and cut anywhere."""
    fields = [(4, b"\x05\x00EXTRA"), (8, b"a name\0"), (16, b"a comment\0")]
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + b"".join(text for bit, text in fields if flags & bit)
    if flags & 2:
        head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    plain = PLAIN[:900]
    blob = head + gzip.compress(plain)[10:]
    assert gzip_header_length(blob) == len(head)
    assert expand(blob, step=step) == plain


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_i16_trailing_data_is_refused_zeroes_are_not(kind: Compression) -> None:
    blob = ENCODERS[kind](PLAIN)
    assert expand(blob + bytes(700), kind) == PLAIN
    for trailing in (b"garbage", bytes(8) + b"x", bytes(512) + blob):
        for step in (1 << 18, 977):
            with pytest.raises(Corrupt):
                expand(blob + trailing, kind, step=step) if step > 1 else expand(
                    blob[:] + trailing, kind, step=977
                )


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_truncated_and_damaged_streams_are_corrupt(kind: Compression) -> None:
    blob = ENCODERS[kind](PLAIN)
    for cut in (len(blob) - 1, len(blob) // 2, 9):
        with pytest.raises(Corrupt):
            expand(blob[:cut], kind)
    damaged = bytearray(blob)
    damaged[len(blob) // 2] ^= 0x10
    try:
        result = expand(bytes(damaged), kind)
    except Corrupt:
        return
    assert kind == "zstd", "zstd frames carry a checksum only when asked for; the digest decides"
    assert result != PLAIN


def test_gzip_checksum_is_checked() -> None:
    blob = bytearray(gzip.compress(PLAIN))
    blob[-6] ^= 1
    with pytest.raises(Corrupt):
        expand(bytes(blob))


@pytest.mark.parametrize("declared", KINDS)
@pytest.mark.parametrize("actual", KINDS)
def test_declared_compression_must_be_the_real_one(declared: Compression, actual: Compression) -> None:
    blob = ENCODERS[actual](PLAIN)
    if declared == actual:
        assert expand(blob, declared) == PLAIN
    else:
        with pytest.raises(Corrupt, match="declared"):
            expand(blob, declared)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_i09_ratio_bomb_stops_early(kind: Compression) -> None:
    limits = Limits(ratio=20, ratio_from=1 << 20)
    bomb = ENCODERS[kind](bytes(64 << 20))
    stream = Decompressor(kind, limits)
    with pytest.raises(Exhausted, match="times"):
        for piece in stream.feed(bomb):
            assert len(piece) <= PIECE
    assert stream.given <= (1 << 20) + 20 * len(bomb) + PIECE
    assert expand(ENCODERS[kind](bytes(1 << 20)), kind, limits) == bytes(1 << 20)


def test_i09_size_limit() -> None:
    limits = Limits(stream=1 << 20)
    with pytest.raises(Exhausted, match="more than"):
        expand(gzip.compress(bytes((1 << 20) + 1)), "gzip", limits)
    assert len(expand(gzip.compress(bytes(1 << 20)), "gzip", limits)) == 1 << 20
    with pytest.raises(Exhausted):
        expand(bytes((1 << 20) + 1), "none", limits)


def test_i09_zstd_window() -> None:
    """A frame that wants a window beyond the limit is refused before any memory is taken."""
    options = {int(zstd.CompressionParameter.window_log): 28}
    compressor = zstd.ZstdCompressor(options=options)
    blob = compressor.compress(PLAIN) + compressor.flush()
    with pytest.raises(Corrupt):
        expand(blob, "zstd")
    assert expand(blob, "zstd", Limits(window=256 << 20)) == PLAIN


def test_i09_xz_dictionary() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 256 << 20}]
    blob = lzma.compress(PLAIN, filters=filters)
    with pytest.raises(Corrupt):
        expand(blob, "xz")
    assert expand(lzma.compress(PLAIN, preset=9), "xz") == PLAIN


def test_endless_gzip_header_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        expand(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (256 << 10), step=1 << 16)


@pytest.mark.parametrize("length", range(7))
def test_very_short_streams(length: int) -> None:
    assert expand(b"abcdef"[:length]) == b"abcdef"[:length]


@given(
    st.binary(max_size=300),
    st.sampled_from([b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh9"]),
)
def test_any_bytes_give_a_typed_error_or_bytes(tail: bytes, magic: bytes) -> None:
    try:
        expand(magic + tail, limits=Limits(stream=1 << 22))
    except MesocosmError as error:
        assert isinstance(error, Corrupt | Exhausted)


@pytest.mark.parametrize(
    ("head", "name"),
    [("04224d18", "lz4"), ("5d00008000", "lzma"), ("1f9d90", r"compress \(\.Z\)"), ("504b0304", "zip")],
)
def test_what_is_not_taken_is_told_by_name(head: str, name: str) -> None:
    stream = Decompressor()
    with pytest.raises(Unsupported, match=f"compressed by {name}.*recompress"):
        list(stream.feed(bytes.fromhex(head) + bytes(600)))
