"""What is executed, where, as whom and with which environment: the image's word and the request's over it.

Docker's rules for entrypoint and command (parity §4.5, GAP-22):

    request says \\ image has        nothing       command      entrypoint     entrypoint and command
    nothing                         error         command      entrypoint     entrypoint command
    arguments                       arguments     arguments    entrypoint arguments
    entrypoint                      entrypoint: the image's command is dropped with its entrypoint
    entrypoint and arguments        entrypoint arguments
    empty entrypoint, arguments     arguments
"""

from __future__ import annotations

import signal

from mesocosm.errors import InvalidConfig
from mesocosm.isolators.base import Container, Isolator
from mesocosm.isolators.hostname import hostname
from mesocosm.isolators.words import nearest
from mesocosm.model import ContainerConfig, ImageRuntime
from mesocosm.plan import Contribution, merge_environment
from mesocosm.plan.operations import ChangeDirectory, Execute, LookUpUser, SetUser

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SIGNALS = {name: int(number) for name, number in signal.Signals.__members__.items()}


def stop_signal(config: ContainerConfig, image: ImageRuntime) -> int:
    """The number of the signal that asks the payload to end: the request's, the image's, or SIGTERM.

    Raises InvalidConfig for a word that names none; ``TERM``, ``SIGTERM``, ``15`` and ``RTMIN+3`` do.
    """
    word = config.stop_signal or image.stop_signal
    if not word:
        return int(signal.SIGTERM)
    number = _signal_number(word.upper().removeprefix("SIG"))
    if number is None:
        raise InvalidConfig(f"no signal is called {word!r}", hint=nearest(word.upper(), _SIGNALS))
    return number


def arguments(config: ContainerConfig, image: ImageRuntime) -> tuple[str, ...]:
    """What to execute.  Raises InvalidConfig when neither says."""
    if config.entrypoint is None:
        found = (*image.entrypoint, *(config.command or image.command))
    else:
        found = (*config.entrypoint, *config.command)
    if not found or not found[0]:
        whose = f"image {config.image} has no command" if config.image else "no command is given"
        raise InvalidConfig(whose, hint="say what to execute")
    return found


class Runtime(Isolator):
    """The payload's process: argument list, environment, user, working directory."""

    name = "image/runtime"
    nested = True

    def prepare(self, container: Container) -> Contribution:
        """The last steps of the plan.  Raises InvalidConfig when there is nothing to execute."""
        config, image = container.config, container.image
        stop_signal(config, image)
        argv = arguments(config, image)
        own, ignored = _image_environment(image)
        user = config.user or image.user or "0"
        groups = (*(() if config.user else map(str, image.groups)), *config.groups)
        workdir = self._workdir(container)
        return Contribution(
            environment=(PATH, f"HOSTNAME={hostname(container)}"),
            steps=(
                LookUpUser(user=user, groups=groups),
                ChangeDirectory(target=workdir),
                SetUser(),
                Execute(arguments=argv, environment=merge_environment(own, config.env), init=config.init),
            ),
            warnings=ignored,
            notes=(f"command: {' '.join(argv)}", f"user: {user}", *_added(groups), f"directory: {workdir}"),
        )

    def _workdir(self, container: Container) -> str:
        """The request's directory, the image's, the root; without an image the sandbox."""
        if container.config.workdir:
            return container.config.workdir
        if container.root is None:
            return str(self.paths.container(container.id).sandbox)
        if "\0" in container.image.workdir:
            raise InvalidConfig("the image's working directory contains a zero byte")
        return "/" + container.image.workdir.lstrip("/")


def _added(groups: tuple[str, ...]) -> tuple[str, ...]:
    return (f"groups: {', '.join(groups)} too",) if groups else ()


def _image_environment(image: ImageRuntime) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The image's variables that can be, and a warning for each that cannot."""
    good = tuple(entry for entry in image.env if "=" in entry[1:] and "\0" not in entry)
    bad = tuple(
        f"the image's environment entry {entry[:64]!r} is left out"
        for entry in image.env
        if entry not in good
    )
    return good, bad


def _signal_number(word: str) -> int | None:
    if f"SIG{word}" in _SIGNALS:
        return _SIGNALS[f"SIG{word}"]
    base, plus, offset = word.partition("+")
    if base in ("RTMIN", "RTMAX") and plus and offset.isascii() and offset.isdecimal():
        number = _SIGNALS[f"SIG{base}"] + int(offset[:3])
    elif word.isascii() and word.isdecimal():
        number = int(word[:3])
    else:
        return None
    return number if 1 <= number <= signal.SIGRTMAX else None
