"""The options of ``run``, ``create`` and ``explain``: docker's names and grammar, read into one request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.frontends.cli import completion, grammar
from mesocosm.model import CapabilityRequest, ContainerConfig, Mount, NamespaceModes, Resources, parse_idmap
from mesocosm.model.config import PULL_POLICIES

Command = Callable[..., Any]

_NO_LIMITS = Resources()
_SIZES = {"memory": "memory", "memory-reservation": "memory_request", "memory-swap": "memory_swap"}
"""Options that are amounts of memory, and the fields of Resources they set."""


def options(function: Command) -> Command:
    """Add every option that describes a container, the image and the command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return no_terminal(function)


def no_terminal(function: Command) -> Command:
    """Answer docker's ``-t`` in words: there is nothing that it could be taken for."""
    return click.option("-t", "--tty", is_flag=True, hidden=True, expose_value=False, callback=_refuse_tty)(
        function
    )


def _refuse_tty(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    del context, parameter
    if given:
        raise InvalidConfig(
            "--tty: containers have no terminal yet", hint="leave -t out; -i hands over standard input"
        )


def limits(function: Command) -> Command:
    """Add the options that can be changed while a container runs."""
    for option in reversed(_LIMITS):
        function = option(function)
    return function


_LIMITS = [
    click.option("-m", "--memory", metavar="SIZE", help="Memory limit, as in 512m."),
    click.option("--memory-reservation", metavar="SIZE", help="Memory to be left to it under pressure."),
    click.option("--memory-swap", metavar="SIZE", help="Limit of memory and swap together."),
    click.option("--cpus", metavar="NUMBER", help="Processor limit, as in 1.5."),
    click.option("-c", "--cpu-shares", type=int, metavar="WEIGHT", help="Weight against other containers."),
    click.option(
        "--pids-limit", type=int, metavar="NUMBER", help="Limit of processes and threads, -1 for none."
    ),
]

_OPTIONS = [
    click.option("--name", help="A name for the container."),
    click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Set an environment variable."),
    click.option("--env-file", multiple=True, metavar="FILE", help="Read environment variables from a file."),
    click.option(
        "-v",
        "--volume",
        multiple=True,
        metavar="SOURCE:TARGET[:ro]",
        help="Show a host path inside; a directory is made where none is.",
    ),
    click.option(
        "--mount", multiple=True, metavar="type=…,…", help="Mount a host path, a tmpfs or an image."
    ),
    click.option("--tmpfs", multiple=True, metavar="TARGET[:OPTIONS]", help="Mount an empty tmpfs."),
    click.option("-w", "--workdir", metavar="DIR", help="Working directory inside."),
    click.option("-u", "--user", metavar="USER[:GROUP]", help="Name or number, looked up in the image."),
    click.option(
        "--group-add", multiple=True, metavar="GROUP", help="Add a group, by name or number in the image."
    ),
    click.option("-h", "--hostname", metavar="NAME", help="Host name inside."),
    click.option("--entrypoint", metavar="PROGRAM", help="Replace the image's entrypoint; empty removes it."),
    click.option("--read-only", is_flag=True, help="Make the root file system read-only."),
    click.option(
        "--root-changes",
        metavar="PATH[,rebase]",
        help="Keep changes to the root in a directory; rebase lays them over another image.",
    ),
    click.option(
        "--idmap",
        metavar="CONTAINER:HOST:LENGTH",
        help="Show the root's files as owned by other IDs of the host; more ranges after #.",
    ),
    click.option("--cap-add", multiple=True, metavar="NAME", help="Add a capability, or ALL."),
    click.option("--cap-drop", multiple=True, metavar="NAME", help="Drop a capability, or ALL."),
    click.option(
        "--security-opt",
        multiple=True,
        metavar="KEY=VALUE",
        help="seccomp=FILE|unconfined, no-new-privileges[=false].",
    ),
    click.option("--ulimit", multiple=True, metavar="NAME=SOFT[:HARD]", help="Set a resource limit."),
    *_LIMITS,
    click.option("--shm-size", metavar="SIZE", help="Size of /dev/shm, 64m unless given."),
    click.option("--init", is_flag=True, help="Run an init that forwards signals and reaps."),
    click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Label the container."),
    click.option("--stop-signal", metavar="SIGNAL", help="Signal that asks it to stop."),
    click.option(
        "--stop-timeout", metavar="SECONDS", help="Time between that and the kill, 10 unless given."
    ),
    click.option(
        "--pull", type=click.Choice(PULL_POLICIES), default="missing", help="When to fetch the image."
    ),
    click.option("--platform", metavar="OS/ARCH", help="Which of an image's platforms."),
    click.option("--backend", metavar="NAME", help="How layers become a root: erofs, overlay, copy, bind."),
    click.option(
        "--isolation", metavar="NAME,NAME…", help="Isolators to compose; default is the default set."
    ),
    click.option(
        "--pid", type=click.Choice(["private", "host"]), default="private", help="Process namespace."
    ),
    click.option("--ipc", type=click.Choice(["private", "host"]), default="private", help="IPC namespace."),
    click.option(
        "--uts", type=click.Choice(["private", "host"]), default="private", help="Host name namespace."
    ),
    click.option(
        "--cgroupns", type=click.Choice(["private", "host"]), default="private", help="Cgroup namespace."
    ),
    click.option(
        "--network", "--net", type=click.Choice(["none", "host"]), default="none", help="Network namespace."
    ),
    click.argument("image", shell_complete=completion.images),
    click.argument("command", nargs=-1, type=click.UNPROCESSED),
]


def config_of(given: dict[str, Any], *, auto_remove: bool = False, stdin: bool = False) -> ContainerConfig:
    """The request that the options describe.  Raises InvalidConfig that names the option."""
    no_new_privileges, seccomp = _security(given["security_opt"])
    mounts: list[Mount] = [grammar.volume(text) for text in given["volume"]]
    mounts += [grammar.mount(text) for text in given["mount"]]
    mounts += [grammar.tmpfs(text) for text in given["tmpfs"]]
    return ContainerConfig(
        image=None if given["image"] == "none" else given["image"],
        command=given["command"],
        entrypoint=_entrypoint(given["entrypoint"]),
        name=given["name"],
        env=grammar.environment(given["env"], given["env_file"]),
        workdir=given["workdir"],
        user=given["user"],
        groups=given["group_add"],
        hostname=given["hostname"],
        resources=resources_of(given),
        isolation=_isolation(given["isolation"]),
        mounts=tuple(mounts),
        read_only=given["read_only"],
        root_changes=grammar.root_changes(given["root_changes"]) if given["root_changes"] else None,
        idmap=parse_idmap(given["idmap"], "--idmap") if given["idmap"] is not None else None,
        capabilities=CapabilityRequest(add=given["cap_add"], drop=given["cap_drop"]),
        seccomp=seccomp,
        no_new_privileges=no_new_privileges,
        rlimits=tuple(grammar.ulimit(text) for text in given["ulimit"]),
        shm_size=grammar.size(given["shm_size"], "--shm-size") if given["shm_size"] else 64 << 20,
        namespaces=NamespaceModes(
            pid=given["pid"],
            ipc=given["ipc"],
            uts=given["uts"],
            cgroup=given["cgroupns"],
            net=given["network"],
        ),
        init=given["init"],
        stdin=stdin,
        labels=dict(grammar.label(text) for text in given["label"]),
        stop_signal=_stop_signal(given["stop_signal"]),
        stop_timeout=_stop_timeout(given["stop_timeout"]),
        auto_remove=auto_remove,
        pull=given["pull"],
        platform=given["platform"],
        backend=given["backend"],
    )


def resources_of(given: dict[str, Any], base: Resources = _NO_LIMITS) -> Resources:
    """The limits among the options over those of ``base``; -1 lifts one.  Raises InvalidConfig."""
    changed: dict[str, Any] = {}
    for option, field in _SIZES.items():
        text = given[option.replace("-", "_")]
        if text is not None:
            changed[field] = None if text == "-1" else grammar.size(text, f"--{option}")
    if given["cpus"] is not None:
        changed["cpus"] = None if given["cpus"] == "-1" else grammar.processors(given["cpus"], "--cpus")
    if given["cpu_shares"] is not None:
        changed["cpu_shares"] = None if given["cpu_shares"] == -1 else given["cpu_shares"]
    if given["pids_limit"] is not None:
        changed["pids"] = None if given["pids_limit"] in (-1, 0) else given["pids_limit"]
    return msgspec.structs.replace(base, **changed)


def _entrypoint(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return (text,) if text else ()


def _isolation(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def _stop_signal(text: str | None) -> str | None:
    return None if text is None else str(grammar.signal_number(text))


def _stop_timeout(text: str | None) -> float:
    return 10.0 if text is None else grammar.seconds(text, "--stop-timeout")


def _security(words: tuple[str, ...]) -> tuple[bool, str]:
    no_new_privileges, seccomp = True, "default"
    for word in words:
        key, _, value = word.replace(":", "=", 1).partition("=")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            no_new_privileges = value != "false"
        elif key == "seccomp" and value:
            seccomp = value if value in ("default", "unconfined") else _profile(value)
        else:
            raise InvalidConfig(
                f"--security-opt: {word!r} is not known",
                hint="seccomp=FILE, seccomp=unconfined or no-new-privileges=false",
            )
    return no_new_privileges, seccomp


def _profile(name: str) -> str:
    try:
        text = Path(name).read_text()
    except OSError as error:
        raise NotFound(f"--security-opt: seccomp profile {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"--security-opt: seccomp profile {name} is not text in UTF-8") from error
    if not text.lstrip().startswith("{"):  # nor may a file that says "unconfined" lift the filter
        raise InvalidConfig(f"--security-opt: seccomp profile {name} is not a JSON object")
    return text
