"""The child: one plan's steps, run between clone3 and execve.

It begins as a copy of its supervisor in new namespaces and ends by ``execve``.  Until the root is entered
every path is resolved by descriptor; from then on there are raw system calls only, with everything they need
made before: nothing is imported, loaded or opened from the image (attack P-01).  A step that fails is
reported with its index, and the child is gone.

Nothing here may print a traceback: that would open files.
"""

from __future__ import annotations

import binascii
import errno
import json
import os
import stat
import time

from mesocosm.launch import channel, entry, filesystems, handshake, identity, limits, reaper, roots, signals
from mesocosm.linux import mounts, namespaces, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from mesocosm.launch.accounts import Account

    Step = dict[str, Any]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETUP_FAILED = 125
CANNOT_EXECUTE = 126
NOT_FOUND = 127
REPORT = 3
"""The descriptor number of the socket to the supervisor from the gate on; the payload's are 0 to 2."""

_PLAN_LIMIT = 8 << 20
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Setup:
    """One child on its way: the plan, what is held, and what the steps have found out."""

    __slots__ = (
        "_covers",
        "_exec",
        "_filter",
        "_root",
        "_shared",
        "account",
        "identified",
        "index",
        "kinds",
        "report",
        "status",
        "steps",
        "target",
        "target_pid_namespace",
        "timing",
        "warnings",
    )

    def __init__(self, report: socket.socket, *, timing: bool) -> None:
        self.report = report
        self.index = -1
        self.steps: list[Step] = []
        self.kinds: list[str] = []
        self.status = SETUP_FAILED
        self.account: Account | None = None
        self.identified = False
        self.target = -1
        self.target_pid_namespace = False
        self.warnings: list[str] = []
        self.timing: list[list[int | str]] | None = [] if timing else None
        self._root = -1
        self._covers = -1
        self._shared: dict[int, int] = {}
        self._exec: syscalls.Exec | None = None
        self._filter = b""

    def load(self, plan_fd: int) -> None:
        """Read the plan from a sealed file."""
        plan = json.loads(os.pread(plan_fd, _PLAN_LIMIT, 0))
        os.close(plan_fd)
        self.steps = plan["steps"]
        self.kinds = plan["namespaces"]

    def find(self, op: str) -> Step | None:
        """The step of this kind, None when the plan has none."""
        for step in self.steps:
            if step["op"] == op:
                return step
        return None

    def require(self, kind: str) -> None:
        """Refuse to change the host: the step needs a namespace of its own of this kind."""
        if kind not in self.kinds:
            raise OSError(errno.EPERM, f"the plan has no {kind} namespace of its own")

    def warn(self, sentence: str) -> None:
        """Tell the one who launched."""
        self.warnings.append(sentence)

    @property
    def root(self) -> int:
        """The held root; without a step that made one, the root directory as it is."""
        if self._root < 0:
            self._root = os.open("/", _DIRECTORY)
        return self._root

    def hold_root(self, fd: int) -> None:
        """From now on paths are resolved beneath ``fd``."""
        self._root = fd

    def forget_root(self) -> None:
        """The root was entered another way: paths are resolved beneath ``/`` again."""
        if self._root >= 0:
            os.close(self._root)
        self._root = -1

    def hold_shared_sources(self) -> None:
        """Clone what is to stay shared with the host before propagation is cut: afterwards it is too late."""
        for index, step in enumerate(self.steps):
            if step["op"] == "bind" and step["propagation"] == "shared":
                self._shared[index] = mounts.clone_tree(step["source"], recursive=step["recursive"])

    def shared_source(self, index: int) -> int | None:
        """What `hold_shared_sources` kept for this step."""
        return self._shared.pop(index, None)

    def empty_directory(self) -> int:
        """A mount of one empty, read-only directory; all covers share its file system."""
        if self._covers >= 0:
            return mounts.clone_tree(self._covers, recursive=False)
        attributes = mounts.SAFE | mounts.ATTRIBUTES["ro"]
        return mounts.tmpfs(size=0, inodes=2, mode=0o755, source="mesocosm-empty", attributes=attributes)

    def covered(self, cover: int) -> None:
        """Keep the first cover for copies; before Linux 6.15 only an attached mount can be cloned."""
        if self._covers < 0 and stat.S_ISDIR(os.fstat(cover).st_mode):
            self._covers = cover
        else:
            os.close(cover)

    def bind_everything(self) -> None:
        """Lay out what the last steps need, while the host's root is still there."""
        if self._exec is None:
            self._exec = _lay_out(self)
            early = self.find("syscall-filter") or self.find("syscall-filter-early")
            if early is not None:
                self._filter = binascii.a2b_base64(early["program"])

    @property
    def program(self) -> syscalls.Exec:
        """The prepared ``execve``."""
        self.bind_everything()
        assert self._exec is not None
        return self._exec

    @property
    def filter(self) -> bytes:
        """The compiled system call filter."""
        self.bind_everything()
        return self._filter


def run(
    report: socket.socket,
    plan_fd: int,
    stdio: Sequence[int],
    unwanted: Sequence[int],
    *,
    timing: bool,
) -> NoReturn:
    """Run the plan in the calling process, a fresh clone.  Never returns.

    ``stdio`` are the descriptors to become 0, 1 and 2; ``unwanted`` belong to the supervisor and are closed
    first, among them the lock that proves that one alive.
    """
    setup = Setup(report, timing=timing)
    try:
        for fd in unwanted:
            os.close(fd)
        _reset(stdio)
        setup.load(plan_fd)
        _run_steps(setup)
    except OSError as error:
        _fail(setup, error.errno or 0, _sentence(error))
    except BaseException as error:
        _fail(setup, 0, f"{type(error).__name__}: {error}")
    os._exit(SETUP_FAILED)


def _reset(stdio: Sequence[int]) -> None:
    """Nothing of ours shows in the payload: session, signals, file mode mask, descriptors 0 to 2."""
    os.setsid()
    os.umask(0)
    for number, fd in enumerate(stdio):
        os.dup2(fd, number)


def _run_steps(setup: Setup) -> None:
    joining = True
    clock = time.monotonic_ns
    for index, step in enumerate(setup.steps):
        setup.index = index
        op = step["op"]
        if joining and op != "join-cgroup":
            joining = False
            _own_cgroup_namespace(setup)
        if setup.timing is None:
            EXECUTORS[op](setup, step)
        else:
            before = clock()
            EXECUTORS[op](setup, step)
            setup.timing.append([op, clock() - before])


def _own_cgroup_namespace(setup: Setup) -> None:
    # The root of a cgroup namespace is the cgroup its maker is in, so it is made after the cgroups are
    # joined.
    if "cgroup" in setup.kinds:
        syscalls.unshare(namespaces.FLAGS["cgroup"])


def _sentence(error: OSError) -> str:
    text = error.strerror or str(error)
    return text if error.filename is None else f"{text}: {os.fsdecode(error.filename)}"


def _fail(setup: Setup, code: int, detail: str) -> None:
    try:
        message = handshake.encode(
            "failed", step=setup.index, errno=code, detail=detail[:4096], status=setup.status
        )
        channel.send(setup.report, message)
    except OSError:
        pass  # the supervisor is gone, and with it everybody who would want to know


# --- the steps that are the child's own ---------------------------------------------------------------------


def gate(setup: Setup, step: Step) -> None:
    """Report that all is set up, and wait.  Only the standard streams and one socket are open from here
    on."""
    del step
    setup.bind_everything()
    if setup.find("umask") is None:
        os.umask(0o022)
    os.dup2(setup.report.fileno(), REPORT, inheritable=False)
    setup.report.detach()
    setup.report = channel.adopt(REPORT)
    syscalls.close_range(REPORT + 1)
    inside = entry.enter_pid_namespace(setup) if setup.target_pid_namespace else 0
    if inside >= 0:
        ready = handshake.encode("ready", pid=inside, warnings=setup.warnings, timing=setup.timing or [])
        channel.send(setup.report, ready)
    if inside > 0:
        os._exit(0)
    _wait_for_go(setup)
    signals.unblock_all()  # dispositions are at their default since the zygote began
    execute_step = setup.find("execute")
    if execute_step is not None and execute_step["init"]:
        reaper.stay_behind(setup)


def _wait_for_go(setup: Setup) -> None:
    data, descriptors = channel.receive(setup.report)
    if not data or descriptors:
        os._exit(SETUP_FAILED)  # the supervisor is gone: nobody would learn how this ends
    handshake.decode(data, "go")


def load_filter(setup: Setup, step: Step) -> None:
    """Install the system call filter."""
    del step
    syscalls.seccomp_set_filter(setup.filter)


def execute(setup: Setup, step: Step) -> None:
    """Become the payload, or say why not."""
    syscalls.close_range(REPORT, flags=syscalls.CLOSE_RANGE_CLOEXEC)
    code = setup.program.run()
    setup.status = NOT_FOUND if code == errno.ENOENT else CANNOT_EXECUTE
    name = step["arguments"][0]
    if code == errno.ENOENT and "/" in name and _exists(name):
        raise OSError(code, "the file is there, but the program that is to interpret it is not")
    raise OSError(code, os.strerror(code))


def _exists(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116
    except OSError:
        return False
    return True


def _lay_out(setup: Setup) -> syscalls.Exec:
    step = setup.find("execute")
    if step is None:
        raise OSError(errno.EINVAL, "the plan executes nothing")
    environment: list[str] = step["environment"]
    names = {entry_.partition("=")[0] for entry_ in environment}
    if "HOME" not in names and setup.account is not None:
        environment = [*environment, f"HOME={setup.account.home}"]
    return syscalls.prepare_exec(
        _candidates(step["arguments"][0], environment), step["arguments"], environment
    )


def _candidates(name: str, environment: Sequence[str]) -> list[str]:
    if "/" in name or not name:
        return [name]
    path = DEFAULT_PATH
    for assignment in environment:
        if assignment.startswith("PATH="):
            path = assignment[5:]
    return [f"{directory or '.'}/{name}" for directory in path.split(":")]


EXECUTORS: dict[str, Callable[[Setup, Step], None]] = {
    "join-cgroup": entry.join_cgroup,
    "join-namespaces": entry.join_namespaces,
    "hostname": entry.set_hostname,
    "loopback-up": entry.loopback_up,
    "keyring": limits.join_keyring,
    "cut-propagation": roots.cut_propagation,
    "overlay-root": roots.overlay_root,
    "bind-root": roots.bind_root,
    "host-root": roots.host_root,
    "mount": filesystems.mount_filesystem,
    "bind": filesystems.bind_mount,
    "directory": filesystems.make_directory,
    "symlink": filesystems.make_symlink,
    "device": filesystems.make_device,
    "mask": filesystems.mask_path,
    "read-only": filesystems.read_only_path,
    "read-only-root": filesystems.read_only_root,
    "look-up-user": identity.look_up_user,
    "enter-root": roots.enter_root,
    "enter-mounts": entry.enter_mounts,
    "rlimit": limits.set_rlimit,
    "umask": limits.set_umask,
    "working-directory": limits.change_directory,
    "user": identity.set_user,
    "capabilities": identity.set_capabilities,
    "no-new-privileges": identity.no_new_privileges,
    "syscall-filter": load_filter,
    "syscall-filter-early": load_filter,
    "gate": gate,
    "execute": execute,
}
"""Tag of a plan's step to what carries it out."""
