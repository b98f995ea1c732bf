"""What crun and runc are given: an OCI bundle that isolates exactly as our default set does."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from bench import ROOT

MEMORY = 256 << 20
PIDS = 64
CPU_PERIOD = 100_000

CAPABILITIES = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
"""Docker's default set, which is ours too."""

MASKED = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
PROFILE = ROOT / "src/mesocosm/isolators/linux/profiles/default.json"


def make_root(folder: Path) -> Path:
    """A busybox root: what every contender runs ``true`` in."""
    root = folder / "root"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "run"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("busybox is not installed: run scripts/install-test-tools")
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for applet in ("true", "sleep", "sh", "cat"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root


def seccomp() -> dict[str, Any]:
    """Our default profile, resolved for these capabilities and this machine, in the OCI form."""
    profile = json.loads(PROFILE.read_text())
    machine = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[os.uname().machine]
    short = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])

    def applies(rule: dict[str, Any]) -> bool:
        wanted, unwanted = rule.get("includes", {}), rule.get("excludes", {})
        kernel = tuple(int(part) for part in wanted.get("minKernel", "0.0").split("."))
        return (
            all(name in CAPABILITIES for name in wanted.get("caps", ()))
            and short in wanted.get("arches", (short,))
            and release >= kernel
            and not any(name in CAPABILITIES for name in unwanted.get("caps", ()))
            and short not in unwanted.get("arches", ())
        )

    architectures = [machine]
    for entry in profile.get("archMap", ()):
        if entry["architecture"] == machine:
            architectures += entry.get("subArchitectures", ())
    keys = ("names", "action", "errnoRet", "args")
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": architectures,
        "syscalls": [
            {key: rule[key] for key in keys if key in rule} for rule in profile["syscalls"] if applies(rule)
        ],
    }


def make_bundle(folder: Path, root: Path, command: tuple[str, ...], *, filtered: bool) -> Path:
    """Write ``config.json`` for this command into ``folder``."""
    folder.mkdir(parents=True)
    config = configuration(root, command, filtered=filtered)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def configuration(root: Path, command: tuple[str, ...], *, filtered: bool) -> dict[str, Any]:
    """The runtime configuration: six namespaces, the same mounts, limits, capabilities, and filter."""
    sets = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {name: CAPABILITIES for name in sets},
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "hostname": "bench",
        "mounts": mounts(),
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "mount", "ipc", "uts", "network", "cgroup")],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": {
                "devices": devices(),
                "memory": {"limit": MEMORY},
                "cpu": {"quota": CPU_PERIOD, "period": CPU_PERIOD},
                "pids": {"limit": PIDS},
            },
            **({"seccomp": seccomp()} if filtered else {}),
        },
    }


def mounts() -> list[dict[str, Any]]:
    """The mounts of every container."""

    def mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": source, "options": list(options)}

    guarded = ("nosuid", "noexec", "nodev")
    return [
        mount("/proc", "proc", "proc", *guarded),
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"
        ),
        mount("/dev/shm", "tmpfs", "shm", *guarded, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", *guarded),
        mount("/sys", "sysfs", "sysfs", *guarded, "ro"),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", *guarded, "relatime", "ro"),
    ]


def devices() -> list[dict[str, Any]]:
    """Deny all, then what every container gets: null, zero, full, random, urandom, tty, ptmx, pts."""
    allowed = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None))
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for major, minor in allowed:
        rule = {"allow": True, "type": "c", "major": major, "access": "rwm"}
        rules.append(rule if minor is None else {**rule, "minor": minor})
    return rules
