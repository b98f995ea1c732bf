"""The child: it runs a plan's steps and becomes the payload by execve.

A child is born in its namespaces and in its cgroup, by a supervisor that waited with everything imported.
Until the root is entered every path is resolved by descriptor; from then on there are raw system calls only,
with everything they need made before: nothing is imported, loaded or opened from the image (attack P-01).  A
step that fails is reported with its index, and the child is gone.

Nothing here may print a traceback: that would open files.
"""

from __future__ import annotations

import errno
import os
import select

from mesocosm.launch import (
    channel,
    descriptors,
    documents,
    doorman,
    entry,
    filesystems,
    handshake,
    identity,
    image_mounts,
    intake,
    limits,
    owners,
    reaper,
    roots,
    signals,
)
from mesocosm.launch.setup import SETUP_FAILED, Setup
from mesocosm.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from mesocosm.launch.offer import Offer

    Step = dict[str, Any]
    Identity = tuple[int, int]

CANNOT_EXECUTE = 126
NOT_FOUND = 127


def run(offer: Offer, length: int, events: select.epoll, refusal: OSError | None, *, ahead: bool) -> NoReturn:
    """The life of a child: take the request, run its plan, execute.  Never returns.

    Descriptors are shared with the supervisor until the request is taken; ``events`` is what it sleeps on.
    With a ``refusal`` there is no child: the supervisor itself is here to say so.  ``ahead``: the namespaces
    of `entry.AHEAD` were made ahead.
    """
    keeper, own = intake.identities()
    if refusal is not None:
        keeper = own
    os.write(offer.take, keeper[0].to_bytes(4, "little"))
    taken = _take(offer, length)
    if refusal is not None:
        _fail(Setup(taken, taken.channel, (keeper, own)), refusal.errno or 0, _sentence(refusal))
        os._exit(SETUP_FAILED)
    syscalls.set_pdeathsig(signals.SIGKILL)
    theirs, ours = channel.pair()
    report = channel.adopt(descriptors.to_child_range(ours.detach()))
    descriptors.place(theirs.detach(), descriptors.REPORT)
    setup = Setup(taken, report, (keeper, own))
    _guarded(setup, lambda: _open_and_run(setup, offer, events, ahead=ahead))


def _take(offer: Offer, length: int) -> intake.Intake:
    try:
        message, received = offer.request.content(length)
        return intake.Intake(handshake.decode(message, "launch"), received)
    except handshake.Garbled:
        os._exit(SETUP_FAILED)


def _stream(number: int, events: select.epoll) -> int:
    """A pipe whose read end wakes the supervisor, at ``number``; the write end."""
    source, end = os.pipe2(os.O_CLOEXEC)
    descriptors.place(source, number)
    events.register(number, select.EPOLLIN)
    return descriptors.to_child_range(end)


def _guarded(setup: Setup, act: Callable[[], None]) -> NoReturn:
    """Do it; what fails is reported, and the process ends."""
    try:
        act()
    except OSError as error:
        _fail(setup, error.errno or 0, _sentence(error))
    except BaseException as error:
        _fail(setup, 0, f"{type(error).__name__}: {error}")
    os._exit(setup.status)


def _open_and_run(setup: Setup, offer: Offer, events: select.epoll, *, ahead: bool) -> None:
    streams = [_stream(number, events) for number in (descriptors.STDOUT, descriptors.STDERR)]
    taken = setup.intake
    taken.mark("received")
    taken.open_session()
    setup.load(taken.plan)
    taken.mark("loaded")
    if setup.find("join-namespaces") is not None:  # its notes want answers, `entry.go_on_inside`
        events.register(descriptors.REPORT, select.EPOLLIN)
    entry.take_namespaces(setup, ahead=ahead)
    taken.part(setup.report.fileno(), *streams, offer.null)
    keeper, own = setup.identities
    intake.write_identities(taken.session, keeper, own)
    _shed(offer.null if taken.stdin < 0 else taken.stdin, streams)
    taken.mark("session")
    _run_steps(setup)


def _shed(stdin: int, streams: list[int]) -> None:
    """Nothing of ours shows in the payload: session, file mode mask, descriptors 0 to 2."""
    os.setsid()
    os.umask(0)
    for number, fd in enumerate((stdin, *streams)):
        os.dup2(fd, number)
    os.set_blocking(0, True)


def _run_steps(setup: Setup) -> None:
    joining = True
    for index, step in enumerate(setup.steps):
        setup.index = index
        op = step["op"]
        if joining and op != "join-cgroup":
            joining = False
            entry.own_cgroup_namespace(setup)
        EXECUTORS[op](setup, step)
        setup.intake.mark(op)


def _sentence(error: OSError) -> str:
    text = error.strerror or str(error)
    return text if error.filename is None else f"{text}: {os.fsdecode(error.filename)}"


def _fail(setup: Setup, code: int, detail: str) -> None:
    """Tell who waits: the launcher before the gate, afterwards who gave the start, and the supervisor."""
    failure = {"step": setup.index, "errno": code, "detail": detail[:4096], "status": setup.status}
    message = handshake.encode("failed", supervisor=list(setup.identities[0]), **failure)
    try:
        if setup.client is None:
            channel.send(setup.intake.channel, message)
        else:
            channel.send(setup.report, handshake.FAILED + documents.dumps(failure))
            channel.send(setup.client, message)
    except OSError:
        pass  # whoever wanted to know is gone


# --- the steps that are the child's own ---------------------------------------------------------------------


def gate(setup: Setup, step: Step) -> None:
    """Report that all is set up, and wait to be told to start.

    From here on only the payload's descriptors are open, and sockets of ours.
    """
    del step
    setup.bind_everything()
    if setup.find("umask") is None:
        os.umask(0o022)
    taken = setup.intake
    setup.report = channel.move(setup.report, 3)
    taken.gate = channel.move(taken.gate, 4)
    taken.channel = channel.move(taken.channel, 5)
    syscalls.close_range(6)
    if setup.target_pid_namespace:
        entry.go_on_inside(setup)
    else:
        channel.send(setup.report, handshake.HELD + str(setup.identities[1][0]).encode())
        taken.mark("held")
        setup.tell_created(setup.identities[1])
    syscalls.close_range(5)
    setup.client = doorman.wait(taken.gate, setup.report)
    taken.gate.close()
    syscalls.set_pdeathsig(0)
    signals.unblock_all()  # dispositions are at their default since the zygote began
    if setup.program_step["init"]:
        reaper.stay_behind(setup.report, setup.client)


def load_filter(setup: Setup, step: Step) -> None:
    """Install the system call filter."""
    del step
    syscalls.seccomp_set_filter(setup.filter)


def execute(setup: Setup, step: Step) -> None:
    """Become the payload, or say why not."""
    syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)
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
    "make-files-as": owners.make_files_as,
    "mount": filesystems.mount_filesystem,
    "bind": filesystems.bind_mount,
    "mount-image": image_mounts.mount_image,
    "keep-writable": image_mounts.keep_writable,
    "directory": filesystems.make_directory,
    "symlink": filesystems.make_symlink,
    "device": filesystems.make_device,
    "mask": filesystems.mask_path,
    "read-only": filesystems.read_only_path,
    "read-only-mount": filesystems.read_only_mount,
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
