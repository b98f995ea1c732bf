"""Attacks by links in images and on volumes: R-03, R-05 to R-09, R-11, R-14, N-08.

The peers, as measured for the corpus: Debian's runc loses R-06 (host folders made within 1 to 102 starts),
runc and crun lose R-11 and R-12.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.commandline import CommandLine, exchanging, spoil
from counts import counts
from fixtures.canary import Canary
from mesocosm import ContainerConfig, Containerizer, HostPathMount, TmpfsMount
from mesocosm.errors import LaunchError, MesocosmError

LEASE = Path("/proc/sys/fs/lease-break-time")
"""A harmless setting of the host that attacks aim at; 45 by default."""

NUMBERS = (*range(3, 9), 20, 22, 32, 33, 34, 255)
"""Descriptors to try: low ones, and where a launcher may keep its own."""

Image = Callable[..., Path]


async def attempt(containers: Containerizer, config: ContainerConfig) -> int:
    """Run to the end; the exit status.  Raises what a refusal raises."""
    container = await containers.create(config)
    try:
        await containers.start(container)
        return (await containers.wait(container)).status
    finally:
        await containers.remove(container, force=True)


# --- working directory through a descriptor ---


def test_r03_working_directory_through_any_descriptor_is_refused(
    mesocosm: CommandLine, image: Image, canary: Canary
) -> None:
    """R-03 "Leaky Vessels": cwd ``/proc/self/fd/N`` and ``/proc/1/fd/N``, also by a link of the image, in run
    and exec (CVE-2024-21626).
    """
    root = image()
    for number in NUMBERS:
        spoil(root, {f"link-{number}": f"/proc/self/fd/{number}"})
    mesocosm.run(root, "pwd", options=("-w", "/proc/self/fd/7")).refused("work in /proc/self/fd/7")
    mesocosm.run(root, "pwd", options=("-w", "/link-7")).refused("work in /link-7")

    async def every_number() -> None:
        async with Containerizer.open(root=mesocosm.root, runtime=mesocosm.runtime) as containers:
            running = await containers.create(
                ContainerConfig(image=f"dir:{root}", command=("sleep", "600"), init=True)
            )
            await containers.start(running)
            for number in NUMBERS:
                for where in (f"/proc/self/fd/{number}", f"/proc/1/fd/{number}", f"/link-{number}/.."):
                    with pytest.raises(LaunchError):
                        session = await containers.execute(running, ("pwd",), workdir=where)
                        await session.wait()
            await containers.remove(running, force=True)

    asyncio.run(every_number())
    canary.assert_unread()


def test_r03_working_directories_of_honest_images_are_entered(mesocosm: CommandLine, image: Image) -> None:
    """R-03, benign twins: missing ones are made, links inside the image are followed."""
    root = spoil(image("var"), {"var/run": "/run"})
    assert mesocosm.run(root, "pwd", options=("-w", "/var/run/new")).accepted() == "/run/new\n"
    assert mesocosm.run(root, "pwd", options=("-w", "/a/../b//c/")).accepted() == "/b/c\n"


# --- where mounts land ---


def test_r05_mount_targets_through_links_land_in_the_root(
    mesocosm: CommandLine, image: Image, canary: Canary, tmp_path: Path
) -> None:
    """R-05: destinations through absolute, relative, dangling links, ``..``, ``//`` (CVE-2018-15664,
    CVE-2019-18837, CVE-2015-1335); benign ones land where the container sees them.
    """
    root = spoil(
        image(),
        {
            "absolute": canary.host,
            "relative": f"{'../' * 24}{str(canary.folder).lstrip('/')}",
            "dangling": canary.host / "new/deep",
            "var/run": "/run",
            "etc/localtime": "../usr/share/zoneinfo/UTC",
        },
    )
    given = tmp_path / "given"
    given.mkdir()
    (given / "file").write_text("given\n")
    targets = {
        "/absolute/in": f"{canary.host}/in",
        "/relative": str(canary.folder),
        "/dangling/below": f"{canary.host}/new/deep/below",
        "/up/../../../other//": "/other",
        "/var/run/service": "/run/service",
    }
    options = [word for target in targets for word in ("-v", f"{given}:{target}")]
    options += ["-v", f"{given / 'file'}:/etc/localtime"]
    script = "".join(f"cat '{place}/file'\n" for place in targets.values())
    done = mesocosm.shell(root, f"{script} cat /usr/share/zoneinfo/UTC", *options)
    assert done.accepted() == "given\n" * (len(targets) + 1)
    canary.assert_unseen(done.out, done.err)


def test_r05_mount_targets_that_lead_nowhere_are_refused(
    mesocosm: CommandLine, image: Image, canary: Canary, tmp_path: Path
) -> None:
    """R-05: loops, and magic links such as ``/proc/self/root/x``, ``/proc/1/cwd``."""
    root = spoil(
        image(), {"loop": "/loop", "a": "/b", "b": "/a", "root": "/proc/self/root", "cwd": "/proc/1/cwd"}
    )
    for number in range(45):
        spoil(root, {f"chain-{number}": f"/chain-{number + 1}/x"})
    given = tmp_path / "given"
    given.mkdir()

    async def every_target() -> None:
        async with Containerizer.open(root=mesocosm.root, runtime=mesocosm.runtime) as containers:
            for target in ("/loop", "/a/x", "/root/x", "/cwd/x", "/chain-0/y", f"/root{canary.folder}"):
                for mount in (HostPathMount(source=str(given), target=target), TmpfsMount(target=target)):
                    with pytest.raises(MesocosmError):
                        await attempt(
                            containers,
                            ContainerConfig(image=f"dir:{root}", command=("true",), mounts=(mount,)),
                        )

    asyncio.run(every_target())
    mesocosm.shell(root, "true", "-v", f"{given}:/root/x").refused("show host path")


@pytest.fixture
def shared(canary: Canary, tmp_path: Path) -> Path:
    """A volume to swap on: ``path`` is a folder, ``evil`` a link out of it."""
    (tmp_path / "shared/path").mkdir(parents=True)
    (tmp_path / "shared/evil").symlink_to(canary.host)
    return tmp_path / "shared"


def _by_path(place: Path, leaf: str) -> None:
    os.makedirs(place / leaf / "deep")


def _looked_at_first(place: Path, leaf: str) -> None:
    if not place.is_symlink():
        os.mkdir(place / leaf)


def _file_by_path(place: Path, leaf: str) -> None:
    os.close(os.open(place / leaf, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW))


@pytest.mark.parametrize("make", [_by_path, _looked_at_first, _file_by_path])
def test_r06_the_swapping_catches_whoever_goes_by_path(
    make: Callable[[Path, str], None], shared: Path, canary: Canary
) -> None:
    """R-06, control: who resolves by path, looking first or not, is led out, and the canary shows it."""
    with exchanging(shared, "path", "evil"):
        for number in range(50_000):
            with contextlib.suppress(OSError):  # led out halfway: the rest of the path is not there
                make(shared / "path", f"made-{number}")
            if (canary.host / f"made-{number}").exists():
                break
    with pytest.raises(AssertionError):
        canary.assert_untouched()
    canary.look_again()


@counts("starts, seconds", (10, 0), (100, 12))
def test_r06_components_swapped_on_a_shared_volume_while_mounting(
    starts: int,
    seconds: int,
    mesocosm: CommandLine,
    image: Image,
    shared: Path,
    canary: Canary,
    tmp_path: Path,
) -> None:
    """R-06 (CVE-2021-30465, CVE-2024-45310): another container swaps a component of a destination during the
    set-up; folders, files and tmpfs: three mounts in each start.  runc loses it within 1 to 102.
    """
    given = tmp_path / "given"
    given.mkdir()
    (given / "file").write_text("given\n")
    config = ContainerConfig(
        image=f"dir:{image()}",
        command=("true",),
        mounts=(
            HostPathMount(source=str(shared), target="/shared"),
            HostPathMount(source=str(given), target="/shared/path/a/b/c"),
            HostPathMount(source=str(given / "file"), target="/shared/path/folder/file"),
            TmpfsMount(target="/shared/path/x/y"),
        ),
    )

    async def every_end() -> list[int | str]:
        async with Containerizer.open(root=mesocosm.root, runtime=mesocosm.runtime) as containers:
            ends: list[int | str] = []
            until = time.monotonic() + seconds
            while len(ends) < starts or time.monotonic() < until:
                try:
                    ends.append(await attempt(containers, config))
                except LaunchError as error:
                    ends.append(str(error))
            return ends

    with exchanging(shared, "path", "evil"):
        ends = asyncio.run(every_end())
    assert 0 in ends, ends
    canary.assert_unread()


# --- the kernel's own views ---


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_r07_proc_or_sys_as_a_link_is_refused(
    name: str, mesocosm: CommandLine, image: Image, canary: Canary
) -> None:
    """R-07: ``/proc`` or ``/sys`` is a link (CVE-2019-19921, CVE-2023-27561, CVE-2025-54867); benign twin: an
    image without them.
    """
    fake = spoil(image(name), {name: "/fake"})
    (fake / "fake").mkdir()
    mesocosm.run(fake, "true").refused(f"mount {name}.* on /{name}")
    outside = spoil(image(name), {name: canary.host})
    mesocosm.run(outside, "true").refused(f"mount {name}.* on /{name}")
    bare = image("proc", "sys")
    assert "proc" in mesocosm.shell(bare, "cat /proc/mounts; ls /sys/kernel").accepted()


def test_r07_r08_nothing_covers_the_kernels_own_views(
    mesocosm: CommandLine, image: Image, tmp_path: Path
) -> None:
    """R-07, R-08: volumes and tmpfs over /proc, /sys and what lies below, by name and by a link of the image
    (CVE-2019-16884, CVE-2025-52881); benign twin: ``/proc/cpuinfo``.
    """
    root = spoil(
        image(),
        {
            "to-proc": "/proc",
            "to-sysctl": "/proc/sys/net",
            "to-attr": "/proc/thread-self/attr",
            "to-sys": "/sys/kernel",
        },
    )
    before = LEASE.read_text()
    given = tmp_path / "given"
    given.mkdir()
    for name in ("exec", "core_pattern"):
        (given / name).symlink_to(LEASE)
    (tmp_path / "cpuinfo").write_text("one processor\n")
    by_name = (
        "/proc",
        "/proc/self/attr",
        "/proc/sys/net",
        "/sys",
        "/sys/kernel",
        "//proc/./sys",
        "/x/../proc",
    )
    by_link = ("/to-proc", "/to-proc/sys/kernel", "/to-sysctl", "/to-attr", "/to-sys")

    async def every_target() -> None:
        async with Containerizer.open(root=mesocosm.root, runtime=mesocosm.runtime) as containers:
            for target in (*by_name, *by_link):
                for mount in (HostPathMount(source=str(given), target=target), TmpfsMount(target=target)):
                    with pytest.raises(MesocosmError):
                        await attempt(
                            containers,
                            ContainerConfig(image=f"dir:{root}", command=("true",), mounts=(mount,)),
                        )
                        pytest.fail(f"{mount} was accepted")

    asyncio.run(every_target())
    done = mesocosm.shell(root, "cat /proc/cpuinfo", "-v", f"{tmp_path / 'cpuinfo'}:/proc/cpuinfo:ro")
    assert done.accepted() == "one processor\n"
    assert LEASE.read_text() == before


def test_r09_r11_devices_of_the_image_are_never_used(
    mesocosm: CommandLine, image: Image, canary: Canary, tmp_path: Path
) -> None:
    """R-09: ``/dev/null`` is a link to a setting of the host (CVE-2025-31133); R-11: ``/dev`` is a link
    (CVE-2026-41579, CVE-2026-47766: runc and both crun fill a host folder).
    """
    before = LEASE.read_text()
    devices = tmp_path / "devices"
    devices.mkdir()
    for name in ("null", "zero", "fd", "stdout", "console"):
        (devices / name).symlink_to(LEASE)
    script = """
        for masked in /proc/keys /proc/timer_list /proc/interrupts; do
            test -s $masked && echo "$masked has content"
            echo 44 > $masked || echo "$masked refused"
        done
        cat /proc/sys/fs/lease-break-time
    """
    done = mesocosm.shell(image(), script, "-v", f"{devices}:/dev")
    assert "has content" not in done.out
    assert LEASE.read_text() == before == done.out.splitlines()[-1] + "\n"
    honest = spoil(image("dev"), {"dev/null": LEASE})
    assert mesocosm.shell(honest, "test -c /dev/null && echo 44 > /dev/null && echo fine").out == "fine\n"
    outside = spoil(image("dev"), {"dev": canary.folder})
    assert mesocosm.shell(outside, "test -c /dev/null && echo made").out == "made\n"
    assert LEASE.read_text() == before


def test_r14_hidden_and_read_only_paths_through_links_change_no_host_mount(
    mesocosm: CommandLine, image: Image, canary: Canary
) -> None:
    """R-14: links of the image where paths are hidden or made read-only: no mount of the host changes."""
    root = spoil(image("sys", "proc"), {})
    for below in ("proc", "sys"):
        (root / below).mkdir()
    spoil(root, {"proc/sys": canary.host, "proc/keys": canary.secret, "sys/firmware": canary.folder})
    mounts = Path("/proc/self/mountinfo").read_text()
    shown = mesocosm.shell(root, "cat /proc/sys/kernel/ostype; ls -A /sys/firmware; cat /proc/keys")
    assert shown.accepted() == "Linux\n"
    assert Path("/proc/self/mountinfo").read_text() == mounts
    (canary.host / "mount" / "inner").touch()  # still writable
    canary.look_again()


# --- N-08: the files of /etc ---


def test_n08_generated_files_never_follow_the_images_links(
    mesocosm: CommandLine, image: Image, canary: Canary
) -> None:
    """N-08: ``/etc/hosts``, ``hostname``, ``resolv.conf`` are links to the host, ``/etc/mtab`` dangles
    (CVE-2024-5154); the container writes through them (CVE-2020-8557); benign twin: they are as generated.
    """
    root = spoil(
        image(),
        {
            "etc/hosts": canary.secret,
            "etc/hostname": f"{'../' * 24}{str(canary.folder).lstrip('/')}/name",
            "etc/resolv.conf": "/run/systemd/resolve/stub-resolv.conf",
            "etc/mtab": canary.host / "mtab",
        },
    )
    script = "cat /etc/hosts /etc/hostname /etc/resolv.conf; echo spoiled >> /etc/hosts; tail -n 1 /etc/hosts"
    done = mesocosm.shell(root, script, "--hostname", "inside")
    assert "127.0.0.1\tlocalhost" in done.accepted()
    assert "\ninside\n" in done.out
    assert done.out.endswith("\nspoiled\n")
    canary.assert_unseen(done.out)
    canary.assert_unread()
    elsewhere = spoil(image("etc"), {"etc": canary.folder})
    assert "localhost" in mesocosm.shell(elsewhere, "cat /etc/hosts").accepted()
