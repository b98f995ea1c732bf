"""The image configuration: what an image wants to run as, and the diff IDs of its layers.

Everything in it is the image author's wish.  It is checked for form here and for nothing else; labels stay
in a table of their own and never become ours (attacks I-17, CVE-2026-53488).  Sources: OCI image spec
"config.md", docker's image specification v1.2 for ``Healthcheck``, ``OnBuild`` and ``Shell``.
"""

from __future__ import annotations

import re
import signal
from typing import Final

import msgspec

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.digest import Digest
from mesocosm.images.documents import LAYER_LIMIT, Manifest
from mesocosm.images.foreign import parse_uint, shown
from mesocosm.images.platform import Platform, host_platform, normalised
from mesocosm.images.strict import Fields, Json, load, parse_digest

_TOP = (
    "created",
    "author",
    "architecture",
    "os",
    "os.version",
    "os.features",
    "variant",
    "config",
    "rootfs",
    "history",
)
_RUNTIME = (
    "User",
    "AdditionalGids",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
    "ArgsEscaped",
)
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.ASCII)
_REALTIME = re.compile(r"(?:SIG)?RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?", re.ASCII)
LIST_LIMIT: Final = 100_000
GROUPS: Final = range((1 << 32) - 1)
"""What may be a group's number; the one after means "no change" to the kernel."""


class History(msgspec.Struct, frozen=True):
    """One step of the image's making.  ``empty_layer``: the step made no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True):
    """An image's configuration.  Absent members are empty; None where absence differs from empty.

    digest        of the configuration's bytes: the image ID
    env           ``NAME=value`` strings, in order; each has a name and an ``=``
    user          ``user``, ``uid``, ``user:group``, ``uid:gid``, or empty
    groups        further groups of that user, by number.  No specification has them: they are ours, under
                  the name that OCI's runtime specification gives them, for families that say them
    volumes       absolute paths without ``.`` and ``..`` components
    fixed_volumes those of them that are read-only, whose value has ``ReadOnly``: that is ours, too
    exposed_ports as ``80/tcp``
    stop_signal   a number, 1 to 64; None when the image names none
    healthcheck   docker's object as JSON text
    """

    digest: Digest
    platform: Platform
    diff_ids: tuple[Digest, ...]
    created: str = ""
    author: str = ""
    user: str = ""
    groups: tuple[int, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    fixed_volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    stop_signal: int | None = None
    healthcheck: str | None = None
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    history: tuple[History, ...] = ()

    @property
    def meant_for(self) -> Platform:
        """The platform that it counts as made for: this host's, for an image that names no architecture."""
        return self.platform if self.platform.architecture else host_platform()


def parse_config(data: bytes, *, algorithm: str = "sha256", what: str = "image configuration") -> ImageConfig:
    """Return the configuration that ``data`` holds; raises Corrupt, or Exhausted beyond limits."""
    top = Fields(load(data, what), what, _TOP)
    runtime = Fields(top.raw("config") or {}, f"{what}, config", _RUNTIME)
    return ImageConfig(
        digest=Digest.of(data, algorithm),
        platform=_platform(top),
        diff_ids=_diff_ids(top),
        created=top.text("created") or "",
        author=top.text("author") or "",
        user=_user(runtime),
        groups=runtime.integers("AdditionalGids", GROUPS),
        env=_env(runtime),
        entrypoint=words(runtime, "Entrypoint"),
        cmd=words(runtime, "Cmd"),
        working_dir=runtime.text("WorkingDir") or "",
        volumes=tuple(_volume(runtime, path) for path in runtime.keys("Volumes")),
        fixed_volumes=tuple(_volume(runtime, path) for path in _fixed(runtime.raw("Volumes"))),
        exposed_ports=tuple(_port(runtime, port) for port in runtime.keys("ExposedPorts")),
        labels=runtime.table("Labels"),
        stop_signal=_stop_signal(runtime),
        healthcheck=_healthcheck(runtime),
        shell=words(runtime, "Shell") or (),
        on_build=runtime.texts("OnBuild"),
        history=tuple(
            _history(item, f"{what}, history {n}") for n, item in enumerate(_bounded(top, "history"))
        ),
    )


def match_layers(manifest: Manifest, config: ImageConfig, what: str) -> None:
    """Check that manifest and configuration speak of the same layers; raises Corrupt."""
    if len(manifest.layers) != len(config.diff_ids):
        counts = f"{len(manifest.layers)} layers, the configuration {len(config.diff_ids)}"
        raise Corrupt(f"{what}: the manifest has {counts}")
    made = [step for step in config.history if not step.empty_layer]
    if config.history and len(made) > len(config.diff_ids):
        raise Corrupt(f"{what}: the history has {len(made)} layers, the configuration {len(config.diff_ids)}")


def parse_signal(text: str) -> int | None:
    """Return the number of a signal written ``SIGTERM``, ``TERM``, ``15`` or ``RTMIN+3``; None when there
    is none.
    """
    number = parse_uint(text, 64)
    if number is not None:
        return number or None
    upper = text.upper()
    realtime = _REALTIME.fullmatch(upper)
    if realtime:
        base = int(signal.SIGRTMIN if realtime[1] == "MIN" else signal.SIGRTMAX)
        offset = int(realtime[3] or 0) * (-1 if realtime[2] == "-" else 1)
        found = base + offset
        return found if signal.SIGRTMIN <= found <= signal.SIGRTMAX else None
    name = upper if upper.startswith("SIG") else f"SIG{upper}"
    member = signal.Signals.__members__.get(name)
    return int(member) if member else None


def _platform(top: Fields) -> Platform:
    return normalised(
        Platform(
            top.text("os") or "linux",
            top.text("architecture") or "",
            top.text("variant") or "",
            top.text("os.version") or "",
        )
    )


def _bounded(fields: Fields, name: str) -> list[Json]:
    items = fields.items(name)
    if len(items) > LIST_LIMIT:
        raise Exhausted(
            f"{fields.where}: {name} has {len(items)} entries, more than the {LIST_LIMIT} allowed"
        )
    return items


def _diff_ids(top: Fields) -> tuple[Digest, ...]:
    if not top.has("rootfs"):
        raise top.fail("rootfs", "is missing")
    rootfs = Fields(top.raw("rootfs"), f"{top.where}, rootfs", ("type", "diff_ids"))
    if rootfs.text("type") != "layers":
        raise rootfs.fail("type", 'is not "layers"')
    texts = rootfs.texts("diff_ids")
    if len(texts) > LAYER_LIMIT:
        raise Exhausted(f"{top.where} has {len(texts)} layers, more than the {LAYER_LIMIT} allowed")
    return tuple(parse_digest(text, f"{rootfs.where}: diff_ids[{n}]") for n, text in enumerate(texts))


def _user(runtime: Fields) -> str:
    user = runtime.text("User") or ""
    if any(not c.isprintable() for c in user) or user.count(":") > 1 or len(user) > 512:
        raise runtime.fail("User", f"is malformed: {shown(user, 60)!r}")
    return user


def _env(runtime: Fields) -> tuple[str, ...]:
    entries = runtime.texts("Env")
    for number, entry in enumerate(entries):
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            raise runtime.fail("Env", f"entry {number} is not NAME=value: {shown(entry, 60)!r}")
    return entries


def words(runtime: Fields, name: str) -> tuple[str, ...] | None:
    """Return a member that is docker's StrSlice: a list of strings, or one string; None when absent."""
    if not runtime.has(name):
        return None
    if isinstance(runtime.raw(name), str):
        return (runtime.text(name) or "",)
    return runtime.texts(name)


def _volume(runtime: Fields, path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or any(not c.isprintable() for c in path):
        raise runtime.fail("Volumes", f"names {shown(path, 80)!r}, which is not a path inside the image")
    return "/" + "/".join(parts)


def _fixed(volumes: Json) -> list[str]:
    """Elsewhere the value of a volume is empty, and whatever else it may be means nothing."""
    table = volumes if isinstance(volumes, dict) else {}
    said = {path: value.get("ReadOnly") for path, value in table.items() if isinstance(value, dict)}
    return [path for path, fixed in said.items() if fixed is True]


def _port(runtime: Fields, text: str) -> str:
    match = _PORT.fullmatch(text)
    ports = [int(match[n]) for n in (1, 2) if match[n]] if match else []
    if match is None or not all(0 < port < 65536 for port in ports) or ports != sorted(ports):
        raise runtime.fail("ExposedPorts", f"names {shown(text, 60)!r}, which is not a port")
    return "-".join(str(port) for port in ports) + "/" + (match[3] or "tcp")


def _stop_signal(runtime: Fields) -> int | None:
    text = runtime.text("StopSignal")
    if not text:
        return None
    number = parse_signal(text)
    if number is None:
        raise runtime.fail("StopSignal", f"is not a signal: {shown(text, 40)!r}")
    return number


def _healthcheck(runtime: Fields) -> str | None:
    if not runtime.has("Healthcheck"):
        return None
    check = Fields(runtime.raw("Healthcheck"), f"{runtime.where}, Healthcheck", ())
    return msgspec.json.encode(check.value).decode("utf-8")


def _history(item: Json, where: str) -> History:
    step = Fields(item, where, ("created", "created_by", "author", "comment", "empty_layer"))
    return History(
        step.text("created") or "",
        step.text("created_by") or "",
        step.text("author") or "",
        step.text("comment") or "",
        step.flag("empty_layer"),
    )
