"""Contributions of volume/host_path and volume/image (parity VOL-H, attacks R-07, R-40, R-41)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.isolation import ROOT, container, host, isolator, prepare
from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.isolators.base import ImageVolume
from mesocosm.isolators.volume import host_path
from mesocosm.isolators.volume.targets import PROC_FILES, checked, covers, normal
from mesocosm.linux.mountinfo import parse_mountinfo
from mesocosm.model import (
    HostPathMount,
    IDMap,
    ImageIdentity,
    ImageMount,
    ImageRuntime,
    Mount,
    TmpfsMount,
    parse_idmap,
)
from mesocosm.plan import Contribution, MakeHostDirectory
from mesocosm.plan.operations import BindMount, KeepWritable, MountFilesystem, MountImage, ReadOnlyMount


def volumes(tmp_path: Path, *mounts: Mount) -> Contribution:
    return prepare("volume/host_path", host(tmp_path), mounts=mounts)


def test_a_volume_has_neither_devices_nor_set_user_id_r_41(tmp_path: Path) -> None:
    assert volumes(tmp_path, HostPathMount(source=str(tmp_path), target="/data/")) == Contribution(
        volumes=(BindMount(source=str(tmp_path), target="/data", flags=("nosuid", "nodev")),),
        notes=(f"volume at /data: {tmp_path}",),
    )


def test_unless_asked_for(tmp_path: Path) -> None:
    mount = HostPathMount(source=str(tmp_path), target="/a", options=("suid", "dev", "noexec"))
    (step,) = volumes(tmp_path, mount).volumes
    assert isinstance(step, BindMount) and step.flags == ("noexec",)


def test_a_mapping_of_its_own_or_the_roots(tmp_path: Path) -> None:
    """A mapping to the host's root is somebody's word for it, and then no set-user-ID program counts."""
    roots, own = parse_idmap("0:100000:65536"), parse_idmap("1000:0:1")
    for asked, got, words in (("root", roots, "as the root's"), (own, own, "1000:0:1")):
        mount = HostPathMount(source=str(tmp_path), target="/a", idmap=asked)  # type: ignore[arg-type]
        found = prepare("volume/host_path", host(tmp_path), mounts=(mount,), idmap=roots, image="x")
        (step,) = found.volumes
        assert isinstance(step, BindMount) and step.idmap == got and "nosuid" in step.flags
        assert found.notes == (f"volume at /a: {tmp_path}, owners {words}",)


@pytest.mark.parametrize(
    ("idmap", "more", "why"),
    [
        ("root", {}, "no idmap that this volume could share"),
        (parse_idmap("1000:0:1"), {"options": ("suid",)}, "set-user-ID programs"),
        (parse_idmap("1000:1:1"), {"propagation": "slave"}, "slave propagation"),
        (parse_idmap("1000:1:1"), {"propagation": "shared"}, "shared propagation"),
    ],
)
def test_mappings_that_would_not_be_what_they_seem(
    idmap: IDMap | str, more: dict[str, Any], why: str, tmp_path: Path
) -> None:
    mount = HostPathMount(source=str(tmp_path), target="/a", idmap=idmap, **more)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match=why) as raised:
        volumes(tmp_path, mount)
    assert raised.value.hint


@pytest.mark.parametrize("recursive", [True, False])
def test_read_only_goes_all_the_way_down_r_40(recursive: bool, tmp_path: Path) -> None:
    mount = HostPathMount(source=str(tmp_path), target="/a", read_only=True, recursive=recursive)
    assert volumes(tmp_path, mount).volumes == (
        BindMount(source=str(tmp_path), target="/a", recursive=recursive, flags=("ro", "nosuid", "nodev")),
    )


def test_a_target_is_taken_once(tmp_path: Path) -> None:
    mounts = (TmpfsMount(target="/a/"), ImageMount(source="debian", target="//a"))
    for name in ("volume/host_path", "volume/image"):
        with pytest.raises(InvalidConfig, match="two volumes are mounted on /a"):
            prepare(name, host(tmp_path), mounts=mounts)


def test_an_image_is_shown_by_the_step_that_assembles_it(tmp_path: Path) -> None:
    mount = ImageMount(source="debian:12", target="/x/", subpath="./usr//share/", options=("suid",))
    volume = ImageVolume(
        mount=mount, identity=ImageIdentity(reference="debian", digest="sha256:4f"), root=ROOT
    )
    asked = msgspec.structs.replace(container(mounts=(mount,)), volumes=(volume,))
    assert isolator("volume/image", host(tmp_path)).prepare(asked) == Contribution(
        volumes=(
            MountImage(
                root=ROOT, reference="debian:12", target="/x", subpath="usr/share", flags=("ro", "nodev")
            ),
        ),
        notes=("image at /x: debian:12 (sha256:4f), ./usr//share/, read-only",),
    )


def test_the_images_own_volumes_where_nothing_else_lies(tmp_path: Path) -> None:
    image = ImageRuntime(volumes=("/b/in/it", "/a", "/b/", "/c/d", "/sys/x", "/", "/cc"))
    asked = container(image=image, mounts=(TmpfsMount(target="/c"),))
    found = isolator("volume/image", host(tmp_path)).prepare(asked)
    assert found.volumes == tuple(KeepWritable(target=target) for target in ("/a", "/b", "/cc"))
    assert ["/sys/x" in words or "'/'" in words for words in found.warnings] == [True, True]


def test_a_volume_of_the_image_may_be_read_only(tmp_path: Path) -> None:
    """Where nothing else is asked for; one in another is as that is, and that is told."""
    every = ("/a", "/b", "/b/in", "/b/too", "/c", "/d")
    image = ImageRuntime(volumes=every, fixed_volumes=("/a/", "/b/in", "/c", "/d"))
    found = isolator("volume/image", host(tmp_path)).prepare(
        container(image=image, mounts=(TmpfsMount(target="/c"),))
    )
    assert found.volumes == tuple(KeepWritable(target=target) for target in ("/a", "/b", "/d"))
    assert found.steps == (ReadOnlyMount(target="/a"), ReadOnlyMount(target="/d"))
    assert found.warnings == ("the image's volume /b/in is not read-only, as /b is, in which it lies",)
    assert found.notes[0] == "the image's volume at /a, read-only"


def test_an_image_cannot_declare_any_number_of_volumes(tmp_path: Path) -> None:
    image = ImageRuntime(volumes=tuple(f"/{number}" for number in range(1000)))
    found = isolator("volume/image", host(tmp_path)).prepare(container(image=image))
    assert (len(found.volumes), found.warnings) == (
        64,
        ("the image declares 1000 volumes: 64 are looked at",),
    )


@pytest.mark.parametrize("subpath", ["../a", "a/../b", "/a", "a\0", ".."])
def test_a_part_of_an_image_lies_in_it(subpath: str) -> None:
    with pytest.raises(InvalidConfig, match="not a path within the image"):
        ImageMount(source="debian", target="/x", subpath=subpath)


def test_memory_file_systems(tmp_path: Path) -> None:
    mounts = (
        TmpfsMount(target="/a"),
        TmpfsMount(target="/b", size=1 << 20, mode=0o700, read_only=True, options=("exec",)),
    )
    found = volumes(tmp_path, *mounts)
    assert found.volumes == (
        MountFilesystem(
            fstype="tmpfs", target="/a", options=("mode=1777",), flags=("nosuid", "nodev", "noexec")
        ),
        MountFilesystem(
            fstype="tmpfs",
            target="/b",
            options=("mode=700", "size=1048576"),
            flags=("ro", "nosuid", "nodev"),
        ),
    )
    assert found.notes == ("memory at /a: half of all", "memory at /b: 1 MiB, read-only")


def test_a_missing_source_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=rf"{tmp_path}/no does not exist \(make it first: mkdir -p"):
        volumes(tmp_path, HostPathMount(source=f"{tmp_path}/no", target="/a"))
    assert not (tmp_path / "no").exists()


def test_or_is_made_if_asked(tmp_path: Path) -> None:
    mount = HostPathMount(source=f"{tmp_path}/no", target="/a", create_source=True)
    assert volumes(tmp_path, mount).host == (MakeHostDirectory(path=f"{tmp_path}/no", mode=0o755),)
    assert not (tmp_path / "no").exists()
    there = HostPathMount(source=str(tmp_path), target="/a", create_source=True)
    assert volumes(tmp_path, there).host == ()


@pytest.mark.parametrize("source", ["", "relative", "./x", "/a\0b"])
def test_a_source_is_an_absolute_path(source: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="is not an absolute path"):
        volumes(tmp_path, HostPathMount(source=source, target="/a"))


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//",
        "/.",
        "/a/..",
        "/../..",
        "/proc",
        "/proc/",
        "//proc",
        "/proc/sys",
        "/proc/self/attr",
        "/x/../proc/1",
        "/proc/cpuinfo/../sys",
        "/sys",
        "/sys/fs/cgroup",
        "/./sys/kernel",
    ],
)
def test_the_kernels_own_places_are_refused_r_07(target: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="nothing can be mounted on"):
        volumes(tmp_path, HostPathMount(source=str(tmp_path), target=target))
    with pytest.raises(InvalidConfig, match="nothing can be mounted on"):
        volumes(tmp_path, TmpfsMount(target=target))


@pytest.mark.parametrize("target", ["/process", "/system", "/x/proc", "/dev", "/dev/shm", "/etc"])
def test_their_neighbours_are_not(target: str, tmp_path: Path) -> None:
    (step,) = volumes(tmp_path, HostPathMount(source=str(tmp_path), target=target)).volumes
    assert isinstance(step, BindMount) and not step.trusted


@pytest.mark.parametrize("target", sorted(PROC_FILES))
def test_files_that_only_inform_may_be_covered_r_07(target: str, tmp_path: Path) -> None:
    (step,) = volumes(tmp_path, HostPathMount(source=str(tmp_path), target=target)).volumes
    assert isinstance(step, BindMount) and step.trusted


def test_two_volumes_cannot_lie_on_one_target(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="two volumes are mounted on /a"):
        volumes(tmp_path, TmpfsMount(target="/a"), TmpfsMount(target="/b/../a/"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(("nosuid", "suid"), "nosuid is both on and off"), (("sync",), "option 'sync' is not known")],
)
def test_options_that_cannot_be(options: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=sentence):
        volumes(tmp_path, TmpfsMount(target="/a", options=options))


MOUNTS = """\
1 0 0:1 / / rw - ext4 d rw
2 1 0:2 / /shared rw shared:5 - ext4 d rw
3 2 0:3 / /shared/private rw - tmpfs t rw
4 1 0:4 / /slave rw master:5 - tmpfs t rw
"""


@pytest.mark.parametrize("kind", ["slave", "shared"])
@pytest.mark.parametrize(
    ("source", "shared"),
    [
        ("/shared", True),
        ("/shared/x", True),
        ("/shared/private/x", False),
        ("/sharedx", False),
        ("/slave", False),
    ],
)
def test_only_shared_mounts_propagate_vol_h(
    kind: str, source: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_path, "read_mountinfo", lambda: parse_mountinfo(MOUNTS))
    mount = HostPathMount(source=source, target="/a", propagation=kind, create_source=True)  # type: ignore[arg-type]
    if shared:
        (step,) = volumes(tmp_path, mount).volumes
        assert isinstance(step, BindMount) and step.propagation == kind
    else:
        with pytest.raises(InvalidConfig, match="is not shared on the host"):
            volumes(tmp_path, mount)


_paths = st.text("/.ab", max_size=12).map(lambda text: "/" + text)


@given(_paths)
def test_normal_paths_have_one_form(path: str) -> None:
    place = normal(path)
    assert place == normal(place) == "/" + place.lstrip("/")
    assert not {".", "..", ""} & set(place.split("/")[1:]) or place == "/"


@given(_paths, _paths)
def test_covering_is_by_whole_names(above: str, path: str) -> None:
    place, top = normal(path), normal(above)
    inside = top == "/" or place.split("/")[: len(top.split("/"))] == top.split("/")
    assert covers((top,), path) == inside


@given(st.sampled_from(("/proc", "/sys")), _paths)
def test_no_spelling_gets_past_the_check(kernel: str, path: str) -> None:
    place = normal(kernel + path)
    if covers((kernel,), place):
        with pytest.raises(InvalidConfig):
            checked(kernel + path)
