"""linux/mounts against the running kernel: detached, attributed, attached to what is held."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fixtures import host, isolated
from mesocosm.linux import mounts, syscalls
from mesocosm.linux.mounts import MountEntry, read_mountinfo


@contextmanager
def opened(*fds: int) -> Iterator[int]:
    """The first of the descriptors; closes all."""
    try:
        yield fds[0]
    finally:
        for fd in fds:
            os.close(fd)


def names(mount_fd: int) -> list[str]:
    """The listing of a detached mount's root; its own descriptor is O_PATH."""
    with opened(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount_fd)) as fd:
        return sorted(os.listdir(fd))


def entry_at(path: Path) -> MountEntry:
    return next(entry for entry in reversed(read_mountinfo()) if entry.mount_point == str(path))


def attach_at(mount_fd: int, path: Path) -> None:
    """Attach and let go, as the launch side does; the mount namespace of the test holds it from now on."""
    with opened(os.open(path, os.O_PATH), mount_fd) as target:
        mounts.attach(mount_fd, target)


@pytest.mark.parametrize(
    ("make", "magic"),
    [
        (mounts.tmpfs, mounts.TMPFS_MAGIC),
        (mounts.proc, mounts.PROC_SUPER_MAGIC),
        (mounts.sysfs, mounts.SYSFS_MAGIC),
        (mounts.devpts, mounts.DEVPTS_SUPER_MAGIC),
        (mounts.mqueue, 0x19800202),
        (mounts.cgroup2, mounts.CGROUP2_SUPER_MAGIC),
    ],
)
def test_each_filesystem_mounts_detached_and_goes_with_its_descriptor(make: object, magic: int) -> None:
    before = read_mountinfo_text()
    with opened(make()) as fd:  # type: ignore[operator]
        assert syscalls.filesystem_type(fd) == magic
        assert not os.get_inheritable(fd)
        assert read_mountinfo_text() == before, "nobody sees it"


def read_mountinfo_text() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_tmpfs_takes_its_size_mode_owner_and_attributes(tmp_path: Path) -> None:
    def act() -> list[object]:
        fd = mounts.tmpfs(
            size=1 << 20, mode=0o1770, uid=7, gid=8, inodes=10, source="shm", attributes=mounts.SAFE
        )
        attach_at(fd, tmp_path)
        status = os.stat(tmp_path)
        entry = entry_at(tmp_path)
        with open(tmp_path / "big", "wb", buffering=0) as file, pytest.raises(OSError) as raised:
            for _ in range(3):
                file.write(b"x" * (1 << 19))
        return [
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            entry.source,
            entry.options[:4],
            raised.value.errno,
        ]

    mode, uid, gid, source, options, code = isolated.run(act)
    assert (mode, uid, gid, source) == ("0o41770", 7, 8, "shm")
    assert set(options) == {"rw", "nosuid", "nodev", "noexec"}
    assert code == errno.ENOSPC


def test_the_filesystems_own_words_reach_the_error() -> None:
    with pytest.raises(OSError, match="size") as raised:
        os.close(mounts.new_mount("tmpfs", [("size", "lots")]))
    assert raised.value.errno == errno.EINVAL
    with pytest.raises(OSError) as unknown:
        mounts.new_mount("no-such-filesystem")
    assert unknown.value.errno == errno.ENODEV


def test_proc_of_a_new_pid_namespace_shows_nobody_else(tmp_path: Path) -> None:
    def act() -> list[object]:
        attach_at(mounts.proc(), tmp_path)
        with opened(os.open(tmp_path, os.O_PATH)) as fd:
            looks = mounts.is_procfs(fd), mounts.is_sysfs(fd)
        return [sorted(int(name) for name in os.listdir(tmp_path) if name.isdigit()), looks]

    shown, looks = isolated.run(act, flags=syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID)
    assert shown == [1]
    assert looks == [True, False]


def test_a_folder_that_looks_like_proc_is_none(tmp_path: Path) -> None:
    """R-07."""
    (tmp_path / "self").mkdir()
    with opened(os.open(tmp_path, os.O_PATH)) as fd:
        assert not mounts.is_procfs(fd)


def test_proc_subset_hides_the_settings() -> None:
    with opened(mounts.proc(subset="pid", hidepid="ptraceable")) as fd:
        assert "self" in names(fd) and "sys" not in names(fd)


def test_every_devpts_is_its_own() -> None:
    """R-26: the multiplexer of one instance makes terminals in that instance only."""
    with opened(mounts.devpts()) as fd, opened(mounts.devpts()) as other:
        master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY, dir_fd=fd)
        try:
            assert names(fd) == ["0", "ptmx"]
            assert names(other) == ["ptmx"]
        finally:
            os.close(master)


def test_cgroup_v1_mounts_where_the_kernel_has_it() -> None:
    served = next(
        (e for e in read_mountinfo() if e.filesystem == "cgroup" and "freezer" in e.super_options), None
    )
    if served is None:
        host.refuse("this host has no v1 freezer hierarchy")
    with opened(mounts.cgroup1(["freezer"])) as fd:
        assert "cgroup.procs" in names(fd)


# --- attributes, propagation, clones ------------------------------------------------------------------------


def test_a_read_only_clone_is_read_only_all_the_way_down(tmp_path: Path) -> None:
    """R-40: what is mounted below as well, when asked for; and only then."""
    source, target = tmp_path / "source", tmp_path / "target"

    def act(recursive: bool) -> list[bool]:
        attach_at(mounts.tmpfs(), source)
        (source / "below").mkdir()
        attach_at(mounts.tmpfs(), source / "below")
        clone = mounts.clone_tree(str(source))
        mounts.set_attributes(clone, mounts.ATTRIBUTES["ro"], recursive=recursive)
        attach_at(clone, target)
        return [writable(target), writable(target / "below"), writable(source), writable(source / "below")]

    source.mkdir()
    target.mkdir()
    assert isolated.run(lambda: act(True)) == [False, False, True, True]
    assert isolated.run(lambda: act(False)) == [False, True, True, True]


def writable(directory: Path) -> bool:
    try:
        (directory / "probe").touch()
    except OSError as error:
        assert error.errno == errno.EROFS
        return False
    return True


def test_a_clone_without_what_is_mounted_below(tmp_path: Path) -> None:
    def act() -> list[list[str]]:
        attach_at(mounts.tmpfs(), tmp_path)
        (tmp_path / "below").mkdir()
        attach_at(mounts.tmpfs(), tmp_path / "below")
        (tmp_path / "below" / "file").touch()
        with opened(os.open(tmp_path, os.O_PATH)) as fd:
            whole, single = mounts.clone_tree(fd), mounts.clone_tree(fd, recursive=False)
        found = []
        for clone in (whole, single):
            with opened(os.open("below", os.O_RDONLY, dir_fd=clone), clone) as below:
                found.append(os.listdir(below))
        return found

    assert isolated.run(act) == [["file"], []]


def test_a_file_on_a_file(tmp_path: Path) -> None:
    (tmp_path / "from").write_text("from")
    (tmp_path / "onto").write_text("onto")

    def act() -> str:
        attach_at(mounts.clone_tree(str(tmp_path / "from")), tmp_path / "onto")
        return (tmp_path / "onto").read_text()

    assert isolated.run(act) == "from"
    assert (tmp_path / "onto").read_text() == "onto"


def test_every_attribute_by_its_word(tmp_path: Path) -> None:
    def act() -> list[tuple[str, ...]]:
        attach_at(mounts.tmpfs(attributes=0), tmp_path)
        with opened(os.open(tmp_path, os.O_PATH)) as fd:
            shown = []
            for words in (
                ("ro", "nosuid", "nodev", "noexec", "noatime", "nosymfollow"),
                ("strictatime", "nodiratime"),
            ):
                bits = 0
                for word in words:
                    bits |= mounts.ATTRIBUTES[word]
                mounts.set_attributes(fd, bits)
                shown.append(entry_at(tmp_path).options)
            mounts.set_attributes(fd, 0, clear=syscalls.MOUNT_ATTR_RDONLY | mounts.SAFE)
            shown.append(entry_at(tmp_path).options)
        return shown

    first, second, last = isolated.run(act)
    assert set(first) == {"ro", "nosuid", "nodev", "noexec", "noatime", "nosymfollow"}
    assert set(second) == {"ro", "nosuid", "nodev", "noexec", "nosymfollow", "nodiratime"}
    assert set(last) == {"rw", "nosymfollow", "nodiratime"}


def test_propagation_of_a_tree(tmp_path: Path) -> None:
    """R-28: a mount made below a slave does not reach its master, the other way it does."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def act() -> list[object]:
        attach_at(mounts.tmpfs(), tmp_path / "a")
        (tmp_path / "a" / "x").mkdir()
        (tmp_path / "a" / "y").mkdir()
        with opened(os.open(tmp_path / "a", os.O_PATH)) as fd:
            mounts.set_propagation(fd, "shared")
        attach_at(mounts.clone_tree(str(tmp_path / "a")), tmp_path / "b")
        mounts.set_propagation(str(tmp_path / "b"), "slave")
        kinds = [field.split(":")[0] for field in entry_at(tmp_path / "b").propagation]
        attach_at(mounts.tmpfs(), tmp_path / "a" / "x")
        attach_at(mounts.tmpfs(), tmp_path / "b" / "y")
        points = [entry.mount_point for entry in read_mountinfo()]
        return [kinds, str(tmp_path / "b/x") in points, str(tmp_path / "a/y") in points]

    assert isolated.run(act) == [["master"], True, False]


def test_attach_goes_to_what_is_held_not_to_its_name(tmp_path: Path) -> None:
    """R-06: the name is exchanged for a link out while the target is held."""
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    for path in (outside, inside):
        path.mkdir()

    def act() -> list[str]:
        with opened(os.open(inside, os.O_PATH | os.O_DIRECTORY)) as target:
            os.rename(inside, tmp_path / "moved")
            os.symlink(outside, inside)
            fd = mounts.tmpfs()
            mounts.attach(fd, target)
            os.close(fd)
        return [e.mount_point for e in read_mountinfo() if e.mount_point.startswith(str(tmp_path))]

    assert isolated.run(act) == [str(tmp_path / "moved")]


def test_detach_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    os.symlink("place", tmp_path / "link")

    def act() -> list[bool]:
        attach_at(mounts.tmpfs(), tmp_path / "place")
        with pytest.raises(OSError) as raised:
            mounts.detach(str(tmp_path / "link"))
        still = os.path.ismount(tmp_path / "place")
        mounts.detach(str(tmp_path / "place"))
        return [raised.value.errno == errno.EINVAL, still, os.path.ismount(tmp_path / "place")]

    assert isolated.run(act) == [True, True, False]


def test_mount_ids_tell_bind_mounts_of_one_filesystem_apart(tmp_path: Path) -> None:
    (tmp_path / "bind").mkdir()

    def act() -> list[bool]:
        attach_at(mounts.clone_tree(str(tmp_path), recursive=False), tmp_path / "bind")
        with (
            opened(os.open(tmp_path, os.O_PATH)) as one,
            opened(os.open(tmp_path / "bind", os.O_PATH)) as two,
        ):
            return [
                os.path.sameopenfile(one, two),
                syscalls.mount_id(one) == syscalls.mount_id(two),
                syscalls.mount_id(two) == entry_at(tmp_path / "bind").mount_id,
            ]

    assert isolated.run(act) == [True, False, True]


def test_pivot_root_onto_itself(tmp_path: Path) -> None:
    """pivot_root(2), "pivot_root(".", ".")": nothing of the old root is left."""

    def act() -> list[str]:
        attach_at(mounts.tmpfs(), tmp_path)
        (tmp_path / "only").mkdir()
        os.chdir(tmp_path)
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")
        return os.listdir("/")

    assert isolated.run(act) == ["only"]


# --- overlay and erofs --------------------------------------------------------------------------------------


def overlay_listing(tmp_path: Path, layers: int) -> list[str]:
    for index in range(layers):
        (tmp_path / f"l{index}").mkdir()
        (tmp_path / f"l{index}" / f"from-{index}").touch()
        (tmp_path / f"l{index}" / "top").write_text(str(index))
    with opened(mounts.overlay([str(tmp_path / f"l{index}") for index in range(layers)])) as fd:
        with opened(os.open("top", os.O_RDONLY, dir_fd=fd)) as top:
            assert os.read(top, 9) == b"0", "the first layer is the topmost"
        return names(fd)


@pytest.mark.parametrize("layers", [2, 3, 127])
def test_overlay_of_many_layers(tmp_path: Path, layers: int) -> None:
    """I-15: 127 lower directories."""
    assert len(overlay_listing(tmp_path, layers)) == layers + 1


@pytest.mark.parametrize(
    "name", ["a:b", "a,b", "a\\b", "a:b,c\\,d\\:e", "a b", "lowerdir=x,upperdir=y", "ä\n#"]
)
@pytest.mark.parametrize("one_string", [False, True], ids=["by-layer", "one-string"])
def test_no_character_of_a_path_means_anything(
    tmp_path: Path, name: str, one_string: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-15: option injection by the store's path, with both ways that kernels have."""
    if one_string:
        refuse_layers(monkeypatch)
    root = tmp_path / name
    for part in ("low", "mid", "upper", "work"):
        (root / part).mkdir(parents=True)
    (root / "low" / "file").write_text("low")
    (root / "mid" / "other").write_text("mid")
    lowers = [str(root / "mid"), str(root / "low")]

    def act() -> list[str]:
        with opened(mounts.overlay(lowers, upper=str(root / "upper"), work=str(root / "work"))) as fd:
            with opened(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)) as new:
                os.write(new, b"content")
            return names(fd)

    before = len(read_mountinfo())
    assert isolated.run(act) == ["file", "new", "other"]
    assert len(read_mountinfo()) == before
    assert (root / "upper" / "new").read_text() == "content"
    assert os.listdir(root / "low") == ["file"]


def refuse_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel before 6.8, which knows no ``lowerdir+``."""
    real = syscalls.fsconfig_set_string

    def old_kernel(fs_fd: int, key: str | bytes, value: str | bytes) -> None:
        if key == "lowerdir+":
            raise OSError(errno.EINVAL, "unknown parameter")
        real(fs_fd, key, value)

    monkeypatch.setattr(syscalls, "fsconfig_set_string", old_kernel)
    refuse_descriptors(monkeypatch)


def refuse_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel before 6.13, whose overlay takes no descriptors."""

    def old_kernel(fs_fd: int, key: str | bytes, fd: int) -> None:
        raise OSError(errno.EINVAL, "not a string")

    monkeypatch.setattr(syscalls, "fsconfig_set_fd", old_kernel)


def test_overlay_by_path_of_the_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_descriptors(monkeypatch)
    assert len(overlay_listing(tmp_path, 3)) == 4


def test_overlay_in_one_string_of_many_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_layers(monkeypatch)
    assert len(isolated.run(lambda: overlay_listing(tmp_path, 500))) == 501


def test_overlay_in_one_string_moves_no_other_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a layer is called by its number in ``/proc/self/fd``, where one thread is for a moment."""
    refuse_layers(monkeypatch)
    during, mount = [], syscalls.mount

    def watched(*arguments: Any) -> None:  # noqa: ANN401
        during.append((os.readlink("/proc/self/cwd"), os.readlink("/proc/thread-self/cwd")))
        mount(*arguments)

    monkeypatch.setattr(syscalls, "mount", watched)
    here = os.getcwd()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(overlay_listing, tmp_path, 2).result() == ["from-0", "from-1", "top"]
        assert thread.submit(os.getcwd).result() == here
    assert during == [(here, f"/proc/{os.getpid()}/fd")]


def detached_listing(aside: Path, then: Callable[[], object] = lambda: None) -> list[list[str]]:
    """Overlays of two detached mounts, twice of the same; ``then`` is called when they are there."""
    layers = []
    for index in range(2):
        layers.append(mounts.tmpfs())
        os.mkdir(f"from-{index}", dir_fd=layers[-1])
    then()
    found = []
    for _ in range(2):
        with opened(mounts.overlay(layers, aside=str(aside))) as fd:
            found.append(names(fd))
    for layer in layers:
        os.close(layer)
    assert list(mounts.mounts_below(mounts.read_mountinfo(), str(aside))) == []
    return found


def test_detached_mounts_are_layers(tmp_path: Path) -> None:
    assert isolated.run(lambda: detached_listing(tmp_path)) == [["from-0", "from-1"]] * 2


def test_detached_mounts_are_layers_where_the_kernel_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux 6.8 to 6.14: EINVAL until they are attached."""
    monkeypatch.setattr("mesocosm.linux.overlay._Overlay.takes_detached", False)
    create = syscalls.fsconfig_create
    asked = []

    def old_kernel(context: int) -> None:
        asked.append(context)
        if len(asked) % 2:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        create(context)

    def act() -> list[list[str]]:
        return detached_listing(
            tmp_path, lambda: monkeypatch.setattr(syscalls, "fsconfig_create", old_kernel)
        )

    assert isolated.run(act) == [["from-0", "from-1"]] * 2


def test_detached_mounts_are_layers_in_one_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_layers(monkeypatch)
    assert isolated.run(lambda: detached_listing(tmp_path)) == [["from-0", "from-1"]] * 2


@pytest.mark.parametrize("interface", ["by layer", "one string"])
def test_a_writable_view_of_the_whole_root(
    tmp_path: Path, interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two overlays, one on the other, as the host's own root is shown: no layer but ``/`` has a path."""
    if interface == "one string":
        refuse_layers(monkeypatch)
    for part in ("upper", "work"):
        (tmp_path / part).mkdir()
    upper, work = (str(tmp_path / part) for part in ("upper", "work"))

    def act() -> list[bool]:
        cover = mounts.tmpfs()
        os.mkdir("only-here", dir_fd=cover)
        view = mounts.overlay([cover, "/"], aside=work)
        volatile = [("volatile", None)]
        with opened(mounts.overlay([view], upper=upper, work=work, options=volatile), cover, view) as fd:
            os.mkdir("new", dir_fd=fd)
            return [name in names(fd) for name in ("only-here", "proc", "new")]

    assert isolated.run(act) == [True, True, True]
    assert os.listdir(upper) == ["new"]
    assert not os.path.exists("/new")


def test_overlay_options_and_a_broken_one(tmp_path: Path) -> None:
    for part in ("low", "upper", "work"):
        (tmp_path / part).mkdir()
    low, upper, work = (str(tmp_path / part) for part in ("low", "upper", "work"))
    with opened(mounts.overlay([low], upper=upper, work=work, options=[("volatile", None)])) as fd:
        assert names(fd) == []
    with pytest.raises(OSError, match="nonsense") as raised:
        mounts.overlay([low], upper=upper, work=work, options=[("nonsense", "1")])
    assert raised.value.errno == errno.EINVAL


def test_erofs_from_a_file_by_path_and_by_descriptor(tmp_path: Path) -> None:
    """File-backed, without a loop device; with ``directio`` where the kernel has it, without where not."""
    maker = host.tool("mkfs.erofs")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    image = tmp_path / "a:b,c.erofs"
    subprocess.run([maker, str(image), str(tree)], check=True, capture_output=True)
    shutil.rmtree(tree)
    with opened(os.open(image, os.O_RDONLY)) as fd:
        for source in (str(image), fd):
            for directio in (True, False):
                with opened(mounts.erofs(source, directio=directio)) as mounted:
                    assert names(mounted) == ["file"]
                    with pytest.raises(OSError) as raised:
                        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=mounted)
                    assert raised.value.errno == errno.EROFS


def test_owners_mapped_by_a_user_namespace(tmp_path: Path) -> None:
    """An id-mapped mount: files of host user 1000 appear as 0 shifted, no chown."""

    def act() -> list[int]:
        reader, writer = os.pipe()
        pid, pidfd = syscalls.clone3(syscalls.CLONE_NEWUSER, exit_signal=17, pidfd=True)
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        for kind in ("uid", "gid"):
            Path(f"/proc/{pid}/{kind}_map").write_text("0 100000 65536")
        with opened(os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)) as userns:
            fd = mounts.clone_tree(str(tmp_path))
            mounts.set_attributes(fd, 0, userns_fd=userns)
        os.close(writer)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        with opened(fd):
            return [os.stat("file", dir_fd=fd).st_uid]

    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 1000, 1000)
    assert isolated.run(act) == [101000]
