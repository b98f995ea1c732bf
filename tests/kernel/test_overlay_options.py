"""Overlays are the same on every host, and hostile marks in an upper layer show nothing that is hidden."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fixtures import isolated, kernel
from layers import ingest
from mesocosm.errors import InvalidConfig
from mesocosm.linux import mounts, syscalls
from mesocosm.model import RootChanges
from mesocosm.plan.operations import OverlayRoot
from provisions import image_of, new_id, opened, shown
from registry_fixtures import write_layout
from tarballs import archive, directory, file

LOWER = [
    [directory(b"closed"), file(b"closed/secret", b"secret"), file(b"plain", b"p" * 8192, 0o644)],
    [file(b".wh.closed", b""), directory(b"open"), file(b"open/own", b"own")],
]
HOST = "/etc"


@pytest.fixture(params=["by-layer", "one-string"])
def interface(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the kernel's interfaces: option by option, and one string of mount(2)."""
    if request.param == "one-string":
        real = syscalls.fsconfig_set_string

        def old_kernel(fs_fd: int, key: str | bytes, value: str | bytes) -> None:
            if key == "lowerdir+":
                raise OSError(errno.EINVAL, "Unknown parameter 'lowerdir+'")
            real(fs_fd, key, value)

        def no_descriptors(fs_fd: int, key: str | bytes, fd: int) -> None:
            raise OSError(errno.EINVAL, "not a string")

        monkeypatch.setattr(syscalls, "fsconfig_set_string", old_kernel)
        monkeypatch.setattr(syscalls, "fsconfig_set_fd", no_descriptors)
    return str(request.param)


def layers_of(tmp_path: Path) -> tuple[list[str], str, str]:
    """Lower directories, topmost first, with something to hide; an empty upper and work directory."""
    for number, members in enumerate(LOWER):
        ingest("overlay", tmp_path / f"lower-{number}", archive(*members))
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    return [str(tmp_path / f"lower-{n}") for n in (1, 0)], str(tmp_path / "upper"), str(tmp_path / "work")


def attempt(path: str, dir_fd: int) -> str:
    """What comes of opening a name: its content, its names, or the error's."""
    try:
        fd = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        return os.read(fd, 64).decode()
    except IsADirectoryError:
        return " ".join(sorted(os.listdir(fd)))
    finally:
        os.close(fd)


MARKS = {
    "absolute redirect": ("directory", {"redirect": b"/closed"}),
    "relative redirect": ("directory", {"redirect": b"closed"}),
    "redirect out of the layers": ("directory", {"redirect": b"/../../../../etc"}),
    "metacopy": ("file", {"metacopy": b"", "redirect": b"/closed/secret"}),
    "metacopy out of the layers": ("file", {"metacopy": b"", "redirect": b"/../../../../etc/passwd"}),
}
"""What a hostile upper layer has at the name ``planted``: its kind, and attributes of overlayfs."""

NOTHING = ("EPERM", "EACCES", "EIO", "")
"""What may come of opening it: a refusal, or, where kernels like 6.1 found nothing that the mark leads to, a
directory with nothing in it.
"""


@pytest.mark.parametrize("mark", MARKS)
def test_i04_planted_marks_show_nothing(mark: str, interface: str, tmp_path: Path) -> None:
    """What a lower layer's whiteout hides stays hidden; the honest names beside it work."""
    del interface
    lowers, upper, work = layers_of(tmp_path)
    kind, attributes = MARKS[mark]
    planted = Path(upper, "planted")
    if kind == "directory":
        planted.mkdir()
    else:
        planted.write_bytes(b"")
    for name, value in attributes.items():
        os.setxattr(planted, f"trusted.overlay.{name}", value)
    Path(upper, "honest").write_text("honest")

    def look() -> dict[str, str]:
        fd = mounts.overlay(lowers, upper=upper, work=work, options=[("volatile", None)])
        try:
            return {name: attempt(name, fd) for name in ("planted", "honest", "open", "closed")}
        finally:
            os.close(fd)

    seen = isolated.run(look)
    assert seen == {"planted": seen["planted"], "honest": "honest", "open": "own", "closed": "ENOENT"}
    assert seen["planted"] in NOTHING


ODD = ["a:b", "a,b", "a\\b", "a b", "a\\:b,c", "upperdir=x", "\u00e9\n"]


@pytest.mark.parametrize("name", ODD)
def test_i15_any_name_of_a_layer_is_only_a_name(name: str, interface: str, tmp_path: Path) -> None:
    del interface
    for layer in ("1", "2", "upper", "work"):
        (tmp_path / name / layer).mkdir(parents=True)
        (tmp_path / name / layer / layer).touch()
    (tmp_path / name / "work/work").unlink()
    where = str(tmp_path / name)

    def look() -> str:
        lowers = [f"{where}/2", f"{where}/1"]
        fd = mounts.overlay(
            lowers, upper=f"{where}/upper", work=f"{where}/work", options=[("volatile", None)]
        )
        try:
            return attempt(".", fd)
        finally:
            os.close(fd)

    assert isolated.run(look) == "1 2 upper"


def test_no_redirect_is_made_and_data_is_copied_up(interface: str, tmp_path: Path) -> None:
    """A lower directory is not renamed in place (mv copies it); a changed mode takes the data along."""
    del interface
    lowers, upper, work = layers_of(tmp_path)

    def change() -> list[str | int]:
        fd = mounts.overlay(lowers, upper=upper, work=work, options=[("volatile", None)])
        try:
            os.chmod("plain", 0o600, dir_fd=fd)
            os.rename("open", "moved", src_dir_fd=fd, dst_dir_fd=fd)
        except OSError as error:
            return [errno.errorcode[error.errno or 0], os.stat("plain", dir_fd=fd).st_mode & 0o777]
        finally:
            os.close(fd)
        return ["renamed"]

    assert isolated.run(change) == ["EXDEV", 0o600]
    assert Path(upper, "plain").read_bytes() == b"p" * 8192
    assert not [name for name in os.listxattr(Path(upper, "plain")) if "metacopy" in name]


def test_nothing_is_left_to_the_hosts_parameters(
    interface: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every parameter of the module that changes what a mount does is given, read-only mounts included."""
    given: set[str] = set()
    real_mount, real_set = syscalls.mount, syscalls.fsconfig_set_string

    def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
        given.update(word.partition("=")[0] for word in data.split(","))
        real_mount(source, target, kind, flags, data)

    def set_string(fs_fd: int, key: str, value: str) -> None:
        given.add(key)
        real_set(fs_fd, key, value)

    monkeypatch.setattr(syscalls, "mount", mount)
    monkeypatch.setattr(syscalls, "fsconfig_set_string", set_string)
    lowers, _, _ = layers_of(tmp_path)

    def names() -> list[str]:
        os.close(mounts.overlay(lowers))
        return sorted(given)

    parameters = {name.removesuffix("_auto") for name in os.listdir("/sys/module/overlay/parameters")}
    not_options = {"check_copy_up", "redirect_always_follow", "redirect_max", "permit_mounts_in_userns"}
    assert parameters - not_options <= set(isolated.run(names))


async def test_numbers_of_one_file_system_fit_into_32_bits(tmp_path: Path) -> None:
    """What a 32-bit program without large file support can be told: the way for it is --backend overlay.

    The number of a layer's file system is in the highest bits of a 64-bit one, below is its own; but where a
    layer's files have no handles (EROFS before Linux 5.19).
    """
    image = f"oci:{write_layout(image_of([[file(b'f')], [file(b'g')]]), tmp_path / 'layout')}"
    numbers = {}
    async with opened(tmp_path) as provisioner:
        for backend in ("overlay", "erofs"):
            scratch = tmp_path / backend
            step = (await provisioner.provision(new_id(), image, backend=backend, scratch=scratch)).root
            assert isinstance(step, OverlayRoot)
            handles = kernel.has_handles(Path(step.layers[-1]))
            with shown(step, tmp_path / f"{backend}-root") as root:
                numbers[backend] = [entry.inode() for entry in os.scandir(root)]
                assert numbers[backend] == [entry.stat().st_ino for entry in os.scandir(root)]
    own = os.stat(tmp_path).st_ino
    assert max(numbers["overlay"]) < 1 << max(32, own.bit_length() + 1)
    assert (max(numbers["erofs"]) >= 1 << 32) == handles


@pytest.mark.parametrize("backend", ["erofs", "overlay"])
async def test_files_have_one_device_and_keep_their_numbers(backend: str, tmp_path: Path) -> None:
    """``du -x`` and Python's ``ismount`` compare devices; ``tail -F`` and git compare inode numbers.

    Where a layer's files have no handles (EROFS before Linux 5.19), overlayfs has that for directories alone.
    """
    layers = [[file(b"a", b"a"), directory(b"d"), file(b"d/b", b"b")], [file(b"c", b"c")]]
    path = f"oci:{write_layout(image_of(layers), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        root = (await provisioner.provision(new_id(), path, backend=backend, scratch=tmp_path / "s")).root
        assert isinstance(root, OverlayRoot)
        handles = kernel.has_handles(Path(root.layers[-1]))
        with shown(root, tmp_path / "root") as seen:
            (seen / "new").write_text("new")
            names = [seen, *(seen / name for name in ("a", "c", "d", "d/b", "new"))]
            devices = {one.stat().st_dev for one in names}
            assert (seen / "d").stat().st_dev == seen.stat().st_dev
            assert len({(one.stat().st_dev, one.stat().st_ino) for one in names}) == len(names)
            if not handles:
                assert len(devices) == 4, "of directories, of each layer's files, of files made since"
                return
            assert devices == {seen.stat().st_dev}
            assert len({one.stat().st_ino for one in names}) == len(names)
            before = (seen / "d/b").stat().st_ino
            (seen / "d/b").write_text("changed")
            assert (seen / "d/b").stat().st_ino == before


@pytest.mark.parametrize("name", ["upper", "work"])
@pytest.mark.parametrize("kind", ["link", "file"])
async def test_i04_a_kept_upper_that_leads_elsewhere_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    """A backup unpacked by somebody else: ``upper -> /`` would be the host's own root, writable."""
    kept, elsewhere = tmp_path / "kept", tmp_path / "elsewhere"
    elsewhere.mkdir()
    kept.mkdir(mode=0o700)
    if kind == "link":
        (kept / name).symlink_to(elsewhere)
    else:
        (kept / name).write_text("")
    path = f"oci:{write_layout(image_of(LOWER), tmp_path / 'layout')}"
    changes = RootChanges(str(kept))
    async with opened(tmp_path) as provisioner:
        with pytest.raises(InvalidConfig, match=f"{name} is not a directory"):
            await provisioner.provision(new_id(), path, changes=changes, scratch=tmp_path / "s")
        with pytest.raises(InvalidConfig, match=f"{name} is not a directory"):
            await provisioner.preview(path, changes=changes, scratch=tmp_path / "s")
    assert not list(elsewhere.iterdir())
    assert not list(tmp_path.glob("s/*"))


async def test_a_hostile_kept_upper_through_the_provisioner(tmp_path: Path) -> None:
    """The same marks in a directory given as ``--root-changes``: the container sees its own image only."""
    kept = tmp_path / "kept"
    for name in ("upper", "work"):
        (kept / name).mkdir(parents=True, mode=0o755)
    kept.chmod(0o700)
    for name, target in (("hidden", b"/closed"), ("host", HOST.encode())):
        (kept / "upper" / name).mkdir()
        os.setxattr(kept / "upper" / name, "trusted.overlay.redirect", target)
    (kept / "upper/mine").write_text("kept")
    path = f"oci:{write_layout(image_of(LOWER), tmp_path / 'layout')}"
    async with opened(tmp_path) as provisioner:
        changes = RootChanges(str(kept))
        provision = await provisioner.provision(new_id(), path, changes=changes, scratch=tmp_path / "s")
        with shown(provision.root, tmp_path / "root") as seen:
            fd = os.open(seen, os.O_PATH | os.O_DIRECTORY)
            try:
                found = {name: attempt(name, fd) for name in ("hidden", "host", "mine", "open")}
            finally:
                os.close(fd)
    assert found.pop("hidden") in NOTHING and found.pop("host") in NOTHING
    assert found == {"mine": "kept", "open": "own"}
