"""One child on its way from request to ``execve``: what it holds and what the steps have found out."""

from __future__ import annotations

import binascii
import errno
import os

from mesocosm.launch import channel, documents, handshake
from mesocosm.linux import mounts, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mesocosm.launch.accounts import Account
    from mesocosm.launch.channel import Socket
    from mesocosm.launch.intake import Intake

    Step = dict[str, Any]
    Identity = tuple[int, int]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETUP_FAILED = 125
"""The exit status of a child that did not get to ``execve``; the launch error's too."""

_PLAN_LIMIT = 8 << 20
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Setup:
    """One child on its way: the request, the plan, what is held, and what the steps have found out.

    ``identities`` are those of the supervisor and of this child; ``client`` is who gave the start.
    """

    __slots__ = (
        "_exec",
        "_filter",
        "_root",
        "_sources",
        "account",
        "client",
        "identified",
        "identities",
        "covers",
        "index",
        "intake",
        "kinds",
        "mappings",
        "report",
        "status",
        "steps",
        "target",
        "target_pid_namespace",
        "warnings",
    )

    def __init__(self, intake: Intake, report: Socket, identities: tuple[Identity, Identity]) -> None:
        self.intake = intake
        self.report = report
        self.identities = identities
        self.client: Socket | None = None
        self.index = -1
        self.steps: list[Step] = []
        self.kinds: list[str] = []
        self.status = SETUP_FAILED
        self.account: Account | None = None
        self.identified = False
        self.target = -1
        self.target_pid_namespace = False
        self.warnings: list[str] = []
        self.covers: dict[bool, int] = {}
        self.mappings: dict[tuple[str, str], int] = {}
        self._root = -1
        self._sources: dict[int, int] = {}
        self._exec: syscalls.Exec | None = None
        self._filter = b""

    def load(self, plan_fd: int) -> None:
        """Read the plan from a sealed file."""
        plan = documents.loads(os.pread(plan_fd, min(os.fstat(plan_fd).st_size, _PLAN_LIMIT), 0))
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
                self._sources[index] = mounts.clone_tree(step["source"], recursive=step["recursive"])

    def keep_source(self, index: int, fd: int) -> None:
        """A detached mount that a step will show, made before its turn."""
        self._sources[index] = fd

    def kept_source(self, index: int) -> int | None:
        """What was made for this step before its turn."""
        return self._sources.pop(index, None)

    def tell_created(self, payload: Identity) -> None:
        """Let the launcher know that ``payload`` is held."""
        created = handshake.encode(
            "created",
            supervisor=list(self.identities[0]),
            payload=list(payload),
            warnings=self.warnings,
            timing=self.intake.timing or [],
        )
        channel.send(self.intake.channel, created)

    def bind_everything(self) -> None:
        """Lay out what the last steps need, while the host's root is still there."""
        if self._exec is None:
            self._exec = _lay_out(self)
            early = self.find("syscall-filter") or self.find("syscall-filter-early")
            if early is not None:
                self._filter = binascii.a2b_base64(early["program"])

    @property
    def program_step(self) -> Step:
        """The plan's last step."""
        step = self.find("execute")
        if step is None:
            raise OSError(errno.EINVAL, "the plan executes nothing")
        return step

    @property
    def program(self) -> syscalls.Exec:
        """The prepared ``execve``."""
        self.bind_everything()
        if self._exec is None:
            raise OSError(errno.EINVAL, "the plan executes nothing")
        return self._exec

    @property
    def filter(self) -> bytes:
        """The compiled system call filter."""
        self.bind_everything()
        return self._filter


def _lay_out(setup: Setup) -> syscalls.Exec:
    step = setup.program_step
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
