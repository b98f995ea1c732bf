"""Where and how a registry is reached: mirrors, TLS material, plain http, proxies.  Only from our own
configuration.

Read from each directory of ``certs_dirs`` in order, first hit wins:

    <dir>/<host[:port]>/hosts.toml        containerd's hosts.toml, see hosts_toml.py
    <dir>/<host[:port]>/*.crt             docker's certs.d: CA certificates
    <dir>/<host[:port]>/*.cert, *.key     docker's certs.d: client certificates with their keys

``<host>_<port>_`` is read too, and ``_default`` where there is no own directory, as containerd does.

https always, but for registries named insecure here, whose ``hosts.toml`` says ``http://``, or on loopback;
there is no falling back after a TLS failure (attacks G-05).  The environment's proxy variables are not read.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from yarl import URL

from mesocosm.errors import InvalidConfig
from mesocosm.images.foreign import shown
from mesocosm.images.reference import DEFAULT_REGISTRY
from mesocosm.images.registry.origin import is_loopback, literal
from mesocosm.images.registry.proxies import LOOPBACK, Proxies, parse_proxy

GENERAL: Final = "_default"
"""The directory for registries that have none of their own."""

DOCKER_HUB: Final = "registry-1.docker.io"
CAPABILITIES: Final = frozenset({"pull", "resolve", "push"})
CERTS_DIRS: Final = (
    Path("/etc/mesocosm/certs.d"),
    Path("/etc/containerd/certs.d"),
    Path("/etc/docker/certs.d"),
)


@contextlib.contextmanager
def _using(*files: str) -> Iterator[None]:
    """TLS material is read from these files; InvalidConfig that names them when it cannot be."""
    try:
        yield
    except OSError as error:  # an SSLError is one
        hint = "certificates and keys are PEM files" if isinstance(error, ssl.SSLError) else None
        why = shown(error.strerror or error, 120)
        raise InvalidConfig(f"{' and '.join(files)} cannot be used for TLS: {why}", hint=hint) from None


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
        for path in self.ca:
            with _using(path):
                context.load_verify_locations(cafile=path)
        for certificate, key in self.client:
            with _using(*filter(None, (certificate, key))):
                context.load_cert_chain(certificate, key or None)
        if self.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @property
    def elsewhere(self) -> Tls:
        """What holds for servers that the endpoint leads to: its CA files, and neither its client
        certificates nor its leave to skip checking.
        """
        return Tls(self.ca)


class Endpoint(msgspec.Struct, frozen=True):
    """One server that answers for a registry.

    ``base`` is a URL without trailing slash, up to but without ``/v2`` unless ``override_path``, when it is
    complete. ``capabilities`` are among ``pull``, ``resolve`` and ``push``; only the registry itself pushes
    by default.  ``mirrored`` is the registry that a mirror stands for, which it is told (``?ns=``, as
    containerd does), empty for the registry itself; ``connect`` the seconds that a connection may take.
    """

    base: str
    capabilities: frozenset[str] = CAPABILITIES
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = ()
    override_path: bool = False
    mirrored: str = ""
    connect: float | None = None
    proxies: Proxies = Proxies()

    @property
    def api(self) -> URL:
        """The URL that API paths are appended to."""
        whole = self.override_path or self.base.endswith("/v2")
        return URL(self.base if whole else f"{self.base}/v2")


class HostsConfig(msgspec.Struct, frozen=True):
    """Settings for all registries.

    insecure      ``host[:port]`` names and CIDR ranges reached by plain http
    mirrors       registry to the URLs tried before it, in order
    proxies       scheme (``http`` or ``https``) of what is asked for to proxy URL; a ``proxy`` of hosts.toml
                  is stronger
    no_proxy      what is reached directly, see proxies.py; loopback always is
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
        from mesocosm.images.registry.hosts_toml import read_hosts  # it needs what is defined here

        found = read_hosts(registry, file, config)
    else:
        own = directory if directory and directory.name != GENERAL else None
        found = (*_mirrors(registry, config), default_endpoint(registry, config, own))
    general = _proxies(config)
    return tuple(one if one.proxies.urls else msgspec.structs.replace(one, proxies=general) for one in found)


def _directory(registry: str, roots: Iterable[Path]) -> Path | None:
    host, colon, port = registry.rpartition(":")
    ported = (f"{host}_{port}_",) if colon and not port.endswith("]") else ()
    names: tuple[str, ...] = (*ported, registry, GENERAL)
    for root in roots:
        for name in names:
            if _is_directory(root / name):
                return root / name
    return None


def _is_directory(path: Path) -> bool:
    """Whether there is one; a host's name that strangers wrote may be no file's at all."""
    try:
        return path.name != ".." and path.is_dir()
    except OSError:  # ENAMETOOLONG
        return False


def default_endpoint(registry: str, config: HostsConfig, certs: Path | None = None) -> Endpoint:
    """Return the registry itself as it is reached where no file says otherwise; ``certs`` is a directory in
    docker's layout.
    """
    tls = _docker_certs(certs) if certs else Tls()
    host = DOCKER_HUB if registry == DEFAULT_REGISTRY else registry
    plain = _is_insecure(registry, config.insecure) or (is_loopback(_host_of(registry)) and tls == Tls())
    return Endpoint(f"{'http' if plain else 'https'}://{host}", tls=tls)


def _mirrors(registry: str, config: HostsConfig) -> Iterable[Endpoint]:
    for text in config.mirrors.get(registry, ()):
        base = base_of(text, f"mirror of {registry}", config)
        yield Endpoint(base, capabilities=frozenset({"pull", "resolve"}), mirrored=registry)


def base_of(text: str, what: str, config: HostsConfig) -> str:
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


def _proxies(config: HostsConfig) -> Proxies:
    if unknown := set(config.proxies) - {"http", "https"}:
        raise InvalidConfig(f"proxies: {shown(sorted(unknown), 80)} is neither http nor https")
    urls = {scheme: parse_proxy(text, f"proxy for {scheme}") for scheme, text in config.proxies.items()}
    return Proxies(urls, (*config.no_proxy, *LOOPBACK))


def _docker_certs(directory: Path) -> Tls:
    ca = tuple(sorted(str(path) for path in directory.glob("*.crt")))
    client = []
    for path in sorted(directory.glob("*.cert")):
        key = path.with_suffix(".key")
        if not key.is_file():
            raise InvalidConfig(f"{path} has no key beside it", hint=f"put it at {key}")
        client.append((str(path), str(key)))
    for key in sorted(directory.glob("*.key")):
        if not key.with_suffix(".cert").is_file():
            raise InvalidConfig(
                f"{key} has no certificate beside it", hint=f"put it at {key.with_suffix('.cert')}"
            )
    return Tls(ca, tuple(client))
