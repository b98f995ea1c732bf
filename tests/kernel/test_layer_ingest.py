"""What a layer may do and may not, on every kind of layer: attack rows I-01 and I-04 to I-16, two-sided."""

from __future__ import annotations

import gc
import gzip
import os
import stat
import subprocess
import weakref
import zlib
from pathlib import Path

import pytest
from backports import zstd

from fixtures.host import tool
from layers import SINKS, SinkKind, ingest, new_sink, seen
from mesocosm.errors import Corrupt, Denied, Exhausted
from mesocosm.images.digest import Digest
from mesocosm.images.layers.stream import LayerIngest
from mesocosm.images.limits import Limits, Policy
from tarballs import (
    BLOCK_DEVICE,
    CHARACTER,
    END,
    FIFO,
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
)
from trees import snapshot

pytestmark = pytest.mark.parametrize("kind", SINKS)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def tree_of(kind: SinkKind, path: Path, blob: bytes, policy: Policy = Policy()) -> dict[bytes, object]:  # noqa: B008
    """Ingest, look, and return what is there."""
    ingest(kind, path, blob, policy=policy)
    with seen(kind, path) as root:
        return dict(snapshot(root))


def names_of(kind: SinkKind, path: Path, blob: bytes) -> set[bytes]:
    """The names of a layer."""
    return set(tree_of(kind, path, blob)) - {b"."}


def refused(kind: SinkKind, path: Path, blob: bytes, error: type[Exception] = Corrupt) -> None:
    """Refused with a typed error, and nothing left."""
    with pytest.raises(error):
        ingest(kind, path, blob)
    assert not path.exists()


def test_i01_names_are_cleaned_into_the_root(kind: SinkKind, tmp_path: Path) -> None:
    odd = [b"/abs", b"../up", b"a/../../b", b"./c", b"d//e", b"f/./g", b"/../../../etc/h"]
    blob = archive(*(file(name) for name in odd))
    expected = {b"abs", b"up", b"b", b"c", b"d", b"d/e", b"f", b"f/g", b"etc", b"etc/h"}
    assert names_of(kind, tmp_path / "l", blob) == expected


@pytest.mark.parametrize("name", [b"/", b".", b"./", b"..", b"a/.."])
def test_i01_the_root_may_only_be_a_directory(kind: SinkKind, name: bytes, tmp_path: Path) -> None:
    for entry in (symlink(name, b"/etc"), Member(name, FIFO), hardlink(name, b"x")):
        refused(kind, tmp_path / "l", archive(file(b"x"), entry))
    blob = archive(Member(name, b"5", mode=0o711, mtime=77), file(b"x"))
    ingest(kind, tmp_path / "l", blob)
    with seen(kind, tmp_path / "l") as root:
        status = root.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o711, 77 * 10**9)


@pytest.mark.parametrize(
    "device", ["user.overlay.redirect", "trusted.overlay.redirect", "trusted.overlay.opaque"]
)
def test_i04_overlay_attributes_are_refused(kind: SinkKind, device: str, tmp_path: Path) -> None:
    attack = pax(record(b"SCHILY.xattr." + device.encode(), b"/../.."))
    refused(kind, tmp_path / "l", attack + header(b"x", b"5") + END)
    benign = pax(record(b"SCHILY.xattr.user.overlays", b"mine"))
    ingest(kind, tmp_path / "l", benign + header(b"x", b"5") + END)
    with seen(kind, tmp_path / "l") as root:
        assert os.getxattr(root / "x", "user.overlays") == b"mine"


def test_i04_device_zero_is_refused(kind: SinkKind, tmp_path: Path) -> None:
    refused(kind, tmp_path / "l", archive(Member(b"secret", CHARACTER)))
    names = names_of(kind, tmp_path / "l", archive(Member(b"null", CHARACTER, device=(1, 3))))
    assert names == {b"null"}


@pytest.mark.parametrize("order", [0, 1])
def test_i05_whiteouts_spare_their_own_layer(kind: SinkKind, order: int, tmp_path: Path) -> None:
    own = [directory(b"d"), file(b"d/a"), file(b"x")]
    marks = [file(b"d/.wh..wh..opq", b""), file(b".wh.x", b""), file(b"d/.wh.a", b"")]
    blob = archive(*(own + marks if order else [own[0], *marks, *own[1:]]))
    assert names_of(kind, tmp_path / "l", blob) == {b"d", b"d/a", b"x"}


def test_i05_aufs_marks_mean_nothing(kind: SinkKind, tmp_path: Path) -> None:
    blob = archive(
        directory(b".wh..wh.plnk"), file(b".wh..wh.plnk/1"), file(b".wh..wh.aufs", b""), file(b"x")
    )
    assert names_of(kind, tmp_path / "l", blob) == {b"x"}


def test_i06_devices_by_policy_and_fifos_never_opened(kind: SinkKind, tmp_path: Path) -> None:
    blob = archive(
        Member(b"null", CHARACTER, device=(1, 3)),
        Member(b"disk", BLOCK_DEVICE, device=(8, 0)),
        Member(b"pipe", FIFO),
        Member(b"pipe", FIFO, mode=0o600),
        file(b"pipe", b"a file now"),
        Member(b"last", FIFO),
    )
    kept = tree_of(kind, tmp_path / "keep", blob)
    assert set(kept) == {b".", b"null", b"disk", b"pipe", b"last"}
    dropped = tree_of(kind, tmp_path / "drop", blob, Policy(devices="drop"))
    assert set(dropped) == {b".", b"pipe", b"last"}
    with pytest.raises(Denied):
        ingest(kind, tmp_path / "refuse", blob, policy=Policy(devices="refuse"))
    assert not (tmp_path / "refuse").exists()


def test_i07_set_user_id_and_capabilities_are_kept(kind: SinkKind, tmp_path: Path) -> None:
    blob = member(file(b"su", b"#!", 0o4755)) + member(directory(b"shared", 0o2775))
    blob += pax(record(b"SCHILY.xattr.security.capability", CAPABILITY)) + header(b"ping", uid=5, gid=6) + END
    ingest(kind, tmp_path / "l", blob)
    with seen(kind, tmp_path / "l") as root:
        assert stat.S_IMODE((root / "su").stat().st_mode) == 0o4755
        assert stat.S_IMODE((root / "shared").stat().st_mode) == 0o2775
        assert os.getxattr(root / "ping", "security.capability") == CAPABILITY


def test_i07_malformed_capabilities_are_refused(kind: SinkKind, tmp_path: Path) -> None:
    for value in (b"", b"x" * 20, CAPABILITY[:-1], CAPABILITY + bytes(4)):
        refused(
            kind,
            tmp_path / "l",
            pax(record(b"SCHILY.xattr.security.capability", value)) + header(b"ping") + END,
        )


def test_i08_only_harmless_attributes_are_kept(kind: SinkKind, tmp_path: Path) -> None:
    names = [
        b"user.keep",
        b"security.selinux",
        b"security.ima",
        b"system.posix_acl_access",
        b"trusted.other",
        b"odd",
    ]
    records = b"".join(record(b"SCHILY.xattr." + name, b"v") for name in names)
    blob = pax(records) + header(b"f") + pax(records) + header(b"d", b"5") + pax(records)
    blob += header(b"l", b"2", link=b"f") + END
    ingest(kind, tmp_path / "l", blob)
    with seen(kind, tmp_path / "l") as root:
        found = snapshot(root)
        assert found[b"f"].xattrs == found[b"d"].xattrs == (("user.keep", b"v"),)
        assert found[b"l"].xattrs == ()


def test_i09_bomb_stops_and_leaves_nothing(kind: SinkKind, tmp_path: Path) -> None:
    limits = Limits(ratio=50, ratio_from=1 << 20)
    bomb = gzip.compress(archive(file(b"zeroes", bytes(16 << 20))))
    with pytest.raises(Exhausted):
        ingest(kind, tmp_path / "l", bomb, limits=limits)
    assert list(tmp_path.iterdir()) == []
    ingest(kind, tmp_path / "l", bomb)


def test_i10_apparent_size_is_bounded(kind: SinkKind, tmp_path: Path) -> None:
    def sparse(size: int) -> bytes:
        records = record(b"GNU.sparse.size", b"%d" % size) + record(b"GNU.sparse.map", b"4096,1")
        return pax(records) + header(b"s", size=1) + padded(b"x") + END

    refused(kind, tmp_path / "l", sparse(1 << 40), Exhausted)
    ingest(kind, tmp_path / "l", sparse(1 << 34))
    with seen(kind, tmp_path / "l") as root:
        assert (root / "s").stat().st_size == 1 << 34
        with open(root / "s", "rb") as opened:
            assert opened.read(8192) == bytes(4096) + b"x" + bytes(4095)


@pytest.mark.parametrize("name", [b"n" * 256, b"d/" + b"n" * 300, b"deep/" * 900, b"d/" * 5000 + b"f"])
def test_i11_names_that_no_file_system_takes(kind: SinkKind, name: bytes, tmp_path: Path) -> None:
    with pytest.raises((Corrupt, Exhausted)):
        ingest(kind, tmp_path / "l", archive(file(name)))
    assert not (tmp_path / "l").exists()


def test_i11_names_that_are_just_long_enough(kind: SinkKind, tmp_path: Path) -> None:
    deep = b"/".join([b"n" * 255] * 15)
    names = names_of(kind, tmp_path / "l", archive(file(deep), file(b"\xff\xfe not UTF-8 \n\x1b")))
    assert {deep, b"\xff\xfe not UTF-8 \n\x1b"} < names


def test_i12_members_links_and_depth_are_bounded(kind: SinkKind, tmp_path: Path) -> None:
    links = archive(file(b"f"), *(hardlink(b"l%d" % index, b"f") for index in range(20)))
    for limits in (Limits(entries=20), Limits(links=20)):
        with pytest.raises(Exhausted):
            ingest(kind, tmp_path / "l", links, limits=limits)
    with pytest.raises(Exhausted):
        ingest(kind, tmp_path / "l", archive(file(b"a/b/c/d")), limits=Limits(depth=3))
    way = archive(directory(b"a/a/a"), symlink(b"l", b"a/a/a"), symlink(b"a/a/a/m", b"b/b/b"), file(b"l/m/x"))
    with pytest.raises(Exhausted):
        ingest(kind, tmp_path / "l", way, limits=Limits(depth=5))
    assert list(tmp_path.iterdir()) == []
    ingest(kind, tmp_path / "way", way, limits=Limits(depth=7))
    ingest(kind, tmp_path / "l", links, limits=Limits(entries=21, links=21))
    with seen(kind, tmp_path / "l") as root:
        assert (root / "f").stat().st_nlink == 21


def test_i12_links_that_multiply_are_bounded(kind: SinkKind, tmp_path: Path) -> None:
    loop = archive(symlink(b"a", b"b/b/b/b"), symlink(b"b", b"a/a/a/a"), file(b"a/x"))
    refused(kind, tmp_path / "l", loop)
    chain = [symlink(b"l%d" % index, b"l%d" % (index + 1)) for index in range(41)]
    refused(kind, tmp_path / "l", archive(*chain, directory(b"l41"), file(b"l0/x")))
    names = names_of(kind, tmp_path / "l", archive(*chain[2:], directory(b"l41"), file(b"l2/x")))
    assert b"l41/x" in names


def test_i13_the_last_of_a_name_wins(kind: SinkKind, tmp_path: Path) -> None:
    blob = archive(
        file(b"a", b"first"),
        file(b"a", b"second"),
        directory(b"b"),
        file(b"b/inside"),
        file(b"b", b"a file"),
        file(b"c"),
        directory(b"c"),
        file(b"c/inside"),
        directory(b"d", 0o700),
        file(b"d/stays"),
        directory(b"d", 0o711),
        symlink(b"e", b"a"),
        file(b"e", b"no link"),
        file(b"f"),
        hardlink(b"g", b"f"),
        file(b"f", b"other"),
    )
    ingest(kind, tmp_path / "l", blob)
    with seen(kind, tmp_path / "l") as root:
        found = snapshot(root)
        assert set(found) == {b".", b"a", b"b", b"c", b"c/inside", b"d", b"d/stays", b"e", b"f", b"g"}
        assert (root / "a").read_bytes() == b"second"
        assert (root / "b").read_bytes() == b"a file"
        assert stat.S_IMODE((root / "d").stat().st_mode) == 0o711
        assert (root / "e").read_bytes() == b"no link"
        assert ((root / "f").read_bytes(), (root / "g").read_bytes()) == (b"other", b"content")
        assert found[b"f"].nlink == found[b"g"].nlink == 1


def test_i13_a_link_may_replace_the_directory_of_its_target(kind: SinkKind, tmp_path: Path) -> None:
    blob = archive(directory(b"d"), file(b"d/f", b"kept"), hardlink(b"d", b"d/f"))
    ingest(kind, tmp_path / "l", blob)
    with seen(kind, tmp_path / "l") as root:
        assert (root / "d").read_bytes() == b"kept"
        assert set(snapshot(root)) == {b".", b"d"}


def test_i13_a_file_is_no_way(kind: SinkKind, tmp_path: Path) -> None:
    refused(kind, tmp_path / "l", archive(file(b"f"), file(b"f/x")))
    refused(kind, tmp_path / "l", archive(directory(b"d"), hardlink(b"l", b"d")))


# --- digests ------------------------------------------------------------------------------------------------

PLAIN = archive(directory(b"d"), file(b"d/f", b"data" * 5000))


@pytest.mark.parametrize("encode", [gzip.compress, zstd.compress, bytes])
@pytest.mark.parametrize("wrong", ["nothing", "diff_id", "blob", "longer", "shorter"])
def test_i14_everything_is_checked(kind: SinkKind, encode: type, wrong: str, tmp_path: Path) -> None:
    blob = bytes(encode(PLAIN))
    size = len(blob) + {"longer": 1, "shorter": -1}.get(wrong, 0)
    stream = LayerIngest(
        new_sink(kind, tmp_path / "l"),
        blob=Digest.of(blob + b"x" if wrong == "blob" else blob),
        blob_size=size,
        diff_id=Digest.of(PLAIN + b"x" if wrong == "diff_id" else PLAIN),
    )

    def whole() -> None:
        stream.feed(blob)
        facts = stream.finish()
        assert (facts.diff_id, facts.blob_digest) == (Digest.of(PLAIN), Digest.of(blob))
        assert (facts.tar_size, facts.blob_size, facts.entries) == (len(PLAIN), len(blob), 2)

    if wrong == "nothing":
        whole()
        assert (tmp_path / "l").exists()
    else:
        with pytest.raises(Corrupt):
            whole()
        assert list(tmp_path.iterdir()) == []


def test_i14_other_content_with_a_right_crc(kind: SinkKind, tmp_path: Path) -> None:
    """A byte changed inside the stream and its CRC put right: only the digest can tell."""
    plain = bytearray(PLAIN)
    plain[2000] ^= 1
    blob = gzip.compress(bytes(plain))
    assert zlib.decompress(blob, 31) == plain
    with pytest.raises(Corrupt, match="configuration says"):
        ingest(kind, tmp_path / "l", blob, diff_id=Digest.of(PLAIN))
    assert list(tmp_path.iterdir()) == []


def test_i16_a_second_archive_is_not_unpacked(kind: SinkKind, tmp_path: Path) -> None:
    second = archive(file(b"hidden"))
    for blob in (PLAIN + second, gzip.compress(PLAIN) + gzip.compress(second)):
        refused(kind, tmp_path / "l", blob)
    member_by_member = gzip.compress(PLAIN[:1000]) + gzip.compress(PLAIN[1000:])
    assert names_of(kind, tmp_path / "l", member_by_member) == {b"d", b"d/f"}


def test_abort_leaves_nothing_and_may_come_twice(kind: SinkKind, tmp_path: Path) -> None:
    stream = LayerIngest(new_sink(kind, tmp_path / "l"))
    stream.feed(PLAIN[:9000])
    stream.abort()
    stream.abort()
    assert list(tmp_path.iterdir()) == []


def test_every_compression_gives_the_same_layer(kind: SinkKind, tmp_path: Path) -> None:
    trees = []
    for index, words in enumerate((["gzip"], ["gzip", "-1"], ["zstd"], ["xz"], ["bzip2"], ["cat"])):
        command = [tool(words[0]), *words[1:]]
        blob = subprocess.run(command, input=PLAIN, check=True, capture_output=True).stdout
        facts = ingest(kind, tmp_path / f"l{index}", blob)
        trees.append((facts.diff_id, facts.made))
    assert len(set(map(str, trees))) == 1


def test_a_layer_that_is_done_is_out_of_memory_at_once(kind: SinkKind, tmp_path: Path) -> None:
    """Not when garbage is looked for, which a command that pulls may never do: large layers add up."""
    blob = gzip.compress(archive(file(b"one", b"1" * 1000)))
    sink = new_sink(kind, tmp_path / "layer")
    kept = weakref.ref(sink)
    gc.disable()
    try:
        stream = LayerIngest(sink, blob=Digest.of(blob), blob_size=len(blob))
        stream.feed(blob)
        stream.finish()
        del stream, sink
        assert kept() is None
    finally:
        gc.enable()
