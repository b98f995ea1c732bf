"""linux/beneath against hostile trees: two-sided, the outside is untouched and the benign twin lands
inside.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import isolated
from fixtures.canary import Canary
from mesocosm.linux import mounts, syscalls
from mesocosm.linux.beneath import (
    make_directories,
    make_file,
    make_node,
    make_symlink,
    open_beneath,
    open_in_root,
    read_file,
    remove_tree,
    write_file,
)


class Root:
    """A root file system to attack from: ``path`` on the host, ``fd`` as the launch side holds it."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)

    def directory(self, path: str | bytes, mode: int = 0o755) -> str:
        """Make directories, and where on the host they are."""
        return self.whereabouts(make_directories(self.fd, path, mode))

    def file(self, path: str | bytes) -> str:
        """Make a file, and where on the host it is."""
        return self.whereabouts(make_file(self.fd, path))

    def whereabouts(self, fd: int) -> str:
        """The host path of a descriptor, relative to this root; closes it."""
        try:
            return os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), self.path)
        finally:
            os.close(fd)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    """An empty root."""
    made = Root(tmp_path / "root")
    yield made
    os.close(made.fd)


@pytest.fixture
def outside(canary: Canary) -> Path:
    """The canary's folder, which every attack aims at."""
    return canary.host


# --- destinations through links -----------------------------------------------------------------------


def test_r05_links_out_lead_inside(root: Root, outside: Path) -> None:
    """Absolute, relative and ``..``: each is taken from the root, as the container itself would."""
    os.symlink(outside, root.path / "absolute")
    os.symlink("../" * 30 + str(outside).lstrip("/"), root.path / "relative")
    inside = str(outside).lstrip("/")
    for name in ("absolute", "relative"):
        assert root.directory(f"{name}/made") == f"{inside}/made"
    assert root.file("absolute/file") == f"{inside}/file"
    assert not (outside / "made").exists()


@pytest.mark.parametrize("path", ["../../up", "/../../up", "a/../../../up", "//up", "up/", "./up/.", "/up//"])
def test_r05_dots_and_slashes_end_at_the_root(root: Root, path: str) -> None:
    assert root.directory(path).split("/")[-1] == "up"
    assert (root.path / "up").is_dir()


def test_r05_benign_links_are_followed(root: Root) -> None:
    """``/var/run -> /run`` and friends, present or still missing."""
    (root.path / "var").mkdir()
    os.symlink("/run", root.path / "var" / "run")
    assert root.directory("/var/run/mesocosm", 0o711) == "run/mesocosm"
    assert stat.S_IMODE((root.path / "run" / "mesocosm").stat().st_mode) == 0o711
    (root.path / "usr" / "share").mkdir(parents=True)
    (root.path / "usr" / "share" / "zone").write_text("zone")
    (root.path / "etc").mkdir()
    os.symlink("../usr/share/zone", root.path / "etc" / "localtime")
    assert root.file("/etc/localtime") == "usr/share/zone"
    assert (root.path / "usr" / "share" / "zone").read_text() == "zone"


def test_r05_dangling_links_make_their_target_inside(root: Root, outside: Path) -> None:
    os.symlink(outside / "new", root.path / "file")
    os.symlink("b/c", root.path / "dir")
    inside = str(outside).lstrip("/")
    assert root.file("file") == f"{inside}/new"
    assert root.directory("dir/d") == "b/c/d"
    assert not (outside / "new").exists()


@pytest.mark.parametrize("links", [1, 39])
def test_r05_chains_of_links_work_up_to_the_kernels_limit(root: Root, links: int) -> None:
    for index in range(links):
        os.symlink(f"{index + 1}", root.path / str(index))
    assert root.directory("0/end") == f"{links}/end"


def test_r05_loops_end(root: Root) -> None:
    """A loop, a chain of more than forty, and one that grows as it is followed."""
    os.symlink("b", root.path / "a")
    os.symlink("a", root.path / "b")
    for index in range(60):
        os.symlink(f"c{index + 1}", root.path / f"c{index}")
    os.symlink("grow/x", root.path / "grow")
    for path in ("a", "a/x", "c0", "c0/x", "grow", "grow/y"):
        for make in (make_directories, make_file):
            with pytest.raises(OSError) as raised:
                make(root.fd, path)
            assert raised.value.errno == errno.ELOOP


def test_r05_magic_links_are_refused(root: Root) -> None:
    """``/proc/self/root/x`` inside the root; the procfs itself is fine."""

    def act() -> list[int | None]:
        here = os.open(root.path, os.O_PATH)
        mounts.attach(mounts.proc(), make_directories(here, "proc"))
        codes = []
        for path in (
            "proc/self/root/tmp/x",
            "proc/self/cwd/x",
            f"proc/self/fd/{here}/x",
            f"proc/{os.getpid()}/root",
        ):
            try:
                make_directories(here, path)
            except OSError as error:
                codes.append(error.errno)
        os.close(open_in_root(here, "proc/self/status", os.O_RDONLY))
        return codes

    assert isolated.run(act) == [errno.ELOOP] * 4


def test_a_file_where_a_directory_should_be(root: Root) -> None:
    (root.path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(NotADirectoryError):
            make_directories(root.fd, path)
    for path in ("missing/..", "missing/."):
        with pytest.raises(OSError) as raised:
            make_file(root.fd, f"{path}/..")
        assert raised.value.errno == errno.EISDIR


def test_modes_are_exact_whatever_the_umask(root: Root) -> None:
    """R-39: the umask is ours to set, but a mount point in a root has to be passable by all."""

    def act() -> list[int]:
        os.umask(0o777)
        fds = [
            make_directories(root.fd, "a/b", 0o755),
            make_file(root.fd, "a/file", 0o644),
            make_file(root.fd, "new/file", 0o600, 0o711),
        ]
        make_node(root.fd, "null", stat.S_IFCHR, 0o666, os.makedev(1, 3))
        write_file(root.fd, "etc/hosts", b"x", 0o640)
        paths = ("a", "a/b", "a/file", "new", "new/file", "null", "etc/hosts")
        assert len(fds) == 3
        return [stat.S_IMODE(os.lstat(root.path / path).st_mode) for path in paths]

    assert isolated.run(act) == [0o755, 0o755, 0o644, 0o711, 0o600, 0o666, 0o640]


@pytest.mark.parametrize("proc", ["absent", "planted"])
def test_a_directory_gets_its_mode_without_proc(
    proc: str, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-03: who works in a container's root before Linux 6.6 (no fchmodat2) has the container's ``/proc``."""
    victim = root.path / "victim"
    victim.write_text("x")
    victim.chmod(0o600)
    if proc == "planted":
        (root.path / "proc/self/fd").mkdir(parents=True)
        for number in range(100):
            (root.path / f"proc/self/fd/{number}").symlink_to("/victim")

    def refuse(*arguments: object) -> int:
        ctypes.set_errno(errno.ENOSYS)
        return -1

    monkeypatch.setattr(syscalls, "_fchmodat2", refuse)

    def act() -> None:
        os.umask(0o777)
        os.chroot(root.path)
        make_directories(root.fd, "made/deep", 0o711)

    isolated.run(act)
    modes = [stat.S_IMODE((root.path / name).stat().st_mode) for name in ("made", "made/deep", "victim")]
    assert modes == [0o711, 0o711, 0o600]


def test_what_exists_is_left_as_it_is(root: Root) -> None:
    (root.path / "dir").mkdir(0o700)
    os.mkfifo(root.path / "fifo", 0o600)
    (root.path / "file").write_text("kept")
    assert root.directory("dir", 0o777) == "dir"
    assert [root.file(name) for name in ("fifo", "file")] == ["fifo", "file"]
    assert stat.S_IMODE((root.path / "dir").stat().st_mode) == 0o700
    assert (root.path / "file").read_text() == "kept"


# --- races --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_r06_components_exchanged_for_links_while_directories_are_made(root: Root, outside: Path) -> None:
    """One process exchanges a directory and a link out, without pause, while the other makes what is
    below.
    """
    (root.path / "swap").mkdir()
    os.symlink(outside, root.path / "other")
    pid = os.fork()
    if pid == 0:
        while True:
            syscalls.renameat2(root.fd, "swap", root.fd, "other", syscalls.RENAME_EXCHANGE)
    made = set()
    try:
        for index in range(300):
            for make in (make_directories, make_file):
                try:
                    made.add(root.whereabouts(make(root.fd, f"swap/{make.__name__}-{index}/leaf")))
                except OSError as error:
                    assert error.errno in (errno.ELOOP, errno.ENOENT, errno.EEXIST, errno.EAGAIN)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert made
    assert not any(path.startswith("..") for path in made)
    assert not [name for name in os.listdir(outside) if name.startswith("make_")]


# --- reading and writing ------------------------------------------------------------------------------------


def test_read_a_plain_file_through_benign_links(root: Root) -> None:
    (root.path / "usr").mkdir()
    (root.path / "usr" / "passwd").write_bytes(b"root:x:0:0\n")
    os.symlink("/usr/passwd", root.path / "passwd")
    assert read_file(root.fd, "/passwd", 11) == b"root:x:0:0\n"


def test_r20_anything_but_a_plain_small_file_is_refused(root: Root, outside: Path) -> None:
    """FIFO, device, socket, folder, a link out, too large by one byte: at once, with a typed error."""
    os.mkfifo(root.path / "fifo")
    os.mknod(root.path / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(root.path / "socket", stat.S_IFSOCK | 0o666)
    (root.path / "folder").mkdir()
    (root.path / "large").write_bytes(b"x" * 11)
    (root.path / "huge").touch()
    os.truncate(root.path / "huge", 1 << 40)
    os.symlink(outside / "secret", root.path / "link")
    wanted = {
        "fifo": errno.EINVAL,
        "zero": errno.EINVAL,
        "socket": errno.EINVAL,
        "folder": errno.EINVAL,
        "large": errno.EFBIG,
        "huge": errno.EFBIG,
        "link": errno.ENOENT,
        "missing": errno.ENOENT,
    }
    for name, code in wanted.items():
        with pytest.raises(OSError) as raised:
            read_file(root.fd, name, 10)
        assert raised.value.errno == code, name
        assert raised.value.filename == name


def test_a_written_file_replaces_a_link_instead_of_following_it(root: Root, outside: Path) -> None:
    """N-08: ``/etc/hosts -> /HOST/secret``, and the same as a hard link to another file of the image."""
    (root.path / "etc").mkdir()
    (root.path / "other").write_text("other")
    os.symlink(outside / "secret", root.path / "etc" / "hosts")
    os.link(root.path / "other", root.path / "etc" / "hostname")
    write_file(root.fd, "/etc/hosts", b"127.0.0.1 localhost\n")
    write_file(root.fd, "/etc/hostname", b"box\n")
    assert (root.path / "etc" / "hosts").read_bytes() == b"127.0.0.1 localhost\n"
    assert not (root.path / "etc" / "hosts").is_symlink()
    assert (root.path / "other").read_text() == "other"


def test_links_of_ours_are_made_as_given(root: Root) -> None:
    make_symlink(root.fd, "/proc/self/fd", "dev/fd")
    assert os.readlink(root.path / "dev" / "fd") == "/proc/self/fd"
    with pytest.raises(FileExistsError):
        make_symlink(root.fd, "elsewhere", "dev/fd")


def test_r11_r13_nodes_only_directly_in_the_held_folder(root: Root, outside: Path) -> None:
    os.symlink(outside, root.path / "link")
    for name in ("../null", "link/null", "/null", "", ".", "..", "a/b"):
        with pytest.raises(OSError) as raised:
            make_node(root.fd, name, stat.S_IFCHR, 0o666, os.makedev(1, 3))
        assert raised.value.errno == errno.EINVAL
    with pytest.raises(FileExistsError):
        make_node(root.fd, "link", stat.S_IFCHR, 0o666, os.makedev(1, 3))
    make_node(root.fd, "null", stat.S_IFCHR, 0o666, os.makedev(1, 3))
    status = os.lstat(root.path / "null")
    assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, os.makedev(1, 3))


def test_our_own_state_has_no_links_at_all(root: Root, outside: Path) -> None:
    (root.path / "state").mkdir()
    (root.path / "state" / "file").write_text("ours")
    os.symlink("state", root.path / "link")
    with pytest.raises(OSError) as raised:
        open_beneath(root.fd, "link/file", os.O_RDONLY)
    assert raised.value.errno == errno.ELOOP
    for path in ("../root/state/file", str(root.path / "state" / "file")):
        with pytest.raises(OSError) as raised:
            open_beneath(root.fd, path, os.O_RDONLY)
        assert raised.value.errno == errno.EXDEV
    fd = open_beneath(root.fd, "state/../state/file", os.O_RDONLY)
    assert os.read(fd, 9) == b"ours"
    os.close(fd)


# --- P-07: removing -----------------------------------------------------------------------------------------


def test_p07_links_are_removed_and_not_followed(root: Root, outside: Path) -> None:
    (root.path / "tree" / "a" / "b").mkdir(parents=True)
    os.symlink(outside, root.path / "tree" / "link")
    os.symlink(outside / "folder", root.path / "tree" / "a" / "b" / "link")
    os.symlink(outside, root.path / "toplink")
    os.mkfifo(root.path / "tree" / "a" / "fifo")
    for name in ("tree", "toplink"):
        remove_tree(root.fd, name)
    assert os.listdir(root.path) == []
    remove_tree(root.fd, "tree")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
def test_p07_only_plain_names(root: Root, name: str) -> None:
    (root.path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError) as raised:
        remove_tree(root.fd, name)
    assert raised.value.errno == errno.EINVAL
    assert (root.path / "a" / "b").exists()


def test_p07_mounts_are_not_entered(root: Root, tmp_path: Path) -> None:
    """A bind mount of the same filesystem, which no device number gives away, a tmpfs, and a file's bind."""
    victim = tmp_path / "victim"
    (victim / "keep").mkdir(parents=True)
    (victim / "file").write_text("kept")
    for path in ("tree/bind", "tree/memory", "tree/plain/deep"):
        (root.path / path).mkdir(parents=True)
    for path in ("tree/on-file", "tree/plain/deep/file"):
        (root.path / path).touch()

    def attach(mount_fd: int, path: str) -> None:
        here = os.open(root.path, os.O_PATH)  # of the mount namespace that the call is made in
        mounts.attach(mount_fd, make_file(here, path))

    def act() -> list[object]:
        attach(mounts.clone_tree(str(victim)), "tree/bind")
        attach(mounts.tmpfs(), "tree/memory")
        attach(mounts.clone_tree(str(victim / "file")), "tree/on-file")
        (root.path / "tree" / "memory" / "kept").touch()
        here = os.open(root.path, os.O_PATH)
        with pytest.raises(OSError) as raised:
            remove_tree(here, "tree")
        kept = (root.path / "tree" / "memory" / "kept").exists()
        top = root.path / "top"
        top.mkdir()
        attach(mounts.clone_tree(str(victim)), "top")
        with pytest.raises(OSError) as at_the_top:
            remove_tree(here, "top")
        return [raised.value.errno, kept, sorted(os.listdir(root.path / "tree")), at_the_top.value.errno]

    code, kept, left, at_the_top = isolated.run(act)
    assert code in (errno.EXDEV, errno.EBUSY)
    assert kept
    assert left == ["bind", "memory", "on-file"], "what was not a mount is gone"
    assert at_the_top == errno.EXDEV
    assert sorted(os.listdir(victim)) == ["file", "keep"]
    remove_tree(root.fd, "tree")
    assert not (root.path / "tree").exists(), "the benign twin: without mounts it goes"


@pytest.mark.slow
def test_p07_depth_and_width_exhaust_nothing(root: Root) -> None:
    """Deeper than there may be descriptors, wider than one read of a directory."""
    here = os.dup(root.fd)
    for level in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_PATH, dir_fd=here)
        os.close(here)
        here = below
        if level == 600:
            for index in range(2000):
                os.close(os.open(f"f{index}", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)

    def act() -> bool:
        syscalls.set_rlimit(7, 64, 64)
        remove_tree(root.fd, "d")
        return (root.path / "d").exists()

    assert isolated.run(act) is False


@pytest.mark.slow
def test_p07_directories_exchanged_for_links_while_removing(root: Root, outside: Path) -> None:
    """An exchanger works on the tree while it is removed: nothing outside goes with it."""
    for index in range(40):
        remove_while_exchanging(root, f"tree{index}", outside)
    for name in os.listdir(root.path):
        remove_tree(root.fd, name)
    assert (outside / "folder" / "inner").exists()


def remove_while_exchanging(root: Root, name: str, outside: Path) -> None:
    for index in range(10):
        (root.path / name / f"d{index}" / "below").mkdir(parents=True)
        os.symlink(outside, root.path / name / f"l{index}")
    tree = os.open(root.path / name, os.O_PATH)
    pid = os.fork()
    if pid == 0:
        while True:
            for index in range(10):
                try:
                    syscalls.renameat2(tree, f"d{index}", tree, f"l{index}", syscalls.RENAME_EXCHANGE)
                except OSError:
                    continue
    try:
        remove_tree(root.fd, name)
    except OSError as error:
        assert error.errno in (errno.ENOTEMPTY, errno.ENOTDIR, errno.ELOOP)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(tree)
