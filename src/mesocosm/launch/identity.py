"""Steps that decide who the payload is: user, groups, capabilities, no_new_privs.

The order is the kernel's: dropping from the bounding set takes CAP_SETPCAP and changing users takes
CAP_SETUID, so both come before the capability sets shrink; ambient capabilities take permitted and
inheritable ones, so they come last (attack R-17).  Hence `set_user` and `set_capabilities` are done together,
at whichever comes first.
"""

from __future__ import annotations

import errno
import os
import stat

from mesocosm.launch import accounts
from mesocosm.linux import capabilities, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mesocosm.launch.setup import Setup

    Step = dict[str, Any]


_BOUNDING = capabilities.bounding_set()


def look_up_user(setup: Setup, step: Step) -> None:
    """Read the user from the held root, before it is entered."""
    try:
        setup.account = accounts.look_up(setup.root, step["user"], step["groups"])
    except accounts.Unknown as error:
        raise OSError(0, str(error)) from None


def set_user(setup: Setup, step: Step) -> None:
    """Become the user that was looked up."""
    del step
    _take_identity(setup)


def set_capabilities(setup: Setup, step: Step) -> None:
    """Take the five capability sets on."""
    for name in ("bounding", "permitted", "effective", "inheritable", "ambient"):
        if step[name] < 0:
            raise OSError(errno.EINVAL, f"the {name} set is negative")
    _take_identity(setup)


def _take_identity(setup: Setup) -> None:
    if setup.identified:
        return
    setup.identified = True
    sets = setup.find("capabilities")
    if sets is not None:
        _drop_bounding(sets["bounding"])
        syscalls.set_keepcaps(1)
    if setup.find("user") is not None:
        _become(setup)
    if sets is not None:
        _take_capabilities(sets)
        syscalls.set_keepcaps(0)
    syscalls.set_dumpable(0)  # a change of IDs sets it anew, to fs.suid_dumpable


def _drop_bounding(keep: int) -> None:
    gone = _BOUNDING & ~keep
    for bit in range(gone.bit_length()):
        if gone >> bit & 1:
            syscalls.capbset_drop(bit)


def _become(setup: Setup) -> None:
    account = setup.account
    if account is None:
        raise OSError(errno.EINVAL, "no user was looked up before")
    _give_stdio(account.uid, account.gid)
    syscalls.setgroups(account.groups)
    syscalls.setresgid(account.gid)
    syscalls.setresuid(account.uid)


def _give_stdio(uid: int, gid: int) -> None:
    """Pipes belong to the payload, so that it may open them again as /dev/stdout; nothing else does."""
    for fd in (0, 1, 2):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, uid, gid)


def _take_capabilities(sets: Step) -> None:
    ambient = sets["ambient"]
    effective, permitted = sets["effective"] | ambient, sets["permitted"] | ambient
    inheritable = sets["inheritable"] | ambient
    capabilities.set_masks(effective=effective, permitted=permitted, inheritable=inheritable)
    capabilities.raise_ambient(ambient)


def no_new_privileges(setup: Setup, step: Step) -> None:
    """No set-user-ID program gains anything from here on."""
    del setup, step
    syscalls.set_no_new_privs()
