"""Where and how a registry is reached: mirrors, TLS material, plain http, proxies.  Only from our own
configuration.

Read from each directory of ``certs_dirs`` in order, first hit wins:

    <dir>/<host[:port]>/hosts.toml        containerd's hosts.toml (``_default`` when there is no own
    directory) <dir>/<host[:port]>/*.crt             docker's certs.d: CA certificates
    <dir>/<host[:port]>/*.cert, *.key     docker's certs.d: client certificates with their keys

https always, but for registries named insecure here, whose ``hosts.toml`` says ``http://``, or on loopback;
there is no falling back after a TLS failure (attacks G-05).  The environment's proxy variables are not read.
"""

from __future__ import annotations

import ipaddress
import ssl
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from yarl import URL

from mesocosm.errors import InvalidConfig
from mesocosm.images.foreign import shown
from mesocosm.images.reference import DEFAULT_REGISTRY
from mesocosm.images.registry.origin import is_loopback, literal

DOCKER_HUB: Final = "registry-1.docker.io"
CAPABILITIES: Final = frozenset({"pull", "resolve", "push"})
CERTS_DIRS: Final = (
    Path("/etc/mesocosm/certs.d"),
    Path("/etc/containerd/certs.d"),
    Path("/etc/docker/certs.d"),
)


class Tls(msgspec.Struct, frozen=True):
    """TLS material: extra CA files, client certificates (file, key file or empty), and whether to skip
    checking.
    """

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False

    def context(self) -> ssl.SSLContext:
        """Return a client context; InvalidConfig when a file cannot be used."""
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            for path in self.ca:
                context.load_verify_locations(cafile=path)
            for certificate, key in self.client:
                context.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join([*self.ca, *(name for pair in self.client for name in pair if name)])
            raise InvalidConfig(
                f"TLS material cannot be used: {shown(error, 120)}", hint=f"check {files}"
            ) from None
        if self.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Endpoint(msgspec.Struct, frozen=True):
    """One server that answers for a registry.

    ``base`` is a URL without trailing slash, up to but without ``/v2`` unless ``override_path``, when it is
    complete. ``capabilities`` are among ``pull``, ``resolve`` and ``push``; only the registry itself pushes
    by default.
    """

    base: str
    capabilities: frozenset[str] = CAPABILITIES
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    override_path: bool = False
    mirror: bool = False
    proxy: str | None = None

    @property
    def api(self) -> URL:
        """The URL that API paths are appended to."""
        return URL(self.base if self.override_path else f"{self.base}/v2")


class HostsConfig(msgspec.Struct, frozen=True):
    """Settings for all registries.

    insecure      ``host[:port]`` names and CIDR ranges reached by plain http
    mirrors       registry to the URLs tried before it, in order
    proxies       scheme (``http`` or ``https``) to proxy URL
    no_proxy      host names and ``.suffixes`` reached directly; loopback always is
    deny_private  a public registry may not send us to private addresses
    """

    certs_dirs: tuple[Path, ...] = CERTS_DIRS
    insecure: tuple[str, ...] = ()
    mirrors: dict[str, tuple[str, ...]] = {}
    proxies: dict[str, str] = {}
    no_proxy: tuple[str, ...] = ()
    deny_private: bool = False


def endpoints_of(registry: str, config: HostsConfig) -> tuple[Endpoint, ...]:
    """Return the servers to ask for ``registry`` (``host[:port]``), in order; the registry itself is the
    last.

    Raises InvalidConfig for a configuration file that cannot be read or makes no sense.
    """
    directory = _directory(registry, config.certs_dirs)
    file = directory / "hosts.toml" if directory else None
    if file is not None and file.is_file():
        found = _from_toml(registry, file, config)
    else:
        own = directory if directory and directory.name != "_default" else None
        found = (*_mirrors(registry, config), _origin(registry, config, own))
    return tuple(msgspec.structs.replace(one, proxy=_proxy(URL(one.base), config)) for one in found)


def _directory(registry: str, roots: Iterable[Path]) -> Path | None:
    names = (
        (registry, registry.replace(":", "_", 1) + "_", "_default")
        if ":" in registry
        else (registry, "_default")
    )
    for root in roots:
        for name in names:
            if (root / name).is_dir():
                return root / name
    return None


def _origin(registry: str, config: HostsConfig, certs: Path | None) -> Endpoint:
    tls = _docker_certs(certs) if certs else Tls()
    host = DOCKER_HUB if registry == DEFAULT_REGISTRY else registry
    plain = _is_insecure(registry, config.insecure) or (is_loopback(_host_of(registry)) and tls == Tls())
    return Endpoint(f"{'http' if plain else 'https'}://{host}", tls=tls)


def _mirrors(registry: str, config: HostsConfig) -> Iterable[Endpoint]:
    for text in config.mirrors.get(registry, ()):
        base = _base(text, f"mirror of {registry}", config)
        yield Endpoint(base, capabilities=frozenset({"pull", "resolve"}), mirror=True)


def _base(text: str, what: str, config: HostsConfig) -> str:
    """Return a configured server as a URL; one without a scheme gets the one its host deserves."""
    if "://" not in text:
        plain = is_loopback(_host_of(text)) or _is_insecure(text, config.insecure)
        text = f"{'http' if plain else 'https'}://{text}"
    try:
        url = URL(text)
        valid = url.scheme in ("http", "https") and url.host and url.port and not url.user
    except ValueError:
        valid = False
    if not valid or not text.isprintable() or " " in text:
        raise InvalidConfig(
            f"{what}: {shown(text, 120)!r} is not a server", hint="expected http(s)://HOST[:PORT][/PATH]"
        )
    return text.rstrip("/")


def _host_of(registry: str) -> str:
    if registry.startswith("["):
        return registry[1:].partition("]")[0]
    return registry.partition("/")[0].partition(":")[0]


def _is_insecure(registry: str, listed: Iterable[str]) -> bool:
    host = _host_of(registry)
    address = literal(host)
    for entry in listed:
        if entry in (registry, host):
            return True
        if address is not None and "/" in entry:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                raise InvalidConfig(f"insecure registries: {shown(entry, 60)!r} is not a range") from None
    return False


def _proxy(url: URL, config: HostsConfig) -> str | None:
    host = (url.host or "").lower()
    direct = is_loopback(host) or any(
        host == name.lstrip(".") or host.endswith("." + name.lstrip(".")) for name in config.no_proxy
    )
    return None if direct else config.proxies.get(url.scheme)


def _docker_certs(directory: Path) -> Tls:
    ca = tuple(sorted(str(path) for path in directory.glob("*.crt")))
    client = []
    for path in sorted(directory.glob("*.cert")):
        key = path.with_suffix(".key")
        if not key.is_file():
            raise InvalidConfig(f"{path} has no key beside it", hint=f"put it at {key}")
        client.append((str(path), str(key)))
    return Tls(ca, tuple(client))


_SERVER_KEYS = frozenset(
    {"capabilities", "ca", "client", "skip_verify", "override_path", "header", "dial_timeout"}
)


def _from_toml(registry: str, file: Path, config: HostsConfig) -> tuple[Endpoint, ...]:
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"{file} cannot be read: {shown(error, 120)}") from None
    mirrors = document.get("host", {})
    if not isinstance(mirrors, dict):
        raise InvalidConfig(f"{file}: host is not a table")
    found = [_server(text, entry, file, config, mirror=True) for text, entry in mirrors.items()]
    rest = {key: value for key, value in document.items() if key not in ("host", "server")}
    server = document.get("server")
    if server is None:
        default = _origin(registry, config, None)
        server = default.base
    if not isinstance(server, str):
        raise InvalidConfig(f"{file}: server is not a string")
    return (*found, _server(server, rest, file, config, mirror=False))


def _server(text: str, entry: object, file: Path, config: HostsConfig, *, mirror: bool) -> Endpoint:
    where = f"{file}: {shown(text, 80)}"
    if not isinstance(entry, dict) or (unknown := set(entry) - _SERVER_KEYS):
        names = shown(sorted(unknown), 80) if isinstance(entry, dict) else "that"
        raise InvalidConfig(
            f"{where}: {names} is not understood", hint=f"known are {', '.join(sorted(_SERVER_KEYS))}"
        )
    capabilities = frozenset(
        _strings(entry.get("capabilities", sorted(CAPABILITIES)), f"{where}, capabilities")
    )
    if not capabilities <= CAPABILITIES:
        raise InvalidConfig(f"{where}: unknown capability", hint="known are pull, push and resolve")
    return Endpoint(
        base=_base(text, str(file), config),
        capabilities=capabilities,
        tls=Tls(
            tuple(_beside(file, name) for name in _strings(entry.get("ca", []), f"{where}, ca")),
            tuple(_pairs(entry.get("client", []), file, where)),
            _flag(entry, "skip_verify", where),
        ),
        headers=tuple(_headers(entry.get("header", {}), where)),
        override_path=_flag(entry, "override_path", where),
        mirror=mirror,
    )


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
            if (
                not name.isascii()
                or not name.isprintable()
                or not text.isprintable()
                or " " in name
                or ":" in name
            ):
                raise InvalidConfig(f"{where}: header {shown(name, 40)!r} is malformed")
            yield name, text
