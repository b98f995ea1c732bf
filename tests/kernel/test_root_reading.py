"""Roots read from outside: what a container changed as a layer, all of it as an archive, hostile content."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import struct
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from attacks.commandline import exchanging
from fixtures.command import run
from mesocosm.errors import Denied, Exhausted, InvalidConfig, MesocosmError, Unsupported
from mesocosm.images.committing import CommitRequest, Packed, pack
from mesocosm.images.copy_diff import CopyDiff
from mesocosm.images.layered import Layered
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.root_diff import RootDiff
from mesocosm.images.root_tar import RootTar
from mesocosm.images.spool import Spool
from mesocosm.images.stopping import Stopped
from mesocosm.linux import mounts
from mesocosm.model.idmap import parse_idmap
from mesocosm.plan.operations import BindRoot, OverlayRoot
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import directory, file, hardlink, symlink
from trees import snapshot

BASE = image_of(
    [
        [
            directory(b"etc"),
            file(b"etc/hosts", b"base"),
            file(b"etc/motd", b"hello"),
            directory(b"d"),
            file(b"d/one", b"1"),
            directory(b"d/in"),
            file(b"d/in/two", b"2"),
            directory(b"gone"),
            file(b"gone/file"),
            directory(b"again"),
            file(b"again/old"),
            directory(b"var"),
            directory(b"run"),
            symlink(b"var/run", b"/run"),
        ],
        [file(b"big", b"x" * 70_000), file(b"a", b"same"), hardlink(b"b", b"a"), file(b"file-or-dir")],
    ]
)
MOUNTS = ("/proc", "/etc/hosts", "/data/deep", "/var/run/socket")


class Made(NamedTuple):
    """A container's root: where it is mounted, and the directories it is laid together of, or those that it
    was copied from."""

    seen: Path
    directories: tuple[Path, ...]
    copied: tuple[Path, ...] | None = None

    @contextmanager
    def compared(self, *names: str) -> Iterator[RootDiff]:
        with Layered.open(self.directories) as root:
            mounts = {root.resolve(name) for name in names}
            if self.copied is None:
                yield RootDiff(root, mounts)
                return
            with Layered.open((*self.directories, *self.copied)) as beside:
                yield CopyDiff(beside, mounts)

    def told(self, *names: str) -> dict[str, str]:
        """What has changed, by path."""
        with self.compared(*names) as diff:
            return {os.fsdecode(one.entry.path): one.kind for one in diff.walk()}


@contextmanager
def rooted(step: object, where: Path) -> Iterator[Made]:
    assert isinstance(step, OverlayRoot) and step.upper is not None
    with shown(step, where) as seen:
        yield Made(seen, (Path(step.upper), *map(Path, step.layers)))


@asynccontextmanager
async def provisioned(
    provisioner: Provisioner, image: str, where: Path, backend: str | None = None
) -> AsyncIterator[Made]:
    """A container's root of an image, by any backend that takes changes."""
    step = (await provisioner.provision(new_id(), image, backend=backend, scratch=where)).root
    if not isinstance(step, BindRoot):
        with rooted(step, Path(f"{where}-root")) as made:
            yield made
        return
    async with provisioner.leased((await provisioner.inspect(image)).digest) as record:
        root = Path(step.source)
        yield Made(root, (root,), await provisioner.trees(record))


@pytest.fixture
def image(tmp_path: Path) -> str:
    return f"oci:{write_layout(BASE, tmp_path / 'layout')}"


def change(seen: Path) -> None:
    """Everything a layer can say."""
    (seen / "new").write_text("new")
    (seen / "d/one").write_text("other")
    (seen / "d/in/two").unlink()
    (seen / "d/in").chmod(0o700)
    for name in ("gone", "again"):
        shutil.rmtree(seen / name)
    (seen / "again").mkdir()
    (seen / "again/young").write_text("young")
    (seen / "file-or-dir").unlink()
    (seen / "file-or-dir").mkdir()
    os.link(seen / "new", seen / "newer")
    os.symlink("/nowhere", seen / "link")
    os.mkfifo(seen / "pipe")
    os.mknod(seen / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(seen / "new", "user.note", b"\0\n=")
    os.setxattr(seen / "new", "trusted.note", b"of the host")
    os.utime(seen / "new", ns=(1, -1_500_000_001))
    os.chown(seen / "link", 12, 34, follow_symlinks=False)
    (seen / "name\nwith\tany\udcff").write_text("odd")
    (seen / "set").write_text("id")
    (seen / "set").chmod(0o6755)
    with (seen / "sparse").open("wb") as sparse:
        sparse.truncate(40 << 20)
        sparse.seek(10 << 20)
        sparse.write(b"middle")
    (seen / ("long" * 40)).mkdir()
    (seen / ("long" * 40) / ("file" * 40)).write_text("deep")


def mount_points(seen: Path) -> None:
    """As set-up leaves them."""
    for name in ("proc", "data", "data/deep"):
        (seen / name).mkdir()
    (seen / "run/socket").touch()


def layer_writer(made: Made, request: CommitRequest, names: tuple[str, ...]) -> Callable[[Spool], object]:
    async def write(spool: Spool) -> Packed:
        with made.compared(*names) as diff:
            return pack(diff, spool, request.compression, threading.Event())

    return write


async def commit(
    provisioner: Provisioner, image: str, made: Made, *names: str, **asked: object
) -> tuple[str, tuple[str, ...]]:
    """Commit a root; the new image's digest, and what was left out."""
    request = CommitRequest(**{"created": 1_600_000_000, **asked})  # type: ignore[arg-type]
    digest = (await provisioner.inspect(image)).digest
    async with provisioner.leased(digest) as record:
        writer = layer_writer(made, request, names)
        done = await provisioner.commit(record, image, request, writer)  # type: ignore[arg-type]
    return done.image.digest, done.left_out


def archive(directories: tuple[Path, ...], **options: object) -> tuple[bytes, list[str]]:
    """A root as a tar."""
    out = io.BytesIO()
    with Layered.open(directories) as root:
        writer = RootTar(root, lambda data: (out.write(data), None)[1], **options)  # type: ignore[arg-type]
        for entry in root.walk():
            writer.add(entry)
        writer.finish()
    return out.getvalue(), writer.left_out


@pytest.mark.parametrize("backend", ["erofs", "overlay", "copy"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_a_committed_image_is_the_root_it_was_made_of(
    backend: str, compression: str, image: str, tmp_path: Path
) -> None:
    async with opened(tmp_path) as provisioner:
        async with provisioned(provisioner, image, tmp_path / "one", backend) as made:
            change(made.seen)
            os.removexattr(made.seen / "new", "trusted.note")
            wanted = snapshot(made.seen)
            digest, left_out = await commit(provisioner, image, made, compression=compression)
            again, _ = await commit(provisioner, image, made, compression=compression)
        assert left_out == () and again == digest
        async with provisioned(provisioner, digest, tmp_path / "two", backend) as made:
            found = snapshot(made.seen)
        for one in (wanted, found):
            one.pop(b".")
        assert found == wanted
        assert (await provisioner.verify(digest)).sound
        image_layers = (await provisioner.inspect(digest)).layers
        assert [layer.diff_id for layer in image_layers[:2]] == [
            layer.diff_id for layer in (await provisioner.inspect(image)).layers
        ]


async def test_umoci_unpacks_a_committed_image_to_the_same_root(image: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        root = (await provisioner.provision(new_id(), image, scratch=tmp_path / "one")).root
        with rooted(root, tmp_path / "r1") as made:
            change(made.seen)
            os.removexattr(made.seen / "new", "trusted.note")
            wanted = snapshot(made.seen)
            await commit(provisioner, image, made, name="example.org/made:1")
        with (tmp_path / "saved.tar").open("wb") as file:
            await provisioner.save(["example.org/made:1"], file.fileno())
    (tmp_path / "saved").mkdir()
    run("tar", "-C", tmp_path / "saved", "-xf", tmp_path / "saved.tar")
    run("umoci", "raw", "unpack", "--image", f"{tmp_path / 'saved'}:1", tmp_path / "tree")
    found = snapshot(tmp_path / "tree")
    for one in (wanted, found):
        one.pop(b".")
    assert found == wanted


async def test_a_commit_makes_a_deep_image_of_one_that_is_not_yet(tmp_path: Path) -> None:
    """The 33rd layer has them mounted as one; a root of such an image is read like any other."""
    deep = image_of([[file(b"n%d" % number)] for number in range(32)])
    image = f"oci:{write_layout(deep, tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        for number in (33, 34):
            root = (await provisioner.provision(new_id(), image, scratch=tmp_path / str(number))).root
            with rooted(root, tmp_path / f"r{number}") as made:
                (made.seen / f"n{number}").touch()
                (made.seen / "n0").unlink(missing_ok=True)
                image, _ = await commit(provisioner, image, made)
                wanted = sorted(path.name for path in made.seen.iterdir())
            found = await provisioner.inspect(image)
            assert (len(found.layers), found.merge is not None) == (number, True)
        root = (await provisioner.provision(new_id(), image, scratch=tmp_path / "last")).root
        with rooted(root, tmp_path / "last-root") as made:
            assert sorted(path.name for path in made.seen.iterdir()) == wanted
            assert len(wanted) == 33


@pytest.mark.parametrize("backend", ["erofs", "copy"])
async def test_changes_are_told_without_our_own_mount_points(
    backend: str, image: str, tmp_path: Path
) -> None:
    async with opened(tmp_path) as provisioner:
        async with provisioned(provisioner, image, tmp_path / "one", backend) as made:
            mount_points(made.seen)
            assert made.told(*MOUNTS) == {}
            assert set(made.told()) == {"data", "data/deep", "proc", "run", "run/socket"}
            digest, _ = await commit(provisioner, image, made, *MOUNTS)
            assert len((await provisioner.inspect(digest)).layers) == 2, "nothing changed: no layer"
            assert (await provisioner.history(digest))[0].created_by == "mesocosm commit"

            (made.seen / "data/deep/own").write_text("written before something lay on it")
            (made.seen / "d/in/two").unlink()
            (made.seen / "etc").chmod(0o700)
            shutil.rmtree(made.seen / "again")
            (made.seen / "again").mkdir()
            made.seen.chmod(0o711)
            assert made.told(*MOUNTS) == {
                "": "changed",
                "again": "changed",
                "again/old": "removed",
                "d": "changed",
                "d/in": "changed",
                "d/in/two": "removed",
                "data": "added",
                "data/deep": "added",
                "data/deep/own": "added",
                "etc": "changed",
            }
            digest, _ = await commit(provisioner, image, made, *MOUNTS)
            changes = {change.path: change.kind for change in await provisioner.compare(image, digest)}
        assert changes == {
            "/again": "changed",
            "/again/old": "removed",
            "/d/in": "changed",
            "/d/in/two": "removed",
            "/data": "added",
            "/data/deep": "added",
            "/data/deep/own": "added",
            "/etc": "changed",
        }


async def test_a_copy_tells_every_way_to_differ_from_its_image(image: str, tmp_path: Path) -> None:
    """Also where size and time are as they were: nobody wrote down what was copied."""
    async with opened(tmp_path) as provisioner:
        async with provisioned(provisioner, image, tmp_path / "one", "copy") as made:
            assert made.told() == {}
            root = made.seen
            kept = {path: path.lstat().st_mtime_ns for path in (root, *root.rglob("*"))}
            (root / "big").write_bytes(b"x" * 69_999 + b"y")
            (root / "a").chmod(0o600)
            os.chown(root / "d/one", 12, 34)
            os.setxattr(root / "d/in/two", "user.note", b"new")
            (root / "var/run").unlink()
            (root / "var/run").symlink_to("/nun")
            (root / "file-or-dir").unlink()
            (root / "file-or-dir").mkdir()
            shutil.rmtree(root / "again")
            (root / "again").write_text("a file")
            (root / "gone/file").unlink()
            for path, time in reversed(kept.items()):
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.utime(path, ns=(time, time), follow_symlinks=False)
            os.utime(root / "etc/motd", ns=(1, 1))
            assert made.told() == {
                **dict.fromkeys(("a", "b", "big", "d", "d/in", "d/in/two", "d/one"), "changed"),
                **dict.fromkeys(("etc", "etc/motd", "file-or-dir", "again", "gone"), "changed"),
                **{"gone/file": "removed", "var": "changed", "var/run": "changed"},
            }
            wanted = snapshot(root)
            digest, _ = await commit(provisioner, image, made)
        async with provisioned(provisioner, digest, tmp_path / "two", "copy") as made:
            assert snapshot(made.seen) == wanted


async def test_a_copy_is_compared_hole_by_hole(tmp_path: Path) -> None:
    holes = image_of([[file(b"f", bytes(8 << 20)), file(b"same", bytes(8 << 20))]])
    image = f"oci:{write_layout(holes, tmp_path / 'layout')}"
    async with (
        opened(tmp_path) as provisioner,
        provisioned(provisioner, image, tmp_path / "one", "copy") as made,
    ):
        for name in ("f", "same"):
            time = (made.seen / name).stat().st_mtime_ns
            with (made.seen / name).open("r+b") as changed:
                changed.truncate(0)
                changed.truncate(8 << 20)
                changed.seek(5 << 20)
                changed.write(b"!" if name == "f" else b"\0")
            os.utime(made.seen / name, ns=(time, time))
        assert made.told() == {"f": "changed"}


async def test_what_an_image_says_is_changed_as_asked(image: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        root = (await provisioner.provision(new_id(), image, scratch=tmp_path / "one")).root
        with rooted(root, tmp_path / "r1") as made:
            (made.seen / "new").touch()
            changes = ('ENTRYPOINT ["/bin/app"]', "ENV PATH=/app OTHER=1", "WORKDIR srv", "EXPOSE 80")
            asked = {"changes": changes, "author": "me", "message": "why", "name": "example.org/made:1"}
            digest, _ = await commit(provisioner, image, made, **asked)
            for bad in (
                "CMD",
                "RUN true",
                "ENV A",
                "USER a:b:c",
                "EXPOSE http",
                "STOPSIGNAL NONE",
                "VOLUME ..",
            ):
                with pytest.raises(InvalidConfig):
                    await commit(provisioner, image, made, changes=(bad,))
            with pytest.raises(InvalidConfig, match="no date"):
                await commit(provisioner, image, made, created=-1)
            with pytest.raises(InvalidConfig, match="not a name to give"):
                await commit(provisioner, image, made, name="oci:somewhere")
        found = await provisioner.inspect("example.org/made:1")
        assert found.digest == digest
        assert found.created == "2020-09-13T12:26:40Z"
        runtime = found.runtime
        assert (runtime.entrypoint, runtime.command) == (("/bin/app",), ())
        assert (runtime.env, runtime.workdir) == (("PATH=/app", "OTHER=1"), "/srv")
        assert runtime.exposed_ports == ("80/tcp",)
        last, *before = await provisioner.history(digest)
        assert (last.comment, last.layer is not None, len(before)) == ("why", True, 2)
        assert list(provisioner.store.root.joinpath("ingest").iterdir()) == []


async def test_an_archive_of_a_root_is_the_root(image: str, tmp_path: Path) -> None:
    """By our own reader, by GNU tar and by Python's."""
    async with opened(tmp_path) as provisioner:
        root = (await provisioner.provision(new_id(), image, scratch=tmp_path / "one")).root
        with rooted(root, tmp_path / "r1") as made:
            change(made.seen)
            wanted = snapshot(made.seen)
            data, left_out = archive(made.directories)
        assert left_out == []
        path = tmp_path / "root.tar"
        path.write_bytes(data)
        assert len(data) < 300_000, "holes are not written"
        imported = await provisioner.import_tarball(path, "example.org/imported:1")
        root = (await provisioner.provision(new_id(), imported.digest, scratch=tmp_path / "two")).root
        with rooted(root, tmp_path / "r2") as made:
            found = snapshot(made.seen)
        note = ("trusted.note", b"of the host")
        new = wanted[b"new"]
        for name in (b"new", b"newer"):
            wanted[name] = wanted[name]._replace(xattrs=tuple(x for x in new.xattrs if x != note))
        for one in (wanted, found):
            one.pop(b".")
        assert found == wanted
        (tmp_path / "gnu").mkdir()
        run("tar", "-C", tmp_path / "gnu", "--xattrs", "--xattrs-include=*", "-xpf", path)
        unpacked = snapshot(tmp_path / "gnu")
        unpacked.pop(b".")
        assert unpacked == wanted
        with tarfile.open(path) as read:
            assert [one.name for one in read] == sorted(
                (one.name for one in read), key=lambda name: os.fsencode(name).split(b"/")
            )


async def test_sockets_are_told_and_devices_go_by_policy(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(upper / "socket\n"))
    os.mknod(upper / "node", stat.S_IFBLK, os.makedev(7, 1))
    data, left_out = archive((upper,), devices="drop")
    assert left_out == [
        "/node is a device node and left out by policy",
        "/socket? is a socket and left out",
    ]
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        assert read.getnames() == []
    with pytest.raises(Denied, match="/node is a device node"):
        archive((upper,), devices="refuse")


@pytest.mark.parametrize("name", [".wh.passwd", ".wh..wh..opq"])
async def test_names_that_would_take_files_away_are_refused_in_layers(name: str, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / name).touch()
    with pytest.raises(Unsupported, match=f"/{name} cannot be in a layer"):
        archive((upper,), whiteouts=True)
    assert name.encode() in archive((upper,))[0]


@pytest.mark.parametrize(("attribute", "option"), [("redirect", "redirect_dir"), ("metacopy", "metacopy")])
async def test_what_other_overlays_keep_elsewhere_is_refused(
    attribute: str, option: str, tmp_path: Path
) -> None:
    """A redirect would show a directory that the image hides; half a file is no file."""
    upper = tmp_path / "upper"
    (upper / "directory").mkdir(parents=True)
    (upper / "file").touch()
    place = upper / ("directory" if attribute == "redirect" else "file")
    os.setxattr(place, f"trusted.overlay.{attribute}", b"/etc")
    with pytest.raises(Unsupported, match=f"/{place.name} was written by an overlay with {option}"):
        archive((upper,))


async def test_what_no_layer_holds_is_refused_by_name(tmp_path: Path) -> None:
    upper, memory = tmp_path / "upper", tmp_path / "memory"
    upper.mkdir()
    memory.mkdir()
    fd = mounts.tmpfs(size=32 << 20)
    target = os.open(memory, os.O_PATH | os.O_DIRECTORY)
    mounts.attach(fd, target)
    os.close(target)
    os.close(fd)
    try:
        (memory / "much").touch()
        for number in range(200):
            os.setxattr(memory / "much", f"user.{number}", b"")
        with pytest.raises(Exhausted, match="/much has 200 extended attributes"):
            archive((memory,))
    finally:
        mounts.detach(str(memory))
    with (upper / "huge").open("wb") as huge:
        huge.truncate(65 << 30)
    with pytest.raises(Exhausted, match="/huge has 69793218560 bytes"):
        archive((upper,))
    (upper / "huge").unlink()
    here = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(Exhausted, match="too long or too deep"):
        archive((upper,))
    with pytest.raises(Exhausted, match="too long or too deep"):
        Made(upper, (upper,)).told()
    run("rm", "-r", upper)  # deeper than pytest can go


@pytest.mark.parametrize("other", ["link", "pipe", "folder", "node"])
def test_what_is_swapped_while_it_is_read_leads_nowhere(other: str, tmp_path: Path) -> None:
    """A-10: a file or a directory that becomes a link to the host's, a pipe, a device, while it is read."""
    upper, secret = tmp_path / "upper", tmp_path / "secret"
    (secret / "below").mkdir(parents=True)
    (secret / "below/canary").write_text("CANARY")
    (upper / "folder/below").mkdir(parents=True)
    (upper / "folder/below/canary").write_text("honest")
    (upper / "victim").write_text("v" * 5000)
    os.symlink(secret, upper / "link")
    os.mkfifo(upper / "pipe")
    os.mknod(upper / "node", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (upper / "outside").mkdir()
    os.symlink(secret / "below", upper / "outside/below")
    first, second = ("folder", "link") if other in ("folder", "link") else ("victim", other)
    with exchanging(upper, first, second):
        for _ in range(150):
            data, _ = archive((upper,))
            assert b"CANARY" not in data
            with tarfile.open(fileobj=io.BytesIO(data)) as read:
                names = read.getnames()
            assert len(names) == len(set(names))
            Made(upper, (upper,)).told()


def test_a10_what_was_listed_as_something_else_is_not_written(tmp_path: Path) -> None:
    """A link where a directory was would lead whoever unpacks its children; what is as it was, is written."""
    upper = tmp_path / "upper"
    for name in ("folder", "same"):
        (upper / name).mkdir(parents=True)
    (upper / "file").touch()
    with Layered.open((upper,)) as root:
        entries = list(root.walk())
        (upper / "folder").rmdir()
        (upper / "folder").symlink_to("/etc")
        (upper / "file").unlink()
        (upper / "file").mkdir()
        out = bytearray()
        writer = RootTar(root, out.extend)
        for entry in entries:
            writer.add(entry)
        writer.finish()
    with tarfile.open(fileobj=io.BytesIO(out)) as read:
        assert read.getnames() == ["same"]


def test_a_file_that_shrinks_or_goes_does_not_break_the_archive(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "file").write_bytes(b"f" * (3 << 20))
    (upper / "gone").touch()
    out = bytearray()

    def put(data: bytes) -> None:
        out.extend(data)
        os.truncate(upper / "file", 1 << 20)
        (upper / "gone").unlink(missing_ok=True)

    with Layered.open((upper,)) as root:
        writer = RootTar(root, put)
        for entry in root.walk():
            writer.add(entry)
        writer.finish()
    assert writer.left_out == ["/file became shorter while it was read: its end is zeroes"]
    with tarfile.open(fileobj=io.BytesIO(out)) as read:
        assert read.getnames() == ["file"]
        extracted = read.extractfile("file")
        assert extracted is not None
        content = extracted.read()
    assert content.rstrip(b"\0") == b"f" * content.index(b"\0")
    assert (len(content), content.index(b"\0")) == (3 << 20, 1 << 20)


def test_writing_ends_when_nobody_wants_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"f" * 1000)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Stopped):
        archive((tmp_path,), stopped=stopped)


def test_owners_are_those_that_the_container_knows(tmp_path: Path) -> None:
    """What a mapped container wrote belongs to the host's IDs; what lies below it does not."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for place in (upper, lower):
        place.mkdir()
    for name, uid, gid in (("root", 100_000, 200_000), ("one", 101_000, 200_001), ("stranger", 5, 5)):
        (upper / name).touch()
        os.chown(upper / name, uid, gid)
    (lower / "image").touch()
    os.chown(lower / "image", 7, 8)
    masks = bytes.fromhex("0000002000000000") + bytes(8)
    os.setxattr(upper / "one", "security.capability", struct.pack("<I16sI", 0x03000001, masks, 100_000))
    out = io.BytesIO()
    owners = parse_idmap("uids=0:100000:65536;gids=0:200000:65536")
    with Layered.open((upper, lower), owners) as root:
        writer = RootTar(root, lambda data: (out.write(data), None)[1])
        for entry in root.walk():
            writer.add(entry)
        writer.finish()
        os.chown(upper, 100_000, 200_000)
        assert "" not in {os.fsdecode(one.entry.path) for one in RootDiff(root, ()).walk()}
    out.seek(0)
    with tarfile.open(fileobj=out) as read:
        found = {one.name: (one.uid, one.gid) for one in read}
        records = read.getmember("one").pax_headers
        held = records["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape")
        assert held == struct.pack("<I", 0x02000001) + masks
    assert found == {"root": (0, 0), "one": (1000, 1), "stranger": (5, 5), "image": (7, 8)}


async def test_a_failure_leaves_nothing_in_the_store(image: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        root = (await provisioner.provision(new_id(), image, scratch=tmp_path / "one")).root
        with rooted(root, tmp_path / "r1") as made:
            (made.seen / ".wh.etc").touch()
            before = [one.digest for one in await provisioner.images()]
            with pytest.raises(MesocosmError, match=r"/\.wh\.etc cannot be in a layer"):
                await commit(provisioner, image, made, name="example.org/never:1")
        assert [one.digest for one in await provisioner.images()] == before
        assert list(provisioner.store.root.joinpath("ingest").iterdir()) == []
        assert provisioner.store.leases.owners("pull-") == []
