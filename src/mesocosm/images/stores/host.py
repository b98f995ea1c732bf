"""The host's own root as an image: identical to the host, copy-on-write, zero bytes copied (the fat image).

What a container sees is the host's root file system and the disks mounted below it, minus what is hidden:
secrets, and the state of everything that runs on this host.  What it changes stays in its own directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from mesocosm.images.reference import Reference
from mesocosm.images.stores.base import Root, Store
from mesocosm.linux.mountinfo import MountEntry, read_mountinfo
from mesocosm.plan.operations import HostRoot

EMPTIED: Final = (
    "/run",  # sockets of the host's services: docker.sock, dbus, systemd, and ours
    "/tmp",  # noqa: S108  other users' and services' temporary files
    "/var/tmp",  # noqa: S108
    "/var/log",  # what the host logs, with tokens in URLs and failed passwords
)
"""Directories that programs expect to be there: shown empty."""

STATE: Final = (
    "/var/mail",
    "/var/spool/cron",
    "/var/spool/mail",
    "/var/backups",  # copies of shadow
    "/var/cache/ldconfig",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/mesos",
    "/var/lib/mesocosm",  # ours by default: hidden from those, too, who run with other directories
    "/var/lib/kubelet",
    "/var/lib/etcd",
    "/var/lib/rancher",
    "/var/lib/libvirt",
    "/var/lib/lxc",
    "/var/lib/lxd",
    "/var/lib/machines",
    "/var/lib/portables",
    "/var/lib/systemd/coredump",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/private",
    "/var/lib/NetworkManager",
    "/var/lib/dhcp",
    "/var/lib/sss",
    "/lost+found",
)
"""State of the host, and of whatever else runs on it."""

SECRETS: Final = (
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/security/opasswd",
    "/etc/ssl/private",
    "/etc/pki/tls/private",
    "/etc/letsencrypt",
    "/etc/krb5.keytab",
    "/etc/wireguard",
    "/etc/ipsec.secrets",
    "/etc/ppp/chap-secrets",
    "/etc/ppp/pap-secrets",
    "/etc/NetworkManager/system-connections",
    "/etc/wpa_supplicant",
    "/etc/netplan",
    "/etc/crypttab",
    "/etc/cryptsetup-keys.d",
    "/etc/credstore",
    "/etc/credstore.encrypted",
    "/etc/docker",
    "/etc/containers/auth.json",
    "/etc/kubernetes",
    "/etc/rancher",
    "/etc/mesos",
    "/etc/mesocosm",
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/etc/machine-id",
    "/boot",
)
"""Files of the system that hold keys and passwords; the machine's identity; the boot loader's passwords."""

HOST_KEYS: Final = "/etc/ssh"
"""Hidden in it: ``ssh_host_*_key``."""

HOME_SECRETS: Final = (
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".boto",
    ".docker",
    ".kube",
    ".helm",
    ".config/gcloud",
    ".config/gh",
    ".config/hub",
    ".config/containers",
    ".config/op",
    ".config/rclone",
    ".config/google-chrome",
    ".config/chromium",
    ".mozilla",
    ".local/share/keyrings",
    ".local/share/containers",
    ".local/share/mesocosm",
    ".netrc",
    ".git-credentials",
    ".config/git/credentials",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".config/pip",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".m2/settings.xml",
    ".gradle/gradle.properties",
    ".terraform.d/credentials.tfrc.json",
    ".terraformrc",
    ".vault-token",
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    ".s3cfg",
    ".password-store",
    ".bash_history",
    ".zsh_history",
    ".sh_history",
    ".ash_history",
    ".python_history",
    ".node_repl_history",
    ".psql_history",
    ".mysql_history",
    ".sqlite_history",
    ".rediscli_history",
    ".lesshst",
    ".viminfo",
    ".local/share/fish/fish_history",
    ".config/fish/fish_variables",
    ".Xauthority",
    ".ICEauthority",
)
"""Hidden in every home directory."""

HOMES: Final = ("/root", "/home/*")

DISKS: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "vfat", "exfat"})
"""File systems whose mounts are part of the host's tree; others are interfaces, networks, or memory."""


class HostStore(Store):
    """``host``."""

    name = "host"
    transports = frozenset({"host"})
    layered = False

    def root(self, reference: Reference, *, scratch: Path, read_only: bool) -> Root:
        """As `Store.root`; ``read_only`` is made so after the mounts."""
        del read_only
        own = (self.context.paths.root, self.context.paths.runtime, self.context.blobs.root)
        hidden = hidden_paths(own)
        step = HostRoot(
            hidden=hidden,
            emptied=tuple(path for path in EMPTIED if os.path.lexists(path)),
            submounts=tuple(submounts(read_mountinfo(), (*hidden, *EMPTIED))),
            upper=str(scratch / "upper"),
            work=str(scratch / "work"),
        )
        return Root(step=step, reference=str(reference))


def hidden_paths(own: Iterable[Path] = ()) -> tuple[str, ...]:
    """Return the paths that exist on this host and are hidden, ``own`` among them; nothing below another.

    Links are not followed here: a hidden link hides the link, and its target where that is hidden as well.
    """
    wanted = {*map(str, STATE), *SECRETS, *_home_secrets(), *_host_keys()}
    for path in own:
        wanted |= {str(path), str(path.resolve())}
    present = sorted(path for path in wanted if path != "/" and os.path.lexists(path))
    return tuple(path for path in present if not _below_any(path, (*present, *EMPTIED)))


def submounts(entries: Iterable[MountEntry], hidden: Iterable[str]) -> Iterator[str]:
    """Yield the mount points of disks below the root that are to be shown, outer ones first.

    A mount on a file cannot be shown through an overlay, and one that another mount covers is not there.
    """
    hiding = tuple(hidden)
    last = {entry.mount_point: entry for entry in entries}
    for point in sorted(last):
        shown = last[point].filesystem in DISKS and point != "/" and Path(point).is_dir()
        if shown and point not in hiding and not _below_any(point, hiding) and not _covered(point, last):
            yield point


def _covered(point: str, last: dict[str, MountEntry]) -> bool:
    """Whether a file system that is not shown lies between the root and ``point``."""
    above = Path(point).parent
    while str(above) != "/":
        outer = last.get(str(above))
        if outer is not None and outer.filesystem not in DISKS:
            return True
        above = above.parent
    return False


def _home_secrets() -> Iterator[str]:
    for pattern in HOMES:
        homes = Path("/").glob(pattern.lstrip("/"))
        for home in homes:
            yield from (f"{home}/{name}" for name in HOME_SECRETS)


def _host_keys() -> Iterator[str]:
    return (str(path) for path in Path(HOST_KEYS).glob("ssh_host_*_key"))


def _below_any(path: str, others: Iterable[str]) -> bool:
    return any(path.startswith(other.rstrip("/") + "/") for other in others)
