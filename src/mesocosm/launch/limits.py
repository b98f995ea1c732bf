"""Steps after the root was entered: keyring, resource limits, file mode mask, working directory."""

from __future__ import annotations

import errno
import os

from mesocosm.linux import beneath, rlimits, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]


def join_keyring(setup: Setup, step: Step) -> None:
    """A session keyring of the container's own, for its possessor only (R-27)."""
    try:
        serial = syscalls.keyctl_join_session(step["name"])
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        setup.warn("this kernel has no keyrings, so there is none to shield")
        return
    syscalls.keyctl_set_permissions(serial, syscalls.KEY_POSSESSOR_ALL)


def set_rlimit(setup: Setup, step: Step) -> None:
    """One resource limit, clamped with a warning where the kernel refuses to raise it."""
    soft, hard = (rlimits.UNLIMITED if step[name] is None else step[name] for name in ("soft", "hard"))
    warning = rlimits.apply(step["name"], soft, hard)
    if warning is not None:
        setup.warn(warning)


def set_umask(setup: Setup, step: Step) -> None:
    """The payload's file mode mask, in force at once."""
    del setup
    os.umask(step["mask"])


def change_directory(setup: Setup, step: Step) -> None:
    """Make and enter the working directory, and prove that it lies in the root.

    It is resolved without magic links, so no ``/proc/self/fd/N`` leads anywhere (R-03), and a directory
    outside the root has no name that getcwd(3) could give.
    """
    fd = beneath.make_directories(setup.root, step["target"])
    try:
        os.fchdir(fd)
    finally:
        os.close(fd)
    check_directory()


def check_directory() -> None:
    """Raise unless the working directory has an absolute name in the root."""
    try:
        name = os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise OSError(errno.EXDEV, f"the working directory is not in the root: {error.strerror}") from None
    if not name.startswith("/"):
        raise OSError(errno.EXDEV, "the working directory is not in the root")
