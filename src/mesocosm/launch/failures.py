"""Launch failures in words: what, where, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from mesocosm.errors import LaunchError
from mesocosm.plan import LaunchPlan
from mesocosm.plan.operations import Step

TOO_MANY = "the limit of processes is reached: end some, or raise it with --pids-limit"
"""EAGAIN is what clone3(2) says of every limit on processes, and no other step's answer."""

_UNMAPPED = "use --backend copy, or have it on ext4, xfs, btrfs; `mesocosm doctor` shows what can be mapped"
_NO_MOUNT_POINT = "the image has no such place, and its root is read-only from the start: use another backend"

_HINTS: dict[tuple[str, int], str] = {
    ("look-up-user", 0): "give a name the image knows, or a number",
    ("look-up-user", errno.EINVAL): "the image's /etc/passwd and /etc/group must be regular files",
    ("look-up-user", errno.EFBIG): "the image's /etc/passwd and /etc/group must stay below 1 MiB",
    ("bind", errno.ENOENT): "the source must exist on the host",
    ("bind", errno.EPERM): "choose a target outside /proc and /sys",
    ("mount-image", errno.ENOENT): "the image has nothing at that subpath",
    ("mount-image", errno.ENOTDIR): "a file on a file, a directory on a directory: the target is the other",
    ("mount", errno.ELOOP): "/proc and /sys must be real directories in the image",
    ("mount", errno.EROFS): _NO_MOUNT_POINT,
    ("bind", errno.EROFS): _NO_MOUNT_POINT,
    ("mount", errno.ENODEV): "this kernel lacks the file system",
    ("working-directory", errno.ELOOP): "it must not lead through /proc/self/fd or the like",
    ("working-directory", errno.ENOTDIR): "it, or a part of it, is a file in the image",
    ("working-directory", errno.EROFS): "it does not exist, and the root is read-only",
    ("execute", errno.ENOENT): "check the command, the image's PATH, and the interpreter in its first line",
    ("execute", errno.EACCES): "it must be a file with execute permission for the container's user",
    ("execute", errno.ENOEXEC): "it is for another architecture, or a script without a #! line",
    ("execute", errno.E2BIG): "arguments and environment are too large together",
    ("join-namespaces", errno.ESRCH): "the container is not running any more",
    ("join-cgroup", errno.ENOENT): "the container's cgroup is gone",
    ("rlimit", errno.EINVAL): "the soft limit must not be above the hard one",
    ("cut-propagation", errno.ENOSPC): "raise user.max_user_namespaces with sysctl",
    ("cut-propagation", errno.EPERM): "it takes CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID, and no chroot",
    ("overlay-root", errno.EOPNOTSUPP): _UNMAPPED,
    ("bind-root", errno.EOPNOTSUPP): _UNMAPPED,
    ("host-root", errno.EOPNOTSUPP): "give an image instead of the host's root",
    ("bind", errno.EOPNOTSUPP): "leave its idmap out, or have it on ext4, xfs, btrfs or tmpfs",
    ("overlay-root", errno.ESTALE): "a layer was replaced beneath the overlay",
    ("capabilities", errno.EPERM): "we cannot give what we do not have ourselves",
}


def from_message(plan: LaunchPlan | None, message: Mapping[str, Any]) -> LaunchError:
    """The error for a child's ``failed`` message, or the same fields in exit.json."""
    step, code, detail, status = (message[name] for name in ("step", "errno", "detail", "status"))
    return _nameless(code, detail, status) if plan is None else _named(plan, step, code, detail, status)


def _named(plan: LaunchPlan, step: int, code: int, detail: str, status: int) -> LaunchError:
    reason = _reason(code, detail)
    if not 0 <= step < len(plan.steps):
        what = _namespaces(plan)
        return LaunchError(
            f"{what}: {reason}", step=what, errno=code, status=status, hint=_creation_hint(code)
        )
    failed = plan.steps[step]
    described = failed.describe()
    return LaunchError(
        f"cannot {described}: {reason}", step=described, errno=code, status=status, hint=_hint(failed, code)
    )


def _reason(code: int, detail: str) -> str:
    text = detail or (os.strerror(code) if code else "unknown reason")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _namespaces(plan: LaunchPlan) -> str:
    if not plan.namespaces:
        return "cannot make the process"
    return f"cannot make the process with its {', '.join(plan.namespaces)} namespaces"


def _hint(step: Step, code: int) -> str | None:
    if code == errno.EAGAIN:
        return TOO_MANY
    return _HINTS.get((str(step.__struct_config__.tag), code))


def _creation_hint(code: int) -> str | None:
    if code == errno.ENOSPC:
        return "the runtime directory is full, or a limit in /proc/sys/user/max_*_namespaces is reached"
    if code == errno.EAGAIN:
        return TOO_MANY
    if code == errno.EPERM:
        return "making namespaces takes CAP_SYS_ADMIN"
    return None


def _nameless(code: int, detail: str, status: int) -> LaunchError:
    step = "execute" if status in (126, 127) else "start"
    return LaunchError(f"cannot {step}: {_reason(code, detail)}", step=step, errno=code, status=status)


def executing(plan: LaunchPlan, error: LaunchError) -> LaunchError:
    """A nameless error of the last step in that step's words."""
    if error.status not in (126, 127):
        return error
    return _named(plan, len(plan.steps) - 1, error.errno, "", error.status)
