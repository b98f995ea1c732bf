"""Our EROFS files, judged by the kernel, by fsck.erofs and by GNU tar."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from fixtures import kernel
from fixtures.command import run
from fixtures.host import tool
from layers import SINKS, SinkKind, ingest, mounted, seen, stacked
from mesocosm.errors import Corrupt, Exhausted, InvalidConfig, NotFound
from mesocosm.images.digest import Digest
from mesocosm.images.erofs.file import SealKind, seal_of
from mesocosm.images.erofs.merge import write_merged
from mesocosm.images.erofs.reader import ErofsImage
from mesocosm.images.erofs.sink import ErofsSink
from mesocosm.images.layers.facts import ErofsFacts
from mesocosm.images.layers.mounts import mount_image
from mesocosm.images.layers.stream import LayerIngest
from mesocosm.images.limits import Limits
from tarballs import CHARACTER, FIFO, Member, archive, directory, file, hardlink, symlink
from trees import differences, snapshot

EROFS: tuple[SinkKind, ...] = ("erofs-a", "erofs-i")
FORMS = ("--format=posix", "--format=posix --sparse", "--format=gnu --sparse")
"""Options of GNU tar."""

CHAIN = Digest("sha256", "ab" * 32)


def fsck(path: Path) -> None:
    """fsck.erofs of Debian 12 knows blocks of 4 KiB only."""
    run("fsck.erofs", path)


def rich_tree(root: Path) -> None:
    """One of everything that a layer can hold."""
    (root / "sub/deep").mkdir(parents=True)
    for size in (0, 1, 511, 512, 3071, 3072, 3073, 4095, 4096, 4097, 8192, 8192 + 3072, 70_000, 300_001):
        (root / f"size-{size}").write_bytes(os.urandom(size))
    many = root / "many"
    many.mkdir()
    for index in range(700):
        (many / f"a rather long name to fill blocks of directory entries {index:04}").write_bytes(
            b"x" * (index % 9)
        )
    (root / ("n" * 255)).write_text("longest name")
    (root / "link").symlink_to("size-1")
    (root / "long link").symlink_to("x" * 4000)
    os.link(root / "size-4097", root / "sub/hard")
    os.link(root / "size-4097", root / "many/hard")
    os.link(root / "link", root / "sub/hard link to link", follow_symlinks=False)
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "big minor", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    os.setxattr(root / "size-512", "user.note", b"small")
    os.setxattr(root / "size-3072", "user.large", b"v" * 2500)
    os.setxattr(root / "sub", "user.dir", b"\0binary\xff")
    os.setxattr(
        root / "size-1", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(5 << 20)
        sparse.seek(1 << 20)
        sparse.write(os.urandom(9000))
        sparse.seek(4 << 20)
        sparse.write(os.urandom(4096))
    with open(root / "hole", "wb") as hole:
        hole.truncate(3 << 20)
    os.chown(root / "size-1", 1000, 2**31)
    (root / "size-1").chmod(0o6755)
    (root / "sub").chmod(0o1777)
    for path in (root / "size-1", root / "link", root / "sub/deep", root / "fifo"):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.utime(root / "size-0", ns=(0, -1_500_000_000))


def gnu_tar(root: Path, *options: str) -> bytes:
    """The tree as GNU tar archives it; its own format has no place for attributes."""
    xattrs = () if "--format=gnu" in options else ("--xattrs", "--xattrs-include=*")
    command = ["tar", "-C", str(root), "--numeric-owner", *xattrs, *options, "-cf", "-", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def unpacked_by_gnu_tar(blob: bytes, target: Path) -> Path:
    """The archive as GNU tar unpacks it."""
    target.mkdir()
    command = ["tar", "-C", str(target), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-"]
    subprocess.run(command, input=blob, check=True)
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree to archive."""
    root = tmp_path_factory.mktemp("source") / "root"
    root.mkdir()
    rich_tree(root)
    return root


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("form", FORMS)
def test_same_tree_as_gnu_tar(kind: SinkKind, form: str, source: Path, tmp_path: Path) -> None:
    blob = gnu_tar(source, *form.split())
    expected = snapshot(unpacked_by_gnu_tar(blob, tmp_path / "gnu"), holes="--sparse" in form)
    ingest(kind, tmp_path / "layer", blob)
    with seen(kind, tmp_path / "layer") as root:
        assert differences(snapshot(root, holes="--sparse" in form), expected) == []


@pytest.mark.parametrize("form", FORMS)
def test_fsck_finds_nothing_wrong(form: str, source: Path, tmp_path: Path) -> None:
    ingest("erofs-a", tmp_path / "layer", gnu_tar(source, *form.split()))
    fsck(tmp_path / "layer")


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_pax_sparse_versions(kind: SinkKind, version: str, source: Path, tmp_path: Path) -> None:
    blob = gnu_tar(source, "--format=posix", "--sparse", f"--sparse-version={version}")
    ingest(kind, tmp_path / "layer", blob)
    with seen(kind, tmp_path / "layer") as root:
        ours = snapshot(root, holes=True)
    theirs = snapshot(source, holes=True)
    for name in (b"sparse", b"hole"):
        assert ours[name] == theirs[name]


@pytest.mark.parametrize("kind", SINKS)
def test_same_tree_as_bsdtar_writes_and_umoci_unpacks(kind: SinkKind, source: Path, tmp_path: Path) -> None:
    """libarchive's own form of attributes; umoci as the judge of the layer."""
    command = [tool("bsdtar"), "-C", str(source), "--format=pax", "--xattrs", "-cf", "-", "."]
    blob = subprocess.run(command, check=True, capture_output=True).stdout
    expected = snapshot(unpacked_by_umoci([blob], tmp_path))
    ingest(kind, tmp_path / "layer", blob)
    with seen(kind, tmp_path / "layer") as root:
        assert differences(snapshot(root), expected) == []


def unpacked_by_umoci(blobs: list[bytes], tmp_path: Path) -> Path:
    """A stack of layers as umoci unpacks it."""
    layout = tmp_path / "layout"
    image = f"{layout}:latest"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", image)
    for index, blob in enumerate(blobs):
        layer = tmp_path / f"umoci-{index}.tar"
        layer.write_bytes(blob)
        run("umoci", "raw", "add-layer", "--image", image, layer)
    target = tmp_path / "umoci"
    run("umoci", "raw", "unpack", "--image", image, target)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["erofs-a", "erofs-i", "apply"])
def test_real_system_files(kind: SinkKind, tmp_path: Path) -> None:
    command = ["tar", "-C", "/", "--numeric-owner", "-cf", "-", "etc/alternatives", "usr/share/doc/libc6"]
    command += ["usr/share/zoneinfo", "usr/lib/python3.11/email"]
    blob = subprocess.run(command, check=True, capture_output=True).stdout
    expected = snapshot(unpacked_by_gnu_tar(blob, tmp_path / "gnu"))
    ingest(kind, tmp_path / "layer", blob)
    with seen(kind, tmp_path / "layer") as root:
        ours = snapshot(root)
    for implied in (b".", b"etc", b"usr", b"usr/lib", b"usr/lib/python3.11", b"usr/share", b"usr/share/doc"):
        assert ours.pop(implied).mtime == 0
        expected.pop(implied)
    assert differences(ours, expected) == []


@pytest.mark.parametrize("kind", EROFS)
def test_deterministic_whatever_the_pieces(kind: SinkKind, source: Path, tmp_path: Path) -> None:
    blob = gnu_tar(source, "--format=posix", "--sparse")
    facts = [ingest(kind, tmp_path / f"{piece}", blob, piece=piece).made for piece in (1 << 20, 4099, 512)]
    contents = [(tmp_path / f"{piece}").read_bytes() for piece in (1 << 20, 4099, 512)]
    assert contents[0] == contents[1] == contents[2]
    assert facts[0] == facts[1] == facts[2]


@pytest.mark.parametrize("kind", EROFS)
def test_seal_tells_of_one_flipped_bit(kind: SinkKind, tmp_path: Path) -> None:
    path = tmp_path / "layer"
    facts = ingest(kind, path, archive(directory(b"./"), file(b"a", b"x" * 9000), file(b"b"))).made
    assert isinstance(facts, ErofsFacts)
    seal: SealKind = "crc32" if kind == "erofs-a" else "sha256"
    assert facts.size == path.stat().st_size
    with open(path, "r+b") as layer:
        assert seal_of(layer.fileno(), seal) == facts.seal
        layer.seek(5000)
        layer.write(b"y")
        layer.flush()
        assert seal_of(layer.fileno(), seal) != facts.seal


def test_sha256_seal_of_form_a(tmp_path: Path) -> None:
    stream = LayerIngest(ErofsSink(tmp_path / "layer", seal="sha256"))
    stream.feed(archive(file(b"a", b"x" * 5000)))
    made = stream.finish().made
    assert isinstance(made, ErofsFacts)
    with open(tmp_path / "layer", "rb") as layer:
        assert seal_of(layer.fileno(), "sha256") == made.seal


def test_torn_file_cannot_be_mounted(tmp_path: Path) -> None:
    """Everything but the last write is there: no magic number, no mount; its whole twin mounts."""
    path = tmp_path / "layer"
    ingest("erofs-a", path, archive(directory(b"./"), file(b"a")))
    whole = path.read_bytes()
    torn = tmp_path / "torn"
    torn.write_bytes(bytes(4096) + whole[4096:])
    with pytest.raises(OSError, match="Invalid argument"):
        mount_image((torn,))
    with pytest.raises(Corrupt):
        ErofsImage(torn)
    with mounted(path) as root:
        assert (root / "a").read_bytes() == b"content"


@pytest.mark.parametrize("kind", SINKS)
def test_nothing_is_left_of_a_failed_ingest(kind: SinkKind, tmp_path: Path) -> None:
    blob = archive(directory(b"d"), file(b"d/a"), file(b"d/b"))
    with pytest.raises(Corrupt):
        ingest(kind, tmp_path / "layer", blob[:1400])
    assert list(tmp_path.iterdir()) == []
    ingest(kind, tmp_path / "layer", blob)
    assert len(list(tmp_path.iterdir())) == 1


def test_reader_tells_what_the_kernel_tells(source: Path, tmp_path: Path) -> None:
    for kind in EROFS:
        path = tmp_path / kind
        ingest(kind, path, gnu_tar(source, "--format=posix", "--sparse"))
        with ErofsImage(path) as image, mounted(path) as root:
            expected = snapshot(root)
            found = dict(image.walk())
            assert found.keys() | {b"."} == expected.keys()
            for name, node in found.items():
                look = expected[name]
                assert stat.S_IMODE(node.mode) == look.mode
                assert (node.uid, node.gid, node.mtime) == (look.uid, look.gid, look.mtime)
                assert node.children is not None or (node.size, node.names) == (look.size, look.nlink)
                assert tuple((key.decode(), value) for key, value in node.xattrs) == look.xattrs
            for name in (b"size-70000", b"link", b"sparse", b"sub/../many/hard", b"size-3072"):
                assert image.read_file(name, 1 << 30) == (root / os.fsdecode(name)).read_bytes()
            with pytest.raises(NotFound):
                image.read_file(b"sub", 100)
            with pytest.raises(NotFound):
                image.read_file(b"many/none", 100)
            with pytest.raises(Exhausted):
                image.read_file(b"size-70000", 100)


# --- several layers -----------------------------------------------------------------------------------------

STACK = (
    archive(
        Member(b"./", b"5", mode=0o755, mtime=5),
        directory(b"keep", 0o711),
        file(b"keep/old", b"old" * 3000),
        directory(b"gone"),
        file(b"gone/x"),
        directory(b"opaque"),
        file(b"opaque/x"),
        file(b"opaque/stays-not"),
        file(b"replaced", b"first"),
        hardlink(b"twin", b"replaced"),
        symlink(b"to", b"keep"),
        directory(b"tmp", 0o1777),
        file(b"odd", b"o" * 4096),
    ),
    archive(
        file(b".wh.gone"),
        directory(b"opaque", 0o700),
        file(b"opaque/new", b"new" * 2000),
        file(b"opaque/.wh..wh..opq", b""),
        file(b"tmp/from-upper", b"u" * 5000),
        Member(b"dev-null", CHARACTER, device=(1, 3)),
    ),
    archive(
        file(b"replaced", b"second" * 1000),
        file(b"keep/.wh.old", b""),
        file(b"keep/young"),
        Member(b"pipe", FIFO),
    ),
)


@pytest.mark.parametrize("kind", EROFS)
def test_merged_is_what_a_stack_shows(kind: SinkKind, tmp_path: Path) -> None:
    """One mount of a merged image, and the tree that the layers make when applied one after the other."""
    kernel.require_merges()
    layers = []
    flat = tmp_path / "flat"
    for index, blob in enumerate(STACK):
        layers.append(tmp_path / f"layer{index}")
        ingest(kind, layers[-1], blob)
        ingest("apply", flat, blob)
    merged = tmp_path / "merged"
    write_merged(merged, layers, CHAIN)
    again = tmp_path / "again"
    write_merged(again, layers, CHAIN)
    assert merged.read_bytes() == again.read_bytes()
    expected = snapshot(flat)
    with mounted(merged, layers) as root:
        ours = snapshot(root)
        assert differences(ours, expected, ignore=("nlink", "same_as")) == []
        assert ours[b"tmp"].mode == 0o1777, "a directory that an upper layer only implied keeps its look"
        assert ours[b"twin"].nlink == 1
    assert expected.keys() == {
        *(b".", b"keep", b"keep/young", b"opaque", b"opaque/new", b"replaced", b"twin", b"to"),
        *(b"tmp", b"tmp/from-upper", b"dev-null", b"pipe", b"odd"),
    }


@pytest.mark.parametrize("kind", ["overlay", "erofs-a", "erofs-i"])
def test_overlay_of_layers_is_what_umoci_unpacks(kind: SinkKind, tmp_path: Path) -> None:
    with_parents = [*STACK[:1], archive(directory(b"tmp", 0o1777))[:-1024] + STACK[1], *STACK[2:]]
    with_parents[2] = archive(directory(b"keep", 0o711))[:-1024] + STACK[2]
    expected = snapshot(unpacked_by_umoci(with_parents, tmp_path))
    paths = [tmp_path / f"layer{index}" for index in range(3)]
    for path, blob in zip(paths, with_parents, strict=True):
        ingest(kind, path, blob)
    with (
        seen(kind, paths[0]) as one,
        seen(kind, paths[1]) as two,
        seen(kind, paths[2]) as three,
        stacked(tmp_path / "stack", [one, two, three]) as root,
    ):
        ours = snapshot(root)
    assert differences(ours, expected, ignore=("nlink", "same_as", "mtime")) == []
    ours.pop(b"."), expected.pop(b".")
    files = {name: look for name, look in ours.items() if look.kind != "directory"}
    assert differences(files, {name: expected[name] for name in files}, ignore=("nlink", "same_as")) == []


def test_merge_refuses_mixed_forms_and_too_many(tmp_path: Path) -> None:
    ingest("erofs-a", tmp_path / "a", archive(file(b"a")))
    ingest("erofs-i", tmp_path / "i", archive(file(b"a")))
    with pytest.raises(InvalidConfig):
        write_merged(tmp_path / "m", [tmp_path / "a", tmp_path / "i"], CHAIN)
    with pytest.raises(Exhausted):
        write_merged(tmp_path / "m", [tmp_path / "a"] * 501, CHAIN)
    assert not (tmp_path / "m").exists()
    write_merged(tmp_path / "m", [tmp_path / "a"] * 500, CHAIN)


def test_empty_layer(tmp_path: Path) -> None:
    """A layer may be empty: 1,024 zero bytes, as docker has it."""
    for kind in SINKS:
        ingest(kind, tmp_path / kind, bytes(1024))
        with seen(kind, tmp_path / kind) as root:
            assert os.listdir(root) == []


# --- space --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SINKS)
def test_full_disk_is_exhausted_and_leaves_nothing(kind: SinkKind, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=True)
    try:
        with pytest.raises(Exhausted, match="space"):
            ingest(kind, small / "layer", archive(file(b"a", os.urandom(1 << 20))))
        assert list(small.iterdir()) == []
        ingest(kind, small / "layer", archive(file(b"a", os.urandom(50_000))))
    finally:
        subprocess.run(["umount", small], check=True)


def test_tails_beyond_the_budget_go_to_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded however many small files there are; what is read stays the same."""
    blob = archive(*(file(b"f%d" % index, b"%d" % index * 50) for index in range(50)))
    ingest("erofs-a", tmp_path / "inline", blob)
    monkeypatch.setattr("mesocosm.images.erofs.sink.TAIL_BUDGET", 1000)
    ingest("erofs-a", tmp_path / "blocks", blob)
    assert (tmp_path / "blocks").stat().st_size > (tmp_path / "inline").stat().st_size
    with mounted(tmp_path / "inline") as one, mounted(tmp_path / "blocks") as two:
        assert differences(snapshot(one), snapshot(two)) == []


def test_produced_bytes_are_bounded(tmp_path: Path) -> None:
    """I-10: members of a kilobyte that each make a megabyte of layer."""
    limits = Limits(stream=64 << 20)
    sparse = io.BytesIO()
    with tarfile.open(fileobj=sparse, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for index in range(400):
            info = tarfile.TarInfo(f"s{index}")
            info.size = 2
            info.pax_headers = {
                "GNU.sparse.map": f"{1 << 33},1,{3 << 33},1",
                "GNU.sparse.size": str(32 << 30),
                "GNU.sparse.numblocks": "2",
            }
            tar.addfile(info, io.BytesIO(b"xy"))
    with pytest.raises(Exhausted):
        ingest("erofs-a", tmp_path / "layer", sparse.getvalue(), limits=limits)
    assert list(tmp_path.iterdir()) == []
