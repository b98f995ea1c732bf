"""The tar reader: every format honest writers use, and what no reader may take (attack rows I-10, I-11,
I-16).
"""

from __future__ import annotations

import io
import stat
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesocosm.errors import Corrupt, Exhausted, MesocosmError
from mesocosm.images.limits import Limits
from mesocosm.images.tar.header import nanoseconds, number, parse_records
from mesocosm.images.tar.reader import HARDLINK, EntrySink, TarEntry, TarReader
from tarballs import (
    END,
    Member,
    archive,
    directory,
    file,
    hardlink,
    header,
    member,
    padded,
    pax,
    record,
    symlink,
    with_sum,
)


class Collector(EntrySink):
    """Keeps all it is given."""

    def __init__(self) -> None:
        self.entries: list[TarEntry] = []
        self.contents: list[bytes] = []
        self._parts: list[memoryview] = []

    def begin(self, entry: TarEntry) -> None:
        assert not self._parts
        self.entries.append(entry)

    def data(self, view: memoryview) -> None:
        self._parts.append(view)

    def end(self) -> None:
        self.contents.append(b"".join(self._parts))
        self._parts = []


def read(blob: bytes, *, step: int = 1 << 20, limits: Limits | None = None, whole: bool = True) -> Collector:
    """Read a whole archive given in pieces."""
    found = Collector()
    reader = TarReader(found, limits or Limits(), whole=whole)
    for at in range(0, len(blob), step):
        reader.feed(blob[at : at + step])
    reader.finish()
    assert reader.position == len(blob)
    assert reader.entries == len(found.entries)
    return found


def refused(blob: bytes, error: type[MesocosmError] = Corrupt, limits: Limits | None = None) -> None:
    """Whatever the pieces, the archive is refused with this error."""
    for step in (1 << 20, 700, 512):
        with pytest.raises(error):
            read(blob, step=step, limits=limits)


# --- honest archives ----------------------------------------------------------------------------------------

HONEST = archive(
    directory(b"./"),
    directory(b"etc/", 0o750),
    file(b"etc/passwd", b"root" * 300, 0o640),
    file(b"empty", b""),
    symlink(b"link", b"etc/passwd"),
    hardlink(b"hard", b"etc/passwd"),
    Member(b"null", b"3", device=(1, 3), mode=0o666),
    Member(b"loop", b"4", device=(7, 300)),
    Member(b"pipe", b"6"),
    file(b"n" * 300, b"long name"),
    symlink(b"long-link", b"t" * 300),
)


@pytest.mark.parametrize("step", [1, 13, 511, 512, 513, 4096, 1 << 20])
def test_members_arrive_whatever_the_pieces(step: int) -> None:
    found = read(HONEST, step=step)
    kinds = [stat.S_IFDIR] * 2 + [stat.S_IFREG] * 2 + [stat.S_IFLNK, HARDLINK]
    kinds += [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFREG, stat.S_IFLNK]
    assert [entry.kind for entry in found.entries] == kinds
    assert found.contents == [b"root" * 300, b"", b"long name"]
    passwd = found.entries[2]
    assert (passwd.path, passwd.mode, passwd.size, passwd.mtime) == (
        b"etc/passwd",
        0o640,
        1200,
        1_600_000_000 * 10**9,
    )
    assert HONEST[passwd.offset : passwd.offset + passwd.stored] == b"root" * 300
    assert (found.entries[7].major, found.entries[7].minor) == (7, 300)
    assert found.entries[9].path == b"n" * 300
    assert found.entries[10].link == b"t" * 300


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_same_as_the_standard_library(form: int) -> None:
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w", format=form) as tar:
        for index in range(40):
            info = tarfile.TarInfo("dir/" * (index % 30) + f"file {index} ü")
            info.size = index * 37
            info.mtime = 1_500_000_000 + index
            info.mode = 0o600 + index % 64
            info.uid, info.gid = 1000 + index, 2_000_000 + index
            tar.addfile(info, io.BytesIO(bytes([index]) * info.size))
            link = tarfile.TarInfo(f"link{index}")
            link.type, link.linkname = tarfile.SYMTYPE, "x" * (index * 2 + 1)
            tar.addfile(link)
    found = read(blob.getvalue())
    with tarfile.open(fileobj=io.BytesIO(blob.getvalue())) as tar:
        for info, entry in zip(tar, found.entries, strict=True):
            assert entry.path == info.name.encode("utf-8", "surrogateescape")
            assert (entry.mode, entry.uid, entry.gid, entry.size) == (
                info.mode,
                info.uid,
                info.gid,
                info.size,
            )
            assert entry.mtime == int(info.mtime) * 10**9
            assert entry.link == info.linkname.encode()


def test_v7_directories_end_in_a_slash() -> None:
    blob = (
        header(b"old/", b"\0", magic=bytes(8))
        + header(b"old/file", b"\0", size=3, magic=bytes(8))
        + padded(b"abc")
    )
    found = read(blob + END)
    assert [entry.kind for entry in found.entries] == [stat.S_IFDIR, stat.S_IFREG]


def test_ustar_prefix_and_star_prefix() -> None:
    ustar = header(b"name", prefix=b"some/prefix")
    star = with_sum(
        header(b"name", prefix=b"p" * 131)[:476]
        + b"01234567890\00012345678901"[:24].ljust(32, b"\0")
        + b"tar\0"
    )
    gnu = header(b"name", magic=b"ustar  \0", prefix=b"12345670123")
    found = read(ustar + star + gnu + END)
    assert [entry.path for entry in found.entries] == [b"some/prefix/name", b"p" * 131 + b"/name", b"name"]


def test_base_256_numbers() -> None:
    blob = header(b"f", size=0, uid=3_000_000_000, gid=2**31, mtime=-5)
    entry = read(blob + END).entries[0]
    assert (entry.uid, entry.gid, entry.mtime) == (3_000_000_000, 2**31, -5 * 10**9)


def test_pax_overrules_and_global_headers_last() -> None:
    everywhere = pax(record(b"uid", b"77") + record(b"comment", b"x"), b"g")
    own = pax(
        record(b"path", b"real") + record(b"uid", b"88") + record(b"mtime", b"1.5") + record(b"size", b"3")
    )
    blob = everywhere + own + header(b"fake", size=0) + padded(b"abc") + header(b"second") + END
    found = read(blob)
    first, second = found.entries
    assert (first.path, first.uid, first.mtime, first.size) == (b"real", 88, 1_500_000_000, 3)
    assert (second.path, second.uid) == (b"second", 77)
    assert found.contents == [b"abc", b""]


def test_pax_times_round_down() -> None:
    assert nanoseconds(b"12.3456789019") == 12_345_678_901
    assert nanoseconds(b"-1.25") == -1_250_000_000
    assert nanoseconds(b"-0.0000000001") == -1
    assert nanoseconds(b"7.") == 7 * 10**9


def test_xattrs_raw_and_base64() -> None:
    raw = pax(record(b"SCHILY.xattr.user.a", b"\0bin\n=") + record(b"LIBARCHIVE.xattr.user.a", b"b3RoZXI"))
    other = pax(record(b"LIBARCHIVE.xattr.user.b%20c", b"dmFsdWU"))
    found = read(raw + header(b"f") + other + header(b"g") + END)
    assert found.entries[0].xattrs == ((b"user.a", b"\0bin\n="),)
    assert found.entries[1].xattrs == ((b"user.b c", b"value"),)


def test_a_missing_end_mark_is_for_verified_streams_only() -> None:
    refused(HONEST[: -len(END)])
    refused(HONEST[: -len(END)] + bytes(512))
    assert len(read(HONEST[: -len(END)], whole=False).entries) == 11
    with pytest.raises(Corrupt):
        read(HONEST[:-1600], whole=False)


def test_i16_data_behind_the_end_is_refused_padding_is_not() -> None:
    assert len(read(HONEST + bytes(10240)).entries) == 11
    refused(HONEST + HONEST)
    refused(HONEST + bytes(512) + b"x" + bytes(511))
    refused(HONEST + b"\1")
    refused(member(file(b"a")) + bytes(512) + member(file(b"b")) + END)


# --- hostile headers ----------------------------------------------------------------------------------------


def test_i11_bad_checksum_and_garbage() -> None:
    refused(bytes([7]) * 2048)
    block = bytearray(header(b"name"))
    block[0] ^= 1
    refused(bytes(block) + END)


@pytest.mark.parametrize("size", [-1, -512, 2**63, 2**80])
def test_i11_impossible_sizes(size: int) -> None:
    with pytest.raises((Corrupt, Exhausted)):
        read(header(b"name", size=size) + END)


@pytest.mark.parametrize(
    "digits", [b"+0000000012", b"-0000000012", b"0x000000012", b"00000000018", b"0_000000012"]
)
def test_i11_numbers_are_octal_digits_only(digits: bytes) -> None:
    block = header(b"name")
    refused(with_sum(block[:124] + digits.ljust(12, b"\0") + block[136:]) + END)


def test_i11_ids_out_of_range() -> None:
    for uid in (-1, 2**32 - 1, 2**32, 2**50):
        refused(pax(record(b"gid", b"1")) + header(b"a", uid=uid) + END)
    assert read(header(b"a", uid=2**32 - 2) + END).entries[0].uid == 2**32 - 2
    refused(pax(record(b"uid", b"4294967295")) + header(b"a") + END)


@pytest.mark.parametrize("flag", [b"5", b"2", b"1", b"3", b"6"])
def test_i11_data_where_none_belongs(flag: bytes) -> None:
    link = b"t" if flag in b"12" else b""
    refused(header(b"d", flag, size=512, link=link) + bytes([1]) * 512 + END)
    refused(pax(record(b"size", b"512")) + header(b"d", flag, link=link) + bytes([1]) * 512 + END)
    assert len(read(header(b"d", flag, link=link) + END).entries) == 1


@pytest.mark.parametrize("flag", [b"D", b"M", b"V", b"N", b"X", b"Z", b"\xff", b"8"])
def test_unknown_types_are_refused(flag: bytes) -> None:
    refused(header(b"d", flag) + END)


def test_i11_nul_in_names() -> None:
    refused(header(b"ab\0cd") + END)
    refused(header(b"a", b"2", link=b"x\0y") + END)
    refused(pax(record(b"path", b"a\0b")) + header(b"x") + END)
    refused(pax(record(b"linkpath", b"a\0b")) + header(b"x", b"2") + END)
    long_name = header(b"././@LongLink", b"L", size=8, magic=b"ustar  \0") + padded(b"abc\0def\0")
    refused(long_name + header(b"x") + END)


def test_i11_oversized_extended_headers() -> None:
    big = record(b"comment", b"x" * (1 << 20))
    refused(pax(big) + header(b"x") + END, Exhausted)
    long_name = b"n" * ((1 << 20) + 1)
    head = header(b"././@LongLink", b"L", size=len(long_name), magic=b"ustar  \0")
    refused(head + padded(long_name) + header(b"x") + END, Exhausted)
    assert len(read(pax(record(b"comment", b"x" * 500_000)) + header(b"x") + END).entries) == 1


def test_i11_global_headers_are_bounded_together() -> None:
    large = [pax(record(b"comment%d" % number, b"x" * 600_000), b"g") for number in range(2)]
    refused(b"".join(large) + header(b"x") + END, Exhausted)
    assert len(read(large[0] * 2 + header(b"x") + END).entries) == 1
    many = [pax(record(b"vendor.%d" % number, b"x"), b"g") for number in range(101)]
    refused(b"".join(many) + header(b"x") + END, Exhausted)
    assert len(read(b"".join(many[1:]) + header(b"x") + END).entries) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"path", b"etc/passwd"),
        (b"linkpath", b"/etc"),
        (b"size", b"512"),
        (b"GNU.sparse.map", b"0,1"),
        (b"SCHILY.xattr.user.a", b"1"),
        (b"LIBARCHIVE.xattr.user.a", b"MQ"),
        (b"SCHILY.devmajor", b"8"),
    ],
)
def test_i11_what_is_a_members_own_is_in_no_global_header(key: bytes, value: bytes) -> None:
    """GNU tar would apply it, docker's reader would not."""
    refused(pax(record(key, value), b"g") + header(b"x") + END)
    found = read(pax(record(b"mtime", b"7") + record(b"comment", b"c"), b"g") + header(b"x") + END)
    assert found.entries[0].mtime == 7_000_000_000


@pytest.mark.parametrize(
    "records",
    [
        b"x",
        b"0 a=b\n",
        b"5 a=b\n",
        b"99 a=b\n",
        b"6 a=b\n6 a=b",
        b" 6 a=b\n",
        b"+6 a=b\n",
        b"6_0 a=b\n",
        b"6 a_b\n",
        b"5 =b\n",
        b"6 a=bc",
        b"00000000000000000000006 a=b\n",
        b"\xd9\xa6 a=b\n",
    ],
)
def test_i11_malformed_records(records: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_records(records)


def test_records_round_trip() -> None:
    pairs = [(b"path", b"a b=c\nd"), (b"k", b""), (b"long", b"v" * 95), (b"long", b"v" * 994)]
    assert parse_records(b"".join(record(key, value) for key, value in pairs)) == pairs


@pytest.mark.parametrize(
    "value", [b"-5", b"+5", b"5.0", b"0x5", b"5 ", b"\xd9\xa5", b"9" * 20, b"99999999999999999999"]
)
def test_i11_record_numbers(value: bytes) -> None:
    refused(pax(record(b"size", value)) + header(b"x") + END)
    refused(pax(record(b"uid", value)) + header(b"x") + END)


@pytest.mark.parametrize("value", [b"nan", b"inf", b"1e9", b"--1", b"1.2.3", b"9" * 15, b".", b""])
def test_i11_record_times(value: bytes) -> None:
    if value:
        refused(pax(record(b"mtime", value)) + header(b"x") + END)
    else:
        assert read(pax(record(b"mtime", b"")) + header(b"x", mtime=9) + END).entries[0].mtime == 9 * 10**9


def test_two_names_for_one_member_are_ambiguous() -> None:
    longlink = header(b"././@LongLink", b"L", size=4, magic=b"ustar  \0") + padded(b"one\0")
    refused(longlink + pax(record(b"path", b"two")) + header(b"x") + END)
    refused(longlink + longlink + header(b"x") + END)
    refused(pax(record(b"path", b"a")) + pax(record(b"path", b"b")) + header(b"x") + END)
    assert read(longlink + header(b"x") + END).entries[0].path == b"one"


def test_an_extended_header_at_the_end_is_truncation() -> None:
    refused(pax(record(b"path", b"a")) + END)


def test_i12_member_limit() -> None:
    blob = archive(*(file(b"f%d" % index, b"") for index in range(11)))
    refused(blob, Exhausted, Limits(entries=10))
    assert len(read(blob, limits=Limits(entries=11)).entries) == 11


def test_i08_attribute_limits() -> None:
    many = pax(b"".join(record(b"SCHILY.xattr.user.%d" % index, b"v") for index in range(200)))
    refused(many + header(b"x") + END, Exhausted)
    large = pax(record(b"SCHILY.xattr.user.big", b"v" * 70_000))
    refused(large + header(b"x") + END, Exhausted)
    fine = pax(record(b"SCHILY.xattr.user.big", b"v" * 60_000))
    assert len(read(fine + header(b"x") + END).entries[0].xattrs) == 1


# --- sparse -------------------------------------------------------------------------------------------------


def sparse01(size: int, extents: str, data: bytes) -> bytes:
    """A member in form 0.1."""
    records = record(b"GNU.sparse.size", b"%d" % size) + record(b"GNU.sparse.numblocks", b"1")
    records += record(b"GNU.sparse.map", extents.encode())
    return pax(records) + header(b"s", size=len(data)) + padded(data) + END


def sparse10(size: int, lines: bytes, data: bytes) -> bytes:
    """A member in form 1.0."""
    records = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
    records += record(b"GNU.sparse.name", b"real") + record(b"GNU.sparse.realsize", b"%d" % size)
    body = padded(lines) + data
    return pax(records) + header(b"GNUSparseFile.0/real", size=len(body)) + padded(body) + END


@pytest.mark.parametrize("step", [1, 100, 512, 1 << 20])
def test_sparse_forms(step: int) -> None:
    one = read(sparse01(10_000, "4096,3,8000,2", b"abcde"), step=step)
    assert one.entries[0].extents == ((4096, 3), (8000, 2))
    assert (one.entries[0].size, one.entries[0].stored, one.contents) == (10_000, 5, [b"abcde"])
    two = read(sparse10(10_000, b"2\n4096\n3\n8000\n2\n", b"abcde"), step=step)
    assert (two.entries[0].path, two.entries[0].extents) == (b"real", ((4096, 3), (8000, 2)))
    assert two.contents == [b"abcde"]
    hole = read(sparse10(10_000, b"0\n", b""), step=step)
    assert (hole.entries[0].extents, hole.contents) == ((), [b""])


@pytest.mark.parametrize(
    "extents",
    [
        "0,4,2,1",
        "10,2,4,3",
        "4096,3",
        "4096,3,8000,3",
        "9999,5",
        "0,5,0,0,1",
        "-1,5",
        "a,b",
        "0,+5",
        "1_0,5",
        "0,9" * 30,
    ],
)
def test_i10_sparse_maps_that_contradict(extents: str) -> None:
    refused(sparse01(10_000, extents, b"abcde"))
    assert read(sparse01(10_000, "4096,5", b"abcde")).contents == [b"abcde"]


@pytest.mark.parametrize(
    "lines", [b"2\n0\n5\n", b"x\n", b"-1\n", b"99999999999999999999\n", b"1\n0\n\n", b"1 0 5\n"]
)
def test_i10_sparse_map_lines(lines: bytes) -> None:
    refused(sparse10(10_000, lines, b"abcde"))


def test_i10_sparse_bombs() -> None:
    """A terabyte of holes, and maps of more extents than a megabyte holds (Go CVE-2025-58183)."""
    refused(sparse01(1 << 40, "0,5", b"abcde"), Exhausted)
    refused(sparse10(1 << 40, b"1\n0\n5\n", b"abcde"), Exhausted)
    refused(
        sparse10(1 << 30, b"400000\n" + b"".join(b"%d\n1\n" % (2 * i) for i in range(400_000)), b""),
        Exhausted,
    )
    many = ",".join(f"{2 * i},1" for i in range(60_000))
    refused(sparse01(1 << 30, many, b"x" * 60_000), Exhausted)


def test_i10_a_map_without_end_is_read_no_further_than_its_limit() -> None:
    limits = Limits(sparse_map=8 << 10, records=8 << 10)
    lines = b"400000\n" + b"".join(b"%d\n1\n" % (2 * number) for number in range(400_000))
    blob = sparse10(1 << 30, lines, b"")
    reader = TarReader(Collector(), limits)
    with pytest.raises(Exhausted):
        for at in range(0, len(blob), 512):
            reader.feed(blob[at : at + 512])
    assert reader.position <= limits.sparse_map + (8 << 10)


def test_sparse_records_that_say_nothing() -> None:
    refused(pax(record(b"GNU.sparse.size", b"9")) + header(b"x") + END)
    refused(
        pax(record(b"GNU.sparse.major", b"2") + record(b"GNU.sparse.realsize", b"9")) + header(b"x") + END
    )


# --- anything at all ----------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(HONEST) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_archives_give_typed_errors_or_members(changes: list[tuple[int, int]]) -> None:
    blob = bytearray(HONEST)
    for at, value in changes:
        blob[at] = value
        start = at - at % 512
        if b"ustar" in blob[start : start + 512]:
            blob[start : start + 512] = with_sum(bytes(blob[start : start + 512]))
    try:
        read(bytes(blob))
    except MesocosmError as error:
        assert isinstance(error, Corrupt | Exhausted)


@given(st.binary(min_size=8, max_size=12))
def test_number_fields_are_numbers_or_corrupt(field: bytes) -> None:
    try:
        value = number(field, "field")
    except Corrupt:
        return
    assert -(256 ** len(field)) < value < 256 ** len(field)
