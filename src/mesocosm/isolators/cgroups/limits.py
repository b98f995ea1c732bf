"""Writing limits to a cgroup: all of them or none, and the kernel's refusals in words."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence

from mesocosm.errors import Busy, Exhausted, InvalidConfig, MesocosmError, NotFound, Unsupported
from mesocosm.isolators.words import size
from mesocosm.linux.cgroups import Cgroup

Writes = Sequence[tuple[str, str]]


def put(group: Cgroup, writes: Writes) -> None:
    """Write ``(file, value)`` pairs in order; on a refusal put back what was written and say it in words."""
    done: list[tuple[str, str]] = []
    try:
        for name, value in writes:
            before = group.read(name).strip()
            group.write(name, value)
            done.append((name, before))
    except OSError as error:
        for name, before in reversed(done):
            with contextlib.suppress(OSError):
                group.write(name, before)
        failed = str(error.filename).rpartition("/")[2]
        raise refusal(error, group.path, failed, dict(writes).get(failed, "")) from error


def refusal(error: OSError, directory: str, name: str, value: str) -> MesocosmError:
    """What it means that the kernel refused to write ``value`` to the file ``name`` of a cgroup."""
    where = f"{directory}/{name}"
    code = error.errno
    if code == errno.EBUSY and name.startswith("memory."):
        return Busy(
            f"the memory limit cannot become {_shown(value)}: more is in use and cannot be given up",
            hint="free memory in the container first, or choose a higher limit",
        )
    if code == errno.EINVAL and name in ("cpu.cfs_quota_us", "cpu.max"):
        return InvalidConfig(
            f"the kernel refuses the processor limit {value} at {where}",
            hint="a cgroup above allows less, or the limit is under 1 ms in 100 ms",
        )
    if code == errno.EINVAL and "memsw" in name:
        return InvalidConfig(
            f"memory and swap together cannot be limited to {_shown(value)}: memory alone may use more"
        )
    if code in (errno.ENOENT, errno.ENODEV):
        return NotFound(f"{where} is gone: the container has no such cgroup", hint="is it running?")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Unsupported(f"not allowed to write {where}", hint="run as root, or have the cgroup delegated")
    if code in (errno.ENOSPC, errno.ENOMEM, errno.EAGAIN):
        return Exhausted(f"the kernel has no room for {value!r} at {where}: {error.strerror}")
    return InvalidConfig(f"the kernel refuses {value!r} for {where}: {error.strerror}")


def _shown(value: str) -> str:
    return size(int(value)) if value.isdecimal() else value
