"""containerd's ``hosts.toml``: a registry, its mirrors, and how each of them is reached.

    server = "https://registry-1.docker.io"     the registry; without it the one that the directory is for
    ca, client, skip_verify, header, …          of the server
    [host."https://mirror.example"]             tried before it, in order
      capabilities = ["pull", "resolve"]

Source: containerd's docs/hosts.md.  Keys that are not known are refused: one that restricts must not be
passed over.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mesocosm.errors import InvalidConfig
from mesocosm.images.foreign import shown
from mesocosm.images.registry.hosts import (
    CAPABILITIES,
    GENERAL,
    Endpoint,
    HostsConfig,
    Tls,
    base_of,
    default_endpoint,
)
from mesocosm.images.registry.proxies import LOOPBACK, Proxies, parse_proxy

LONGEST_CONNECT: Final = 600.0
"""The most seconds that ``dial_timeout`` may allow."""

SERVER_KEYS = frozenset(
    {"capabilities", "ca", "client", "skip_verify", "override_path", "header", "dial_timeout", "proxy"}
)
_SPAN = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|h|m|s)", re.ASCII)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", re.ASCII)


def read_hosts(registry: str, file: Path, config: HostsConfig) -> tuple[Endpoint, ...]:
    """Return the servers that a file names for ``registry``, the registry itself last; raises InvalidConfig
    naming the file.
    """
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidConfig(f"{file} cannot be read: {shown(error, 120)}") from None
    mirrors = document.get("host", {})
    if not isinstance(mirrors, dict):
        raise InvalidConfig(f"{file}: host is not a table")
    found = [_server(text, entry, file, config, mirrored=registry) for text, entry in mirrors.items()]
    rest = {key: value for key, value in document.items() if key not in ("host", "server")}
    server = document.get("server")
    if server is None:
        server = default_endpoint(registry, config).base
    if not isinstance(server, str):
        raise InvalidConfig(f"{file}: server is not a string")
    return (*found, _server(server, rest, file, config, mirrored=""))


def _server(text: str, entry: object, file: Path, config: HostsConfig, *, mirrored: str) -> Endpoint:
    where = f"{file}: {shown(text, 80)}"
    if not isinstance(entry, dict) or (unknown := set(entry) - SERVER_KEYS):
        names = shown(", ".join(sorted(unknown)), 80) if isinstance(entry, dict) else "that"
        known = SERVER_KEYS if mirrored else SERVER_KEYS | {"host", "server"}
        raise InvalidConfig(
            f"{where}: {names} is not understood", hint=f"known are {', '.join(sorted(known))}"
        )
    capabilities = frozenset(
        _strings(entry.get("capabilities", sorted(CAPABILITIES)), f"{where}, capabilities")
    )
    if not capabilities <= CAPABILITIES:
        raise InvalidConfig(f"{where}: unknown capability", hint="known are pull, push and resolve")
    return Endpoint(
        base=base_of(text, str(file), config),
        capabilities=capabilities,
        tls=Tls(
            tuple(_beside(file, name) for name in _strings(entry.get("ca", []), f"{where}, ca")),
            tuple(_pairs(entry.get("client", []), file, where)),
            _flag(entry, "skip_verify", where),
        ),
        headers=tuple(_headers(entry.get("header", {}), where)),
        override_path=_flag(entry, "override_path", where),
        mirrored=mirrored,
        connect=_seconds(entry.get("dial_timeout"), f"{where}, dial_timeout"),
        proxies=_proxy(entry.get("proxy"), file, f"{where}, proxy"),
    )


def _proxy(value: object, file: Path, where: str) -> Proxies:
    """Read a proxy's address; one for everybody is not asked for loopback, which there is its own."""
    if value is None:
        return Proxies()
    proxy = parse_proxy(value if isinstance(value, str) else "", where)
    return Proxies({"http": proxy, "https": proxy}, LOOPBACK if file.parent.name == GENERAL else ())


def _seconds(value: object, where: str) -> float | None:
    """Read a duration as Go writes it: ``1m30s``, ``500ms``."""
    if value is None:
        return None
    text = value if isinstance(value, str) else ""
    spans = _SPAN.findall(text)
    total = sum(float(number) * _UNITS[unit] for number, unit in spans)
    if "".join(number + unit for number, unit in spans) != text or not 0 < total <= LONGEST_CONNECT:
        raise InvalidConfig(f"{where} is not a duration up to {LONGEST_CONNECT:g} s", hint='as in "3s"')
    return total


def _flag(entry: Mapping[str, object], name: str, where: str) -> bool:
    value = entry.get(name, False)
    if not isinstance(value, bool):
        raise InvalidConfig(f"{where}: {name} is neither true nor false")
    return value


def _strings(value: object, where: str) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise InvalidConfig(f"{where} is neither a string nor a list of strings")
    return items


def _pairs(value: object, file: Path, where: str) -> Iterable[tuple[str, str]]:
    """Client certificates: one file holding both, a list of such, or a list of [certificate, key] pairs."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise InvalidConfig(f"{where}, client is not a list")
    for item in items:
        parts = _strings(item, f"{where}, client")
        if not 1 <= len(parts) <= 2:
            raise InvalidConfig(f"{where}, client: expected [certificate, key]")
        key = _beside(file, parts[1]) if len(parts) == 2 and parts[1] else ""
        yield _beside(file, parts[0]), key


def _beside(file: Path, name: str) -> str:
    return str(file.parent / name)


def _headers(value: object, where: str) -> Iterable[tuple[str, str]]:
    if not isinstance(value, dict):
        raise InvalidConfig(f"{where}, header is not a table")
    for name, values in value.items():
        for text in _strings(values, f"{where}, header"):
            if not _HEADER.fullmatch(name) or not text.isprintable():
                raise InvalidConfig(f"{where}: header {shown(name, 40)!r} is malformed")
            yield name, text
