"""Endpoints, TLS, addresses, retries and limits: what is decided before a byte is sent (G-04, G-05, G-06,
G-08).
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from malicious_registry import MaliciousRegistry, status
from mesocosm.errors import Denied, InvalidConfig, MesocosmError, NotFound, Unavailable, Unsupported
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.registry.body import Pace
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.hosts import Endpoint, HostsConfig, Tls, endpoints_of
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.origin import Guard, Reach, next_url, reach_of
from mesocosm.images.registry.proxies import Proxies
from mesocosm.images.registry.retry import Retry, parse_retry_after
from registry_fixtures import OCI_MANIFEST, sha256, small_image

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ENTRY = {"mediaType": OCI_MANIFEST, "digest": sha256(b"signature"), "size": 9, "artifactType": "text/x"}
NOWHERE = HostsConfig(certs_dirs=())


def only(registry: str, config: HostsConfig = NOWHERE) -> Endpoint:
    (endpoint,) = endpoints_of(registry, config)
    return endpoint


# --- hosts ---


@pytest.mark.parametrize(
    "registry, base",
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("ghcr.io", "https://ghcr.io"),
        ("r.io:5000", "https://r.io:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("10.1.2.3:5000", "https://10.1.2.3:5000"),
        ("localhost.example.com", "https://localhost.example.com"),
        ("127.0.0.1.example.com", "https://127.0.0.1.example.com"),
    ],
)
def test_G05_https_but_on_loopback(registry: str, base: str) -> None:
    assert only(registry).base == base


def test_G05_plain_http_for_what_is_listed_only() -> None:
    config = HostsConfig(certs_dirs=(), insecure=("plain.io", "r.io:5000", "10.0.0.0/8"))
    for registry in ("plain.io", "plain.io:80", "r.io:5000", "10.1.2.3:5000"):
        assert only(registry, config).base == f"http://{registry}"
    for registry in ("r.io", "r.io:5001", "11.1.2.3", "sub.plain.io"):
        assert only(registry, config).base == f"https://{registry}"
    with pytest.raises(InvalidConfig):
        only("10.1.2.3", HostsConfig(certs_dirs=(), insecure=("10.0.0.0/99",)))


def test_containerd_hosts_toml(tmp_path: Path) -> None:
    directory = tmp_path / "docker.io"
    directory.mkdir()
    (directory / "hosts.toml").write_text(
        """
        server = "https://origin.example"
        [host."https://mirror.example/prefix"]
          capabilities = ["pull"]
          ca = ["a.crt", "/abs/b.crt"]
          client = [["c.cert", "c.key"]]
          override_path = true
          [host."https://mirror.example/prefix".header]
            X-One = "1"
            X-Two = ["2", "3"]
        [host."http://second.example"]
          skip_verify = true
        """
    )
    first, second, origin = endpoints_of("docker.io", HostsConfig(certs_dirs=(tmp_path,)))
    assert str(first.api) == "https://mirror.example/prefix"
    assert first.capabilities == {"pull"}
    assert first.tls.ca == (f"{directory}/a.crt", "/abs/b.crt")
    assert first.tls.client == ((f"{directory}/c.cert", f"{directory}/c.key"),)
    assert first.headers == (("X-One", "1"), ("X-Two", "2"), ("X-Two", "3"))
    assert (second.base, second.tls.skip_verify) == ("http://second.example", True)
    assert (first.mirrored, second.mirrored, origin.mirrored) == ("docker.io", "docker.io", "")
    assert str(origin.api) == "https://origin.example/v2"


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("3s", 3.0), ("1m30s", 90.0), ("1.5s", 1.5), ("10m", 600.0)]
)
def test_the_rest_of_containerd_hosts_toml(tmp_path: Path, text: str, seconds: float) -> None:
    directory = tmp_path / "r.io"
    directory.mkdir()
    (directory / "hosts.toml").write_text(
        f"""
        server = "https://origin.example/team/v2/"
        ca = "a.crt"
        client = "both.pem"
        [host."https://mirror.example/prefix"]
          dial_timeout = "{text}"
          client = ["one.pem", "two.pem"]
          proxy = "http://user:secret@proxy.example:3128/"
        """
    )
    general = {"https": "http://general.example:1"}
    mirror, origin = endpoints_of("r.io", HostsConfig(certs_dirs=(tmp_path,), proxies=general))
    assert (mirror.connect, origin.connect) == (seconds, None)
    assert str(mirror.api) == "https://mirror.example/prefix/v2"
    assert str(origin.api) == "https://origin.example/team/v2"
    assert mirror.tls.client == ((f"{directory}/one.pem", ""), (f"{directory}/two.pem", ""))
    assert origin.tls == Tls((f"{directory}/a.crt",), ((f"{directory}/both.pem", ""),))
    assert mirror.proxies.of(URL("https://else.example")) == "http://user:secret@proxy.example:3128"
    assert origin.proxies.of(origin.api) == "http://general.example:1"
    assert "secret" not in repr(mirror)


@pytest.mark.parametrize("name", ["_default", "localhost:5000"])
def test_a_proxy_for_everybody_is_not_asked_for_this_hosts_own_loopback(name: str, tmp_path: Path) -> None:
    """It would ask its own; one that is configured for such a registry is meant."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "hosts.toml").write_text('proxy = "http://proxy.example:3128"\n')
    config = HostsConfig(certs_dirs=(tmp_path,))
    proxied = {}
    for registry in ("localhost:5000", "127.0.0.1:5000", "[::1]:5000", "r.example"):
        (only,) = endpoints_of(registry, config)
        proxied[registry] = only.proxies.of(only.api) is not None
    expected = "r.example" if name == "_default" else name
    assert [registry for registry, asked in proxied.items() if asked] == [expected]


@pytest.mark.parametrize(
    ("registry", "name"),
    [("r.io:5000", "r.io_5000_"), ("[::1]:5000", "[::1]_5000_"), ("[::1]", "[::1]"), ("r.io", "r.io")],
)
def test_directories_are_named_as_containerd_does(tmp_path: Path, registry: str, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "hosts.toml").write_text('server = "https://found.example"')
    assert only(registry, HostsConfig(certs_dirs=(tmp_path,))).base == "https://found.example"


@pytest.mark.parametrize(
    "text",
    [
        "server = 5",
        "host = 5",
        "[host.'ftp://x']",
        "[host.'https://x']\ncapabilities = ['fly']",
        "[host.'https://x']\nskip_verify = 'yes'",
        "[host.'https://x']\nca = 5",
        "[host.'https://x']\nclient = [['a', 'b', 'c']]",
        "[host.'https://x']\nunknown = 1",
        "[host.'https://x']\ndial_timeout = 3",
        "[host.'https://x']\ndial_timeout = '3'",
        "[host.'https://x']\ndial_timeout = '-3s'",
        "[host.'https://x']\ndial_timeout = '999h'",
        "[host.'https://x']\nproxy = 'https://x'",
        "[host.'https://x']\nproxy = 'socks5://x'",
        "[host.'https://x']\nproxy = 'http://x/path'",
        "[host.'https://x'.header]\n'a b' = 'c'",
        "[host.'https://x'.header]\nX = \"a\\nb\"",
        "[",
    ],
)
def test_malformed_hosts_toml_is_refused_naming_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.io").mkdir()
    (tmp_path / "r.io" / "hosts.toml").write_text(text)
    with pytest.raises(InvalidConfig, match="hosts.toml"):
        endpoints_of("r.io", HostsConfig(certs_dirs=(tmp_path,)))


def test_the_default_directory_serves_registries_without_their_own(tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default" / "hosts.toml").write_text('[host."https://mirror.example"]')
    mirror, origin = endpoints_of("r.io:5000", HostsConfig(certs_dirs=(tmp_path,)))
    assert (mirror.base, origin.base) == ("https://mirror.example", "https://r.io:5000")


def test_dockers_certs_d(tmp_path: Path) -> None:
    directory = tmp_path / "r.io:5000"
    directory.mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        (directory / name).touch()
    tls = only("r.io:5000", HostsConfig(certs_dirs=(tmp_path,))).tls
    assert tls == Tls((f"{directory}/ca.crt",), ((f"{directory}/client.cert", f"{directory}/client.key"),))
    (directory / "client.key").unlink()
    with pytest.raises(InvalidConfig, match="no key"):
        only("r.io:5000", HostsConfig(certs_dirs=(tmp_path,)))
    (directory / "client.cert").rename(directory / "client.key")
    with pytest.raises(InvalidConfig, match="no certificate"):
        only("r.io:5000", HostsConfig(certs_dirs=(tmp_path,)))


def test_mirrors_and_proxies_come_from_our_configuration_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://evil.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://evil.example")
    assert only("r.io").proxies.of(URL("https://r.io")) is None
    config = HostsConfig(
        certs_dirs=(),
        mirrors={"r.io": ("m.io", "http://n.example")},
        proxies={"https": "http://proxy.example:3128"},
        no_proxy=(".example.com", "direct.io"),
    )
    found = endpoints_of("r.io", config)
    assert [one.base for one in found] == ["https://m.io", "http://n.example", "https://r.io"]
    assert [one.proxies.of(one.api) for one in found] == [
        "http://proxy.example:3128",
        None,
        "http://proxy.example:3128",
    ]
    assert ["push" in one.capabilities for one in found] == [False, False, True]
    for direct in ("direct.io", "a.example.com", "127.0.0.1:5000"):
        assert found[0].proxies.of(URL(f"https://{direct}/v2/")) is None


@pytest.mark.parametrize(
    ("pattern", "host", "direct"),
    [
        ("*", "anything.example", True),
        ("example", "a.example", True),
        (".example", "a.example", True),
        (".example", "notexample", False),
        ("EXAMPLE", "Example", True),
        ("a.example:5000", "a.example:5000", True),
        ("a.example:5000", "a.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "ten.example", False),
        ("fd00::/8", "[fd00::1]:5000", True),
        ("[fd00::1]:5000", "[fd00::1]:5000", True),
        ("[fd00::1]:5000", "[fd00::1]:5001", False),
        ("fd00::1", "[fd00::1]:5000", True),
        ("10.1.2.3", "10.1.2.3:5000", True),
        ("", "anything.example", False),
    ],
)
def test_what_is_reached_directly(pattern: str, host: str, direct: bool) -> None:
    proxies = Proxies({"https": "http://proxy.example:3128"}, (pattern,))
    assert (proxies.of(URL(f"https://{host}/v2/")) is None) == direct


@pytest.mark.parametrize(
    "config",
    [
        HostsConfig(certs_dirs=(), proxies={"ftp": "http://p"}),
        HostsConfig(certs_dirs=(), proxies={"https": "p:3128"}),
        HostsConfig(certs_dirs=(), proxies={"https": "http://user:secret@"}),
    ],
)
def test_malformed_proxies_are_refused_without_their_password(config: HostsConfig) -> None:
    with pytest.raises(InvalidConfig) as caught:
        endpoints_of("r.io", config)
    assert "secret" not in str(caught.value)


# --- where a server may send us ---


@pytest.mark.parametrize(
    "address, reach",
    [
        ("8.8.8.8", Reach.PUBLIC),
        ("10.0.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("127.0.0.53", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("169.254.169.254", Reach.FORBIDDEN),
        ("::ffff:169.254.169.254", Reach.FORBIDDEN),
        ("fe80::1", Reach.FORBIDDEN),
        ("fd00:ec2::254", Reach.FORBIDDEN),
        ("0.0.0.0", Reach.FORBIDDEN),
        ("::", Reach.FORBIDDEN),
        ("224.0.0.1", Reach.FORBIDDEN),
    ],
)
def test_G04_how_far_inside_addresses_lie(address: str, reach: Reach) -> None:
    assert reach_of(ipaddress.ip_address(address)) is reach


@pytest.mark.parametrize(
    "own, target, allowed",
    [
        ("8.8.8.8", "1.1.1.1", True),
        ("8.8.8.8", "10.0.0.1", True),
        ("8.8.8.8", "127.0.0.1", False),
        ("10.0.0.1", "127.0.0.1", False),
        ("10.0.0.1", "10.0.0.2", True),
        ("127.0.0.1", "127.0.0.2", True),
        ("127.0.0.1", "169.254.169.254", False),
        ("169.254.169.254", "169.254.169.254", False),
        ("registry.example", "127.0.0.1", False),
    ],
)
def test_G04_a_server_sends_us_no_further_inside_than_it_is(own: str, target: str, allowed: bool) -> None:
    guard = Guard.__new__(Guard)
    guard.__dict__.update(_own=own, _most=Reach.PRIVATE)
    try:
        own_reach = reach_of(ipaddress.ip_address(own))
    except ValueError:
        own_reach = Reach.PUBLIC
    guard._admit_own([own_reach])
    if allowed:
        guard.check_literal(target)
    else:
        with pytest.raises(Denied):
            guard.check_literal(target)


async def test_G04_names_are_judged_by_what_they_resolve_to() -> None:
    stranger = Guard("registry.example")
    with pytest.raises(Denied):
        await stranger.resolve("localhost", 80)
    own = Guard("localhost")
    assert {one["port"] for one in await own.resolve("localhost", 80)} == {80}
    for guard in (stranger, own):
        await guard.close()


@pytest.mark.parametrize(
    "location",
    [
        "",
        "http:",
        "http://",
        "mailto:x",
        "https://a:b@c/",
        "/x\r\ny",
        "https://[::/",
        "http://h:99999/",
        "data:,x",
    ],
)
def test_G04_G09_locations_that_are_not_followed(location: str) -> None:
    with pytest.raises(Denied):
        next_url(URL("http://r.io/v2/"), location, "it")


def test_G05_no_location_leads_from_https_to_http() -> None:
    here = URL("https://r.io/v2/a/b")
    with pytest.raises(Denied, match="https to"):
        next_url(here, "http://r.io/x", "it")
    assert str(next_url(here, "../c?d=e#f", "it")) == "https://r.io/v2/c?d=e"
    assert str(next_url(here, "https://s.io/x", "it")) == "https://s.io/x"


# --- TLS ---


def certificate(tmp_path: Path, name: str, *, host: str = "127.0.0.1", days: int = 1) -> tuple[Path, Path]:
    """Write a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - datetime.timedelta(days=1))
        .not_valid_after(end)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def server_context(pair: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


async def ask(registry: MaliciousRegistry, directory: Path, extra: str = "") -> None:
    """Fetch a manifest over https, as ``directory``'s hosts.toml says."""
    own = directory / registry.host
    own.mkdir(parents=True)
    (own / "hosts.toml").write_text(f'server = "https://{registry.host}"\n{extra}')
    hosts = HostsConfig(certs_dirs=(directory,))
    limits = Limits(attempts=2, backoff=0.001)
    async with await RegistryClient.open(registry.host, hosts=hosts, limits=limits) as client:
        await client.manifest("a/b", "latest")


async def test_files_that_cannot_be_used_for_tls_are_named(tmp_path: Path) -> None:
    certificate_file, key = certificate(tmp_path, "server")
    (tmp_path / "text").write_text("no certificate\n")
    async with MaliciousRegistry() as registry:
        for number, (extra, words) in enumerate(
            [
                ('ca = "absent.pem"', r"absent\.pem cannot be used for TLS: No such file or directory"),
                (f'ca = "{tmp_path / "text"}"', "text cannot be used for TLS: .*PEM"),
                (f'client = [["{certificate_file}", "absent.key"]]', r"server.* and .*absent\.key cannot"),
                (f'client = [["{key}", ""]]', "server.*cannot be used for TLS"),
            ]
        ):
            with pytest.raises(InvalidConfig, match=words):
                await ask(registry, tmp_path / str(number), extra)


@pytest.mark.parametrize("fault", ["self-signed", "another name", "expired"])
async def test_G05_a_bad_certificate_is_refused_and_http_is_not_tried(tmp_path: Path, fault: str) -> None:
    host = "127.0.0.9" if fault == "another name" else "127.0.0.1"
    pair = certificate(tmp_path, "server", host=host, days=-1 if fault == "expired" else 1)
    trusted = "" if fault == "self-signed" else f'ca = "{pair[0]}"'
    async with MaliciousRegistry(tls=server_context(pair)) as registry:
        registry.add(small_image(), "a/b", "latest")
        with pytest.raises(Denied, match=r"not trusted.*ca\.crt"):
            await ask(registry, tmp_path / "certs.d", trusted)
        assert not registry.seen


async def test_G05_a_trusted_certificate_is_accepted_and_so_is_not_checking(tmp_path: Path) -> None:
    pair = certificate(tmp_path, "server")
    async with MaliciousRegistry(tls=server_context(pair)) as registry:
        registry.add(small_image(), "a/b", "latest")
        await ask(registry, tmp_path / "one", f'ca = "{pair[0]}"')
        await ask(registry, tmp_path / "two", "skip_verify = true")
        assert len(registry.seen) == 2


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    context = server_context(server)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client[0])
    async with MaliciousRegistry(tls=context) as registry:
        registry.add(small_image(), "a/b", "latest")
        shown = f'ca = "{server[0]}"\nclient = [["{client[0]}", "{client[1]}"]]'
        await ask(registry, tmp_path / "one", shown)
        with pytest.raises(MesocosmError):
            await ask(registry, tmp_path / "two", f'ca = "{server[0]}"')
        assert len(registry.seen) == 1


async def test_unusable_tls_material_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.crt").write_text("nonsense")
    with pytest.raises(InvalidConfig, match=r"x\.crt"):
        Tls((str(tmp_path / "x.crt"),)).context()


# --- mirrors ---


@pytest.fixture
async def two() -> AsyncIterator[tuple[MaliciousRegistry, MaliciousRegistry]]:
    async with MaliciousRegistry(address="127.0.0.2") as mirror, MaliciousRegistry() as origin:
        yield mirror, origin


@pytest.mark.parametrize("fault", ["none", "empty", "broken", "lying"])
async def test_a_mirror_serves_and_the_registry_stands_in_for_it(
    two: tuple[MaliciousRegistry, MaliciousRegistry], fault: str
) -> None:
    mirror, origin = two
    image = small_image()
    origin.add(image, "a/b", "latest")
    if fault != "empty":
        mirror.add(image, "a/b", "latest")
    if fault == "broken":
        mirror.always("", status(500))
    if fault == "lying":
        mirror.manifests["a/b", image.digest] = (b"{}", image.media_type)
    hosts = HostsConfig(certs_dirs=(), mirrors={origin.host: (mirror.host,)})
    limits = Limits(attempts=2, backoff=0.001)
    async with await RegistryClient.open(origin.host, hosts=hosts, limits=limits) as client:
        reply = await client.manifest("a/b", image.digest)
    assert reply is not None
    assert str(reply.digest) == image.digest
    assert bool(origin.seen) == (fault != "none")


async def test_a_mirror_is_told_whose_it_is_and_asked_for_what_it_may_give(
    two: tuple[MaliciousRegistry, MaliciousRegistry], tmp_path: Path
) -> None:
    """Tags by the registry, what they stand for by the mirror; a mirror without referrers does not end it."""
    mirror, origin = two
    image = small_image()
    for one in two:
        one.add(image, "a/b", "latest")
    referrers = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [ENTRY]}).encode()
    origin.serve_manifest("a/b", image.digest.replace(":", "-"), referrers, OCI_INDEX)
    (tmp_path / origin.host).mkdir()
    text = f"server = '{origin.url}'\n[host.'{mirror.url}']\ncapabilities = ['pull']\n"
    (tmp_path / origin.host / "hosts.toml").write_text(text)
    hosts, limits = HostsConfig(certs_dirs=(tmp_path,)), Limits(attempts=2, backoff=0.001)
    async with await RegistryClient.open(origin.host, hosts=hosts, limits=limits) as client:
        resolved = await client.resolve("a/b", "latest")
        assert resolved is not None
        await client.manifest("a/b", str(resolved.digest))
        assert len(await client.referrers("a/b", resolved.digest)) == 1
        assert await client.tags("a/b") == origin.tags["a/b"]
    assert origin.paths("ns=") == []
    assert all(path.endswith(f"ns={origin.host}") for path in mirror.paths())
    assert len(mirror.paths("manifests")) == 2
    assert mirror.paths("tags") == []


async def test_a_silent_mirror_costs_its_dial_timeout(tmp_path: Path) -> None:
    image = small_image()
    async with MaliciousRegistry() as origin:
        origin.add(image, "a/b", "latest")
        with socket.create_server(("127.0.0.3", 0), backlog=0) as full:
            port = full.getsockname()[1]
            held = [socket.socket() for _ in range(4)]
            for one in held:
                one.setblocking(False)
                one.connect_ex(("127.0.0.3", port))
            (tmp_path / origin.host).mkdir()
            text = f"server = '{origin.url}'\n[host.'http://127.0.0.3:{port}']\ndial_timeout = '200ms'\n"
            (tmp_path / origin.host / "hosts.toml").write_text(text)
            hosts, begun = HostsConfig(certs_dirs=(tmp_path,)), time.monotonic()
            async with await RegistryClient.open(
                origin.host, hosts=hosts, limits=Limits(backoff=0.001)
            ) as client:
                assert await client.manifest("a/b", "latest")
            assert time.monotonic() - begun < 5
            for one in held:
                one.close()


async def test_a_registry_without_push_says_so(tmp_path: Path) -> None:
    (tmp_path / "r.io").mkdir()
    (tmp_path / "r.io" / "hosts.toml").write_text('capabilities = ["pull"]')
    async with await RegistryClient.open("r.io", hosts=HostsConfig(certs_dirs=(tmp_path,))) as client:
        with pytest.raises(Unsupported, match="push"):
            await client.push_manifest("a/b", "latest", b"{}", "a/b")


async def test_a_registry_that_is_not_there_is_an_error_at_once() -> None:
    async with MaliciousRegistry() as gone:
        host = gone.host
    async with await RegistryClient.open(host, hosts=NOWHERE) as client:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await client.log_in()


async def test_conditional_questions(two: tuple[MaliciousRegistry, MaliciousRegistry]) -> None:
    _, origin = two
    origin.add(small_image(), "a/b", "latest")
    async with await RegistryClient.open(origin.host, hosts=NOWHERE) as client:
        first = await client.resolve("a/b", "latest")
        assert first is not None
        assert first.etag
        assert await client.resolve("a/b", "latest", etag=first.etag) is None
        assert await client.manifest("a/b", "latest", etag=first.etag) is None
        assert await client.resolve("a/b", "latest", etag='"other"') == first
        origin.always("/manifests/", status(405))
        with pytest.raises(Unsupported):
            await client.resolve("a/b", "latest")
        with pytest.raises(NotFound):
            await client.read_blob("a/b", Descriptor("a/b", Digest.of(b"missing"), 7))


# --- retries and paces ---


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("5", 5.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("1000000000", 1e9),
        ("9" * 40, float("inf")),
        ("-5", None),
        ("+5", None),
        ("5.0", None),
        ("\u0665", None),
        ("", None),
        (None, None),
        ("x" * 100, None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200.0),
        ("Thu, 99 Jan 1970 00:20:00 GMT", None),
    ],
)
def test_G08_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, now=1000.0) == seconds


@given(st.text(max_size=70))
def test_G08_any_retry_after_is_a_wait_or_nothing(text: str) -> None:
    found = parse_retry_after(text, time.time())
    assert found is None or found >= 0


@given(
    st.lists(st.one_of(st.none(), st.just("1000000000"), st.just("-1"), st.just("3")), max_size=20),
    st.floats(0, 1),
)
def test_G08_the_waits_end_within_attempts_and_deadline(answers: list[str | None], chance: float) -> None:
    limits, now = Limits(), [0.0]
    retry = Retry(limits, clock=lambda: now[0], chance=lambda: chance)
    for count, answer in enumerate(answers):
        delay = retry.delay(answer)
        if delay is None:
            break
        assert 0 <= delay <= limits.retry_after
        assert count < limits.attempts
        now[0] += delay
    assert now[0] <= limits.deadline


def test_G08_progress_forgives_and_a_trickle_does_not() -> None:
    retry = Retry(Limits(attempts=2))
    assert retry.delay() is not None
    retry.progressed(10)
    assert retry.delay() is None
    retry = Retry(Limits(attempts=2))
    for _ in range(10):
        assert retry.delay() is not None
        retry.progressed(1 << 20)


def test_G06_the_pace_counts_waiting_only() -> None:
    pace = Pace(Limits(idle=10, min_rate=100))
    assert all(pace.took(1, 100) for _ in range(50))
    assert all(pace.took(0.0, 1) for _ in range(1000))
    slow = Pace(Limits(idle=10, min_rate=100))
    assert [slow.took(1, 50) for _ in range(10)] == [True] * 9 + [False]


@pytest.mark.parametrize("host", ["a." * 200 + "example", ".."])
def test_a_host_that_no_directory_is_called_has_none(host: str, tmp_path: Path) -> None:
    (tmp_path / "certs.d").mkdir()
    (tmp_path / "hosts.toml").write_text('server = "http://elsewhere.example"')
    config = HostsConfig(certs_dirs=(tmp_path / "certs.d",))
    assert [one.base for one in endpoints_of(host, config)] == [f"https://{host}"]


def test_an_unknown_key_is_told_the_known_ones_of_its_place(tmp_path: Path) -> None:
    (tmp_path / "r.io").mkdir()
    file = tmp_path / "r.io" / "hosts.toml"
    for text, known in (("servr = 'https://x'", True), ("[host.'https://x']\nservr = 1", False)):
        file.write_text(text)
        with pytest.raises(InvalidConfig, match="servr is not understood") as caught:
            endpoints_of("r.io", HostsConfig(certs_dirs=(tmp_path,)))
        assert ("host, override_path" in str(caught.value) and "server, " in str(caught.value)) is known
