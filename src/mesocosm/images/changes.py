"""What an image says of its process, written as in a Dockerfile: ``CMD ["/bin/sh"]``, ``ENV A=b``.

Source: docker's ``import --change``, ``commit --change`` and the Dockerfile reference.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from mesocosm.errors import InvalidConfig
from mesocosm.images.foreign import shown
from mesocosm.images.strict import Json

_WORD = re.compile(r"([A-Za-z]+)\s+(\S.*)", re.ASCII | re.DOTALL)
_SHELL: Final = ("/bin/sh", "-c")


def runtime_of(changes: Iterable[str], before: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """Return the ``config`` member of an image configuration; InvalidConfig for what is not understood.

    ``before`` is what it was: variables and labels of the same name are replaced, ports and volumes added. As
    in a Dockerfile a new entrypoint takes the old command away, unless there is a new one too.
    """
    runtime = dict(before or {})
    told = set()
    for change in changes:
        match = _WORD.fullmatch(change.strip())
        instruction = match[1].upper() if match else ""
        if match is None or instruction not in _INSTRUCTIONS:
            raise InvalidConfig(
                f"change {shown(change, 80)!r} is not understood",
                hint=f'one of {", ".join(_INSTRUCTIONS)} and its value, as in CMD ["/bin/sh"]',
            )
        try:
            _INSTRUCTIONS[instruction](runtime, match[2].strip())
        except ValueError as error:
            raise InvalidConfig(f"change {shown(change, 80)!r}: {shown(error, 80)}") from None
        told.add(instruction)
    if "ENTRYPOINT" in told and "CMD" not in told:
        runtime.pop("Cmd", None)
    return runtime


def _words(name: str) -> Callable[[dict[str, Json], str], None]:
    def change(runtime: dict[str, Json], value: str) -> None:
        runtime[name] = list(_exec_form(value) or (*_SHELL, value))

    return change


def _exec_form(value: str) -> list[str] | None:
    """The words of a JSON list; None for the shell form."""
    if not value.startswith("["):
        return None
    try:
        return msgspec.json.decode(value, type=list[str])
    except msgspec.MsgspecError:
        raise ValueError('that is no JSON list of words, as in ["/bin/sh", "-c"]') from None


def _text(name: str) -> Callable[[dict[str, Json], str], None]:
    def change(runtime: dict[str, Json], value: str) -> None:
        runtime[name] = value

    return change


def _user(runtime: dict[str, Json], value: str) -> None:
    """Another user, who has none of the groups that the one before was given."""
    runtime["User"] = value
    runtime.pop("AdditionalGids", None)


def _workdir(runtime: dict[str, Json], value: str) -> None:
    """One that is not absolute lies in the one before."""
    runtime["WorkingDir"] = posixpath.join("/", str(runtime.get("WorkingDir") or ""), value)


def _environment(runtime: dict[str, Json], value: str) -> None:
    present = runtime.get("Env")
    held = {str(entry).partition("=")[0]: entry for entry in present} if isinstance(present, list) else {}
    runtime["Env"] = [*{**held, **{key: f"{key}={text}" for key, text in _pairs(value)}}.values()]


def _labels(runtime: dict[str, Json], value: str) -> None:
    runtime["Labels"] = {**_table(runtime, "Labels"), **dict(_pairs(value))}


def _table(runtime: dict[str, Json], name: str) -> dict[str, Json]:
    present = runtime.get(name)
    return present if isinstance(present, dict) else {}


def _pairs(value: str) -> list[tuple[str, str]]:
    """``A=b "C=d e"``, or the old form ``A b``."""
    words = shlex.split(value)
    if words and "=" not in words[0]:
        name, _, rest = value.partition(" ")
        if not rest.strip():
            raise ValueError("expected NAME=VALUE")
        return [(name, rest.strip())]
    pairs = [word.partition("=") for word in words]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError("expected NAME=VALUE")
    return [(name, text) for name, _, text in pairs]


def _keys(name: str, finish: Callable[[str], str]) -> Callable[[dict[str, Json], str], None]:
    def change(runtime: dict[str, Json], value: str) -> None:
        words: dict[str, Json] = {finish(word): {} for word in _exec_form(value) or value.split()}
        runtime[name] = {**_table(runtime, name), **words}

    return change


def _port(text: str) -> str:
    return text if "/" in text else f"{text}/tcp"


_INSTRUCTIONS: Final[dict[str, Callable[[dict[str, Json], str], None]]] = {
    "CMD": _words("Cmd"),
    "ENTRYPOINT": _words("Entrypoint"),
    "ENV": _environment,
    "EXPOSE": _keys("ExposedPorts", _port),
    "LABEL": _labels,
    "STOPSIGNAL": _text("StopSignal"),
    "USER": _user,
    "VOLUME": _keys("Volumes", str),
    "WORKDIR": _workdir,
}
