"""The launcher's side of the zygote: start it, ask it, end it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import py_compile
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.util import cache_from_source
from pathlib import Path

from mesocosm.errors import Unavailable, Unsupported
from mesocosm.launch import channel, handshake
from mesocosm.launch.sockets import writable
from mesocosm.linux import mounts, syscalls

# The package's own __init__ is left out: it would bring the agent's libraries into every supervisor.
_BOOTSTRAP = (
    "import sys; package = type(sys)('mesocosm'); package.__path__ = [sys.argv[1]];"
    "sys.modules['mesocosm'] = package; from mesocosm.launch.zygote import main;"
    "main(*map(int, sys.argv[2:]))"
)


class ForkServer:
    """One zygote and the socket to it."""

    def __init__(self, zygote: subprocess.Popen[bytes], requests: socket.socket, log: int) -> None:
        self._zygote = zygote
        self._requests = requests
        self._log = log

    @classmethod
    async def start(cls) -> ForkServer:
        """A new zygote; it warms up while requests already wait for it.  Raises Unsupported."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = os.memfd_create("mesocosm-zygote-log", os.MFD_CLOEXEC)
        try:
            zygote = await _in_thread_of_its_own(lambda: _exec_zygote(theirs.fileno(), log))
        except BaseException:
            os.close(log)
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return cls(zygote, ours, log)

    @property
    def alive(self) -> bool:
        """Whether the zygote runs."""
        return self._zygote.poll() is None

    async def request(self, descriptors: Mapping[str, int], *, namespaces: int, timing: bool) -> None:
        """Ask for a child in new ``namespaces`` (CLONE flags), and in the cgroup that is given, if one is."""
        names = [name for name in handshake.DESCRIPTORS if name in descriptors]
        # Supervisor and child share their descriptors until the child has sorted them.
        flags = namespaces | syscalls.CLONE_FILES
        if "cgroup" in descriptors:
            flags |= syscalls.CLONE_INTO_CGROUP
        arguments = syscalls.clone3_arguments(flags, exit_signal=signal.SIGCHLD)
        message = arguments + handshake.encode("launch", descriptors=names, timing=timing)
        numbers = [descriptors[name] for name in names]
        while True:
            try:
                channel.send(self._requests, message, numbers)
                return
            except BlockingIOError:
                await writable(self._requests)
            except OSError as error:
                raise Unavailable(f"the zygote does not answer: {error.strerror}{self.words()}") from error

    def words(self) -> str:
        """What zygote, spares or supervisors said last on their standard error, after a colon."""
        lines = os.pread(self._log, 1 << 16, 0).decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """End the zygote and its spares.  Supervisors and containers live on."""
        self._requests.close()
        self._zygote.wait()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


async def _in_thread_of_its_own(
    act: Callable[[], subprocess.Popen[bytes]],
) -> subprocess.Popen[bytes]:
    """Run ``act`` in a thread that ends with it: what it does to its namespaces stays with it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[subprocess.Popen[bytes]] = loop.create_future()

    def settle(zygote: subprocess.Popen[bytes] | None, error: BaseException | None) -> None:
        if zygote is not None and not done.cancelled():
            done.set_result(zygote)
        elif error is not None and not done.cancelled():
            done.set_exception(error)

    def body() -> None:
        try:
            loop.call_soon_threadsafe(settle, act(), None)
        except BaseException as error:  # carried to the one who waits
            loop.call_soon_threadsafe(settle, None, error)

    thread = threading.Thread(target=body, name="mesocosm-zygote", daemon=True)
    thread.start()
    try:
        return await done
    finally:
        thread.join()


def _exec_zygote(requests: int, log: int) -> subprocess.Popen[bytes]:
    """Start the interpreter from a read-only view of the host; the calling thread keeps that view (R-01)."""
    package = Path(__file__).parent.parent
    _compile_ahead(package)
    host_mounts = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    host_root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _enter_read_only_view()
        return subprocess.Popen(
            [
                sys.executable,
                *("-I", "-S", "-B", "-OO", "-X", "utf8=1", "-c", _BOOTSTRAP),
                *map(str, (package, requests, host_mounts, host_root)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={},
            cwd="/",
            pass_fds=(requests, host_mounts, host_root),
            start_new_session=True,
        )
    finally:
        os.close(host_mounts)
        os.close(host_root)


def _compile_ahead(package: Path) -> None:
    """Write the bytecode that is missing: the zygote cannot, and what it compiles stays in its memory."""
    for source in (*package.glob("launch/*.py"), *package.glob("linux/*.py")):
        cached = Path(cache_from_source(str(source), optimization=2))
        if not cached.exists() or cached.stat().st_mtime < source.stat().st_mtime:
            with contextlib.suppress(OSError):
                py_compile.compile(str(source), str(cached), optimize=2, quiet=2)


def _enter_read_only_view() -> None:
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
    except PermissionError as error:
        raise Unsupported("cannot make a mount namespace", hint="run as root with CAP_SYS_ADMIN") from error
    mounts.set_propagation("/", "private")
    syscalls.mount_setattr(syscalls.AT_FDCWD, "/", syscalls.AT_RECURSIVE, attr_set=syscalls.MOUNT_ATTR_RDONLY)
