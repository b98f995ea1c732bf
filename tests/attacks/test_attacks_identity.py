"""Attacks on who the payload is: R-17 to R-21, R-39, R-41.

The peers, as measured for the corpus: crun runs uid 4294967295 as uid 0 (R-18); runc, crun, youki and railcar
all hang on a FIFO as /etc/passwd (R-20).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.commandline import PROGRAM, Answer, CommandLine, spoil
from fixtures.canary import Canary
from mesocosm import ContainerConfig, Containerizer
from mesocosm.errors import LaunchError, MesocosmError

Image = Callable[..., Path]

DEFAULT_CAPABILITIES = "00000000a80425fb"
NONE = "0000000000000000"
STATUS = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status"


def _status(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if line)
    return {name: value.strip() for name, _, value in pairs}


# --- capabilities ---


def test_r17_capability_sets_in_run_and_exec(mesocosm: CommandLine, image: Image) -> None:
    """R-17: inheritable and ambient sets empty in run and exec, the bounding set exactly the wanted one
    (CVE-2022-24769, CVE-2022-29162, CVE-2025-27612).
    """
    everything = dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), DEFAULT_CAPABILITIES)
    nothing_to_inherit = {"CapInh": NONE, "CapAmb": NONE, "NoNewPrivs": "1"}
    root = image()
    container = mesocosm.start(root, "sleep", "600")
    for answer in (mesocosm.shell(root, STATUS), mesocosm.exec(container, "sh", "-c", STATUS)):
        assert _status(answer.accepted()) == everything | nothing_to_inherit
    unprivileged = {"CapPrm": NONE, "CapEff": NONE, "CapBnd": DEFAULT_CAPABILITIES}
    for answer in (
        mesocosm.shell(root, STATUS, "-u", "1000"),
        mesocosm("exec", "-u", "worker", container, "sh", "-c", STATUS),
    ):
        assert _status(answer.accepted()) == unprivileged | nothing_to_inherit


def test_r17_asked_for_capabilities_and_no_more(mesocosm: CommandLine, image: Image) -> None:
    """R-17, benign twins: dropped ones are gone from every set, added ones are there, exec has the same."""
    container = mesocosm.start(
        image(), "sleep", "600", options=("--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE")
    )
    found = _status(mesocosm.exec(container, "sh", "-c", STATUS).accepted())
    only = f"{1 << 10:016x}"
    assert found == {
        "CapInh": NONE,
        "CapPrm": only,
        "CapEff": only,
        "CapBnd": only,
        "CapAmb": NONE,
        "NoNewPrivs": "1",
    }


# --- users and groups ---

USERS_REFUSED = (
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "-1",
    "+1",
    "1e3",
    "\N{ARABIC-INDIC DIGIT THREE}",
    "\N{SUPERSCRIPT TWO}",
    " 1",
    "1 ",
    "0x10",
    "1_0",
    "1:",
    ":1",
    ":",
    "1:-1",
    "1:4294967295",
    "1:\N{ARABIC-INDIC DIGIT THREE}",
    "nobody\n",
    "root/",
)
USERS_TAKEN = {
    "2147483648": "2147483648",
    "4294967294": "4294967294",
    "1000": "1000",
    "worker": "1000",
    "1000:0": "1000",
    "1:4294967294": "1",
}


def test_r18_users_that_are_none_never_become_root(mesocosm: CommandLine, image: Image) -> None:
    """R-18: wraps, signs, other digits, names made of digits (CVE-2016-3697, CVE-2024-40635, CVE-2026-30892);
    crun runs uid 4294967295 as uid 0.  Benign twins: ids up to 2^32 - 2, names.
    """
    root = image()
    passwd = root / "etc/passwd"
    # A line "4294967296:x:0:0::/:/bin/sh" must not make that number a name.
    numbers = [user for user in (*USERS_REFUSED, *USERS_TAKEN) if user.strip().lstrip("+-").isdigit()]
    passwd.write_text("".join(f"{name}:x:0:0::/:/bin/sh\n" for name in numbers) + passwd.read_text())
    found: dict[str, str] = {}

    async def every_user() -> None:
        async with Containerizer.open(root=mesocosm.root, runtime=mesocosm.runtime) as containers:
            running = await containers.create(
                ContainerConfig(image=f"dir:{root}", command=("sleep", "600"), init=True)
            )
            await containers.start(running)
            for user in (*USERS_REFUSED, *USERS_TAKEN):
                try:
                    session = await containers.execute(running, ("id", "-u"), user=user)
                except MesocosmError:
                    continue
                await session.wait()
                found[user] = session.output.stdout.read_text().strip()
                await session.close()
            for user in ("4294967295", "4294967296", "-1", "1:"):
                with pytest.raises(LaunchError):
                    await containers.create(ContainerConfig(image=f"dir:{root}", command=("id",), user=user))
            await containers.remove(running, force=True)

    asyncio.run(every_user())
    assert found == USERS_TAKEN


def test_r19_supplementary_groups_are_the_images_and_no_others(mesocosm: CommandLine, image: Image) -> None:
    """R-19: groups of the caller are dropped, those of the image set, the primary one among them
    (CVE-2022-36109, CVE-2023-25173); a file that denies a group (mode 0604) stays denied to its members.
    """
    root = image()
    with open(root / "etc/group", "a") as groups:
        groups.write("denied:x:4000:worker\n")
    (root / "negative").write_text("negative\n")
    os.chown(root / "negative", 0, 4000)
    (root / "negative").chmod(0o604)
    # The caller is in the group too; only what the image says may count.
    inherited = (4000, 4001)
    ids = "id -G; cat /negative"
    member = mesocosm(
        "run", "--rm", "-q", "-u", "worker", f"dir:{root}", "sh", "-c", ids, extra_groups=inherited
    )
    assert (member.status, sorted(member.out.split())) == (1, ["10", "1000", "4000", "63"])
    stranger = mesocosm(
        "run", "--rm", "-q", "-u", "1234:5678", f"dir:{root}", "sh", "-c", ids, extra_groups=inherited
    )
    assert stranger.accepted() == "5678\nnegative\n"


def _as_fifo(path: Path) -> None:
    os.mkfifo(path)


def _as_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def _as_huge_file(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 30)


def _as_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize("make", [_as_fifo, _as_device, _as_huge_file, _as_directory])
def test_r20_passwd_that_is_no_file_is_refused(
    make: Callable[[Path], None], name: str, mesocosm: CommandLine, image: Image
) -> None:
    """R-20: FIFO, device, 1 GiB file, directory as /etc/passwd or /etc/group (CVE-2024-9676, CVE-2025-4437,
    CVE-2026-47262); all four measured peers hang on the FIFO.
    """
    root = image(f"etc/{name}")
    make(root / "etc" / name)
    mesocosm.run(root, "id", options=("-u", "worker")).refused(f"look up user worker.*/etc/{name}")


def test_r20_passwd_that_leads_out_is_not_read(mesocosm: CommandLine, image: Image, canary: Canary) -> None:
    """R-20: /etc/passwd is a link to a file of the host; benign twins: a link inside, none at all."""
    outside = spoil(image("etc/group"), {"etc/passwd": canary.secret})
    mesocosm.run(outside, "id", options=("-u", "worker")).refused("no user worker")
    canary.assert_unread()
    inside = image()
    (inside / "etc/passwd").rename(inside / "etc/accounts")
    spoil(inside, {"etc/passwd": "/etc/accounts"})
    assert mesocosm.run(inside, "id", "-u", options=("-u", "worker")).accepted() == "1000\n"
    bare = image("etc/passwd", "etc/group")
    assert mesocosm.run(bare, "id", "-u", options=("-u", "77")).accepted() == "77\n"


# --- set-user-ID programs ---


BECOME = """
import os, shutil, sys
place = sys.argv[1]
shutil.copyfile("/usr/bin/python3", place)
os.chmod(place, 0o4755)
if os.fork() == 0:
    os.setgroups([]), os.setgid(1000), os.setuid(1000)
    os.execv(place, [place, "-I", "-c", "import os; print(os.geteuid())"])
os.wait()
"""
"""Makes a set-user-ID program and runs it as somebody else, who says who he has become."""


def test_r21_set_user_id_programs_gain_nothing(mesocosm: CommandLine, debian_root: Path) -> None:
    """R-21: no_new_privs in run and exec; benign twin: set-user-ID works where it is asked for."""

    def become(*options: str) -> str:
        done = mesocosm.run(debian_root, "python3", "-I", "-c", BECOME, "/become", options=options)
        return done.accepted()

    assert become() == "1000\n"
    assert become("--security-opt", "no-new-privileges=false") == "0\n"
    container = mesocosm.start(debian_root, "sleep", "600")
    inside = mesocosm.exec(container, "python3", "-I", "-c", BECOME, "/become")
    assert inside.accepted() == "1000\n"


def test_r41_volumes_give_no_privileges_and_no_devices(
    mesocosm: CommandLine, debian_root: Path, tmp_path: Path
) -> None:
    """R-41: a set-user-ID program and a device node on a volume mean nothing inside, even without
    no_new_privs; benign twins: ``suid`` and ``dev`` ask for them.
    """
    volume = tmp_path / "volume"
    volume.mkdir()
    node = "import os; os.mknod('/volume/null', 0o20666, os.makedev(1, 3)); open('/volume/null', 'w')"

    def run(script: str, options: str) -> Answer:
        return mesocosm.run(
            debian_root, "python3", "-I", "-c", script, "/volume/become",
            options=("--security-opt", "no-new-privileges=false", "-v", f"{volume}:/volume{options}"),
        )  # fmt: skip

    assert run(BECOME, "").accepted() == "1000\n"
    assert run(BECOME, ":suid").accepted() == "0\n"
    (volume / "become").unlink()
    refused = run(node, "")
    assert refused.status == 1
    assert "PermissionError" in refused.err
    (volume / "null").unlink()
    run(node, ":dev").accepted()


# --- our own files ---


def _reachable(path: Path, user: int) -> str:
    """What a user of the host can list below a folder, as that user."""
    done = subprocess.run(
        ["find", path], user=user, group=user, extra_groups=(), capture_output=True, text=True, check=False
    )
    return done.stdout


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_r39_state_is_closed_whatever_the_callers_umask(
    mask: int, mesocosm: CommandLine, image: Image
) -> None:
    """R-39: state folders that others can enter let host users run an image's set-user-ID files
    (CVE-2021-41103, CVE-2021-41091, CVE-2024-25621, CVE-2015-1331).
    """
    for above in (mesocosm.root.parent, *mesocosm.root.parent.parents):
        if above != Path("/tmp") and above.exists() and "pytest" in str(above):
            above.chmod(0o755)
    mesocosm.root.parent.mkdir(exist_ok=True)
    root = image()
    shutil.copyfile(root / "bin/busybox", root / "bin/suid")
    (root / "bin/suid").chmod(0o4755)
    container = mesocosm("run", "-d", "-q", f"dir:{root}", "sleep", "600", umask=mask).accepted().strip()
    mesocosm("exec", container, "cp", "-p", "/bin/suid", "/suid", umask=mask).accepted()
    for place in (mesocosm.root, mesocosm.runtime):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert _reachable(place, 1000) in ("", f"{place}\n")
        open_to_others = [
            path
            for path in place.rglob("*")
            if path.is_dir() and path.stat().st_mode & 0o077 and "upper" not in path.parts
        ]
        assert open_to_others == []
    assert os.access(PROGRAM, os.X_OK)
