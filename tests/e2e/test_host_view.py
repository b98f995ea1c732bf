"""The image ``host``: what of the host a container sees, what is hidden from it, and that nothing comes back.

The canaries are planted on a copy-on-write copy of this host (planted_host.py): the machine's own secrets are
neither touched nor needed.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

from attacks.commandline import CommandLine
from e2e.planted_host import PLACES, SHOWN
from fixtures.canary import Canary, examine
from mesocosm.images.stores import host

CANARY = "canary-5f1c"
PLANTED = Path(__file__).parent / "planted_host.py"


def inside(mesocosm: CommandLine, script: str, *options: str) -> str:
    """What a shell script prints in a container of the host's image."""
    words = ("run", "--rm", "-q", *options, "host", "sh", "-c", textwrap.dedent(script))
    return mesocosm(*words).accepted()


def test_it_shows_the_host_as_it_is(mesocosm: CommandLine) -> None:
    """Programs, libraries, users and settings are the host's own."""
    script = (
        "import os, json; print(json.dumps([sorted(os.listdir('/usr/bin')), os.stat('/bin/sh').st_size]))"
    )
    words = ("run", "--rm", "-q", "host", "python3", "-I", "-c", script)
    names, size = json.loads(mesocosm(*words).accepted())
    assert names == sorted(os.listdir("/usr/bin"))
    assert size == os.stat("/bin/sh").st_size
    for name in ("/etc/passwd", "/etc/os-release", "/etc/debian_version"):
        assert inside(mesocosm, f"cat {name}") == Path(name).read_text()


def test_directories_that_hold_what_runs_here_are_empty(mesocosm: CommandLine, tmp_path: Path) -> None:
    """/tmp, /run, /var/tmp and /var/log are there, empty, and as programs expect them."""
    assert str(tmp_path).startswith("/tmp/"), "the canary lies in /tmp"
    script = "for name in /tmp /run /var/tmp /var/log; do stat -c '%n %a %U' $name; ls -A $name; done"
    assert inside(mesocosm, script).splitlines() == [
        "/tmp 1777 root",
        f"/run {stat.S_IMODE(os.stat('/run').st_mode):o} root",
        "/var/tmp 1777 root",
        f"/var/log {stat.S_IMODE(os.stat('/var/log').st_mode):o} root",
    ]
    assert inside(mesocosm, "echo mine > /tmp/mine; cat /tmp/mine", "-u", "65534:65534") == "mine\n"


def test_secrets_of_this_host_are_hidden(mesocosm: CommandLine) -> None:
    """/etc/shadow and its like: root inside reads nothing, writes nothing, and cannot take the cover off."""
    hidden = [path for path in host.hidden_paths() if os.path.exists(path)]
    assert "/etc/shadow" in hidden
    script = """
        for name in "$@"; do
            if [ -d "$name" ]; then ls -A "$name"; else cat "$name"; fi
            umount "$name" && echo uncovered
            mv "$name" /etc/uncovered && echo moved
            echo spoilt > "$name"
        done 2>/dev/null
        exit 0
    """
    words = ("run", "--rm", "-q", "--cap-add", "ALL", "host", "sh", "-c", textwrap.dedent(script), "sh")
    before = {path: examine(path) for path in hidden}
    assert mesocosm(*words, *hidden).accepted() == ""
    assert {path: examine(path) for path in hidden} == before


def planted(mesocosm: CommandLine, *words: str) -> list[str]:
    """The names that a command prints on a host where a canary lies in every hidden place."""
    folder = mesocosm.root.parent
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, PLANTED, CANARY, folder, *words],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**mesocosm.environment, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    (folder / "memory").rmdir()
    return done.stdout.splitlines()


SEARCH = """
    for folder in /etc /root /home /boot /var /run /tmp /lost+found; do
        find "$folder" -xdev -type f -size -2 -exec grep -lF "$1" {} + 2>/dev/null
    done | sort
"""


def test_every_place_of_the_exclusion_list_is_hidden(mesocosm: CommandLine) -> None:
    """A canary in each: root's home, a user's home, system secrets, state.  Beside them, some that show."""
    search = ("sh", "-c", textwrap.dedent(SEARCH), "sh", CANARY)
    found = planted(mesocosm, *mesocosm.words("run", "--rm", "-q", "host", *search))
    assert sorted(found) == sorted(SHOWN)


def test_the_search_finds_the_canaries_where_nothing_hides_them(mesocosm: CommandLine) -> None:
    """The test above can fail: on the planted host itself there are as many as there are places."""
    found = planted(mesocosm, "sh", "-c", textwrap.dedent(SEARCH), "sh", CANARY)
    assert {"/root/.ssh/id", "/root/.netrc", "/etc/shadow", "/home/someone/.aws/id", *SHOWN} <= set(found)
    hidden = {str(Path(name).resolve()) for name in PLACES}
    seen = {str(Path(name).resolve()) for name in found} | {
        str(Path(name).resolve().parent) for name in found
    }
    assert len(hidden - seen) == 0, sorted(hidden - seen)


def test_our_own_state_and_other_containers_are_hidden(mesocosm: CommandLine, tmp_path: Path) -> None:
    """Neither records, nor what other containers write, nor images are in view, wherever the roots are."""
    away = Path("/opt") / f"mesocosm-test-{os.getpid()}"
    away.mkdir()
    try:
        commands = CommandLine(away)
        script = f"echo {CANARY} > /root/other; exec sleep 1000"
        other = commands("run", "-d", "-q", "host", "sh", "-c", script).accepted().strip()
        assert commands.exec(other, "cat", "/root/other").accepted() == f"{CANARY}\n"
        seen = inside(commands, f"ls -A {away}/state {away}/run; cat /root/other 2>&1; ls -A {away}")
        assert seen.splitlines() == ["cat: /root/other: No such file or directory"], seen
        assert (commands.root / "containers" / other).is_dir()
        commands.leave()
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", away], check=True)


def test_changes_never_reach_the_host(mesocosm: CommandLine) -> None:
    """Everything can be changed inside, and is, and the host does not notice."""
    place = Path("/opt") / f"mesocosm-test-{os.getpid()}"
    place.mkdir()
    try:
        world = Canary(place / "world")
        try:
            script = f"""
                cd {world.host}
                echo spoilt > secret; rm -rf folder; chmod 0777 .; echo new > new; ln -f secret link
                rm -f /etc/passwd /bin/sh; echo spoilt > /etc/hostname; mkdir /new
                touch /usr/bin/new; chown -R 1000 /etc
                cat secret new; test ! -e folder && test ! -e /bin/sh && echo gone
            """
            assert inside(mesocosm, script) == "spoilt\nnew\ngone\n"
            world.assert_untouched()
        finally:
            world.close()
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", place], check=True)
    assert not os.path.exists("/new")
    assert not os.path.exists("/usr/bin/new")
    assert inside(mesocosm, "head -1 /etc/passwd").startswith("root:x:0:0")


def test_devices_and_kernel_interfaces_are_the_container_s(mesocosm: CommandLine) -> None:
    """Disks, kernel memory and settings are not part of the image."""
    seen = inside(mesocosm, "ls /dev")
    assert {"null", "zero", "urandom", "tty", "fd", "shm", "pts"} <= set(seen.split())
    assert not {"vda", "sda", "mem", "kmsg", "fuse", "loop0", "nvme0n1", "mapper"} & set(seen.split())
    script = "echo x 2>/dev/null > /proc/sys/kernel/hostname || echo refused; cat /proc/kcore /proc/keys"
    assert inside(mesocosm, f"{{ {script}; }} 2>/dev/null; true") == "refused\n"


def test_read_only(mesocosm: CommandLine) -> None:
    script = "touch /etc/new 2>/dev/null || echo refused; touch /root/new 2>/dev/null || echo refused"
    assert inside(mesocosm, script, "--read-only") == "refused\nrefused\n"
