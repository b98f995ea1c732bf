"""Docker's small languages: sizes, mounts, limits, environment files.

Each function takes what a person typed and answers a value, or raises InvalidConfig that says what is wrong,
where, and what would be right.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Literal

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.isolators.words import nearest
from mesocosm.linux.rlimits import NUMBERS, canonical
from mesocosm.model import (
    HostPathMount,
    IDMap,
    ImageMount,
    Mount,
    Rlimit,
    RootChanges,
    TmpfsMount,
    parse_idmap,
)
from mesocosm.model.size import parse_seconds, parse_size

_MOUNT_FLAGS = ("nosuid", "nodev", "noexec", "suid", "dev", "exec")
_PROPAGATION = {"private": "private", "slave": "slave", "shared": "shared"}


def size(text: str, option: str) -> int:
    """``512m``, ``1.5g``, ``65536``, ``64KiB`` → bytes; powers of 1024, as docker has it."""
    return parse_size(text, option)


def processors(text: str, option: str) -> float:
    """``1.5``, ``.5`` → 1.5, 0.5."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?|\.[0-9]{1,9}", text, re.ASCII):
        raise InvalidConfig(f"{option}: {text!r} is not a number of processors", hint="for example 1.5")
    return float(text)


def seconds(text: str, option: str) -> float:
    """``10``, ``1.5``, ``500ms``, ``2m`` → seconds."""
    return parse_seconds(text, option)


def signal_number(text: str) -> int:
    """``TERM``, ``SIGTERM`` or ``15`` → 15."""
    if re.fullmatch(r"[0-9]{1,2}", text, re.ASCII) and 1 <= int(text) <= signal.SIGRTMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    realtime = re.fullmatch(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?", name, re.ASCII)
    if realtime:
        base = signal.SIGRTMIN if realtime[1] == "MIN" else signal.SIGRTMAX
        number = base + int((realtime[2] or "+") + (realtime[3] or "0"))
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    try:
        return signal.Signals[f"SIG{name}"]
    except KeyError:
        raise InvalidConfig(f"{text!r} is not a signal", hint="for example TERM, SIGKILL or 15") from None


def volume(text: str) -> HostPathMount:
    """``SOURCE:TARGET[:OPTIONS]``; options ro, rw, nosuid …, rslave, rshared, idmap[=0-100000-65536]; a
    missing source is made.
    """
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidConfig(f"--volume: {text!r} is not SOURCE:TARGET[:OPTIONS]", hint="as in /data:/data:ro")
    source, target, *rest = parts
    if not source.startswith(("/", ".")):
        raise InvalidConfig(
            f"--volume: {source!r} is not a path of the host; named volumes are not there yet",
            hint="give an absolute path, or one that starts with ./",
        )
    mount = _Options("--volume", rest[0].split(",") if rest else [])
    return mount.host_path(source, target, create_source=True)


def mount(text: str) -> Mount:
    """``type=bind,source=…,target=…[,readonly][,idmap[=…]]``,
    ``type=tmpfs,target=…[,tmpfs-size=…][,tmpfs-mode=…]`` or
    ``type=image,source=…,target=…[,subpath=…][,platform=…][,readonly|rw]``.
    """
    fields = _mount_fields(text)
    kind = fields.pop("type", "bind")
    target = fields.pop("target", "")
    if not target:
        raise InvalidConfig(f"--mount: {text!r} has no target", hint="add target=/PATH")
    if kind == "tmpfs":
        return _tmpfs("--mount", target, fields)
    if kind == "image":
        return _image(target, fields)
    if kind != "bind":
        raise InvalidConfig(f"--mount: type {kind!r} is not there yet", hint="use bind, tmpfs or image")
    source = fields.pop("source", "")
    if not source.startswith(("/", ".")):
        raise InvalidConfig(
            f"--mount: source {source!r} is not a path of the host",
            hint="give an absolute path, or one that starts with ./",
        )
    options = _Options("--mount", [])
    options.read_only = _truth("--mount: readonly", fields.pop("readonly", "false"))
    options.take_propagation(fields.pop("bind-propagation", "rprivate"))
    options.recursive = not _truth("--mount: bind-nonrecursive", fields.pop("bind-nonrecursive", "false"))
    if "idmap" in fields:
        options.take_idmap(fields.pop("idmap"))
    _refuse_rest("--mount", fields)
    return options.host_path(source, target, create_source=False)


def tmpfs(text: str) -> TmpfsMount:
    """``TARGET[:size=64m,mode=1770,ro,exec …]``."""
    target, _, options = text.partition(":")
    fields: dict[str, str] = {}
    flags: list[str] = []
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if equals and key in ("size", "mode"):
            fields[f"tmpfs-{key}"] = value
        elif not equals and key in (*_MOUNT_FLAGS, "ro", "rw"):
            flags.append(key)
        else:
            raise InvalidConfig(f"--tmpfs: option {key!r} is not known", hint="size=, mode=, ro, noexec …")
    made = _tmpfs("--tmpfs", target, fields)
    return TmpfsMount(
        target=made.target,
        size=made.size,
        mode=made.mode,
        read_only="ro" in flags,
        options=tuple(flag for flag in flags if flag in _MOUNT_FLAGS),
    )


def _mount_fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if not key:
            raise InvalidConfig(
                f"--mount: {text!r} has a part without a key", hint="parts are KEY=VALUE, one comma between"
            )
        fields[_ALIASES.get(key, key)] = value
    return fields


def root_changes(text: str) -> RootChanges:
    """``PATH[,rebase]``."""
    path, comma, word = text.partition(",")
    if not path or (comma and word != "rebase"):
        raise InvalidConfig(f"--root-changes: {text!r} is not PATH or PATH,rebase")
    return RootChanges(os.path.normpath(Path(path).absolute()), rebase=bool(comma))


def ulimit(text: str) -> Rlimit:
    """``nofile=1024:2048``, ``core=0``, ``memlock=unlimited``."""
    name, equals, values = text.partition("=")
    limits = values.split(":")
    if not equals or len(limits) > 2 or not all(re.fullmatch(r"-1|unlimited|[0-9]{1,19}", v) for v in limits):
        raise InvalidConfig(f"--ulimit: {text!r} is not NAME=SOFT[:HARD]", hint="as in nofile=1024:2048")
    try:
        name = canonical(name)
    except ValueError as error:
        raise InvalidConfig(f"--ulimit: {error}", hint=nearest(name, NUMBERS)) from None
    soft, hard = (None if v in ("-1", "unlimited") else int(v) for v in (limits * 2)[:2])
    return Rlimit(name, soft, hard)


def label(text: str) -> tuple[str, str]:
    """``KEY[=VALUE]``."""
    key, _, value = text.partition("=")
    if not key:
        raise InvalidConfig(f"--label: {text!r} has no key", hint="as in team=storage")
    return key, value


def environment(entries: tuple[str, ...], files: tuple[str, ...]) -> tuple[str, ...]:
    """``-e KEY=VALUE``, ``-e KEY`` (the caller's value, nothing when unset) and ``--env-file`` lines."""
    lines = [line for file in files for line in _environment_file(file)]
    result = []
    for entry in (*lines, *entries):
        key, equals, _ = entry.partition("=")
        if not key or "\0" in entry:
            raise InvalidConfig(f"--env: {entry!r} is not KEY=VALUE")
        if equals:
            result.append(entry)
        elif key in os.environ:
            result.append(f"{key}={os.environ[key]}")
    return tuple(result)


def _environment_file(name: str) -> list[str]:
    try:
        text = Path(name).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise NotFound(f"--env-file: {name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"--env-file: {name} is not text in UTF-8") from error
    lines = enumerate((line.removesuffix("\r").lstrip() for line in text.split("\n")), 1)
    entries = {number: line for number, line in lines if line and not line.startswith("#")}
    for number, line in entries.items():
        key = line.partition("=")[0]
        if not key or any(map(str.isspace, key)):  # the value may be a secret and is not shown
            raise InvalidConfig(
                f"--env-file: {name}, line {number}: {key[:40]!r} is not a variable's name",
                hint="write KEY=VALUE, without spaces in KEY",
            )
    return list(entries.values())


_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_ALIASES |= {"image-subpath": "subpath", "readwrite": "rw"}


class _Options:
    """Mount options as they come in."""

    def __init__(self, option: str, words: list[str]) -> None:
        self.option = option
        self.read_only = False
        self.recursive = True
        self.propagation = "private"
        self.flags: list[str] = []
        self.idmap: IDMap | Literal["root"] | None = None
        for word in words:
            self._take(word)

    def _take(self, word: str) -> None:
        if word in ("ro", "rw"):
            self.read_only = word == "ro"
        elif word in _MOUNT_FLAGS:
            self.flags.append(word)
        elif word.removeprefix("r") in _PROPAGATION:
            self.take_propagation(word)
        elif word.partition("=")[0] == "idmap":
            self.take_idmap(word.partition("=")[2])
        elif word not in ("z", "Z", "bind", "rbind"):
            raise InvalidConfig(
                f"{self.option}: option {word!r} is not known", hint="ro, rw, nosuid, rslave, idmap …"
            )

    def take_propagation(self, word: str) -> None:
        if word.removeprefix("r") not in _PROPAGATION:
            raise InvalidConfig(
                f"{self.option}: propagation {word!r} is not known", hint="rprivate, rslave, rshared"
            )
        self.propagation = _PROPAGATION[word.removeprefix("r")]

    def take_idmap(self, ranges: str) -> None:
        """Without ranges a volume has the root's mapping, as podman's has its user namespace's."""
        self.idmap = parse_idmap(ranges, f"{self.option}: idmap") if ranges else "root"

    def host_path(self, source: str, target: str, *, create_source: bool) -> HostPathMount:
        return HostPathMount(
            source=os.path.normpath(Path.cwd() / source),
            target=target,
            read_only=self.read_only,
            recursive=self.recursive,
            create_source=create_source,
            propagation=self.propagation,  # type: ignore[arg-type]
            options=tuple(self.flags),
            idmap=self.idmap,
        )


def _tmpfs(option: str, target: str, fields: dict[str, str]) -> TmpfsMount:
    mode = fields.pop("tmpfs-mode", "1777")
    if not re.fullmatch(r"[0-7]{1,4}", mode, re.ASCII):
        raise InvalidConfig(f"{option}: mode {mode!r} is not an octal number", hint="for example 1777")
    bytes_ = fields.pop("tmpfs-size", None)
    read_only = _truth(f"{option}: readonly", fields.pop("readonly", "false"))
    _refuse_rest(option, fields)
    return TmpfsMount(
        target=target,
        size=None if bytes_ is None else size(bytes_, f"{option}: size"),
        mode=int(mode, 8),
        read_only=read_only,
    )


def _image(target: str, fields: dict[str, str]) -> ImageMount:
    source = fields.pop("source", "")
    if not source:
        raise InvalidConfig("--mount: type=image has no source", hint="add source=IMAGE")
    writable = _truth("--mount: rw", fields.pop("rw", "false"))
    if "readonly" in fields and _truth("--mount: readonly", fields.pop("readonly")) == writable:
        raise InvalidConfig("--mount: readonly and rw contradict each other", hint="give one of them")
    subpath, platform = fields.pop("subpath", ""), fields.pop("platform", None)
    _refuse_rest("--mount", fields)
    return ImageMount(
        source=source, target=target, subpath=subpath, platform=platform, read_only=not writable
    )


def _truth(key: str, text: str) -> bool:
    if text.lower() in ("", "1", "t", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "f", "false", "no", "off"):
        return False
    raise InvalidConfig(f"{key}: {text!r} is neither true nor false")


def _refuse_rest(option: str, fields: dict[str, str]) -> None:
    if fields:
        raise InvalidConfig(f"{option}: {', '.join(sorted(fields))} is not known here")
