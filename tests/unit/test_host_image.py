"""What the host image shows and hides: lists, not trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesocosm.images.stores import host
from mesocosm.linux.mountinfo import parse_mountinfo

MOUNTS = """\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /proc rw - proc proc rw
3 1 8:2 / /home rw - xfs /dev/sda2 rw
4 1 8:3 / /var/lib/docker rw - ext4 /dev/sda3 rw
5 1 8:4 / /srv rw - ext4 /dev/sda4 rw
6 5 8:5 / /srv/deep rw - btrfs /dev/sda5 rw
7 1 0:9 / /mnt rw - nfs server:/ rw
8 7 8:6 / /mnt/disk rw - ext4 /dev/sda6 rw
9 1 8:7 / /opt rw - ext4 /dev/sda7 rw
10 9 0:8 / /opt rw - tmpfs tmpfs rw
11 1 8:8 / /etc/file rw - ext4 /dev/sda8 rw
"""


def test_disks_are_shown_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not interfaces, networks and memory; not what is hidden; not what another mount covers; no files."""
    monkeypatch.setattr(Path, "is_dir", lambda path: str(path) != "/etc/file")
    found = list(host.submounts(parse_mountinfo(MOUNTS), ["/var/lib/docker"]))
    assert found == ["/home", "/srv", "/srv/deep"]


def test_hidden_paths_exist_and_are_not_below_each_other(tmp_path: Path) -> None:
    own = tmp_path / "state"
    own.mkdir()
    hidden = host.hidden_paths([own, tmp_path / "absent"])
    assert all(Path(path).exists() or Path(path).is_symlink() for path in hidden)
    for path in hidden:
        assert not any(other in map(str, Path(path).parents) for other in hidden if other != path)
    assert "/etc/shadow" in hidden


def test_every_kind_of_secret_is_named() -> None:
    """The list that is promised: keys, tokens, histories, and the state of what runs on this host."""
    names = {*host.SECRETS, *host.STATE, *host.EMPTIED}
    assert {"/etc/shadow", "/etc/gshadow", "/etc/ssl/private", "/run", "/tmp", "/var/tmp"} <= names
    runtimes = ("docker", "containerd", "containers", "mesos", "mesocosm", "kubelet")
    assert {f"/var/lib/{name}" for name in runtimes} <= names
    for name in (
        ".ssh",
        ".aws",
        ".docker",
        ".kube",
        ".gnupg",
        ".netrc",
        ".git-credentials",
        ".npmrc",
        ".pypirc",
    ):
        assert name in host.HOME_SECRETS
    assert {".config/gcloud", ".bash_history", ".python_history"} <= set(host.HOME_SECRETS)
