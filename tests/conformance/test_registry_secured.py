"""The client against docker's registry behind TLS, a token server and a proxy of the tests' own."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fixtures.authority import Authority
from fixtures.proxy import Proxy
from fixtures.registry import Registry
from fixtures.token_server import TokenServer
from mesocosm.errors import Denied, MesocosmError, Unavailable
from mesocosm.images.blobs import BlobStore
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.registry.auth import Credential
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.credentials import Credentials
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.push import UploadSource
from mesocosm.images.registry.session import login

TLS = """\
  tls:
    certificate: "{certificate}"
    key: "{key}"
"""
CLIENTS = '    clientcas: ["{ca}"]\n'
TOKENS = """\
auth:
  token: {{realm: "{realm}", service: tests, issuer: tests, rootcertbundle: "{bundle}"}}
"""
DATA = hashlib.shake_256(b"secured").digest(300_000)
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
QUICK = Limits(attempts=3, backoff=0.001, backoff_cap=0.01)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def source_of(data: bytes) -> UploadSource:
    async def source(offset: int, count: int) -> AsyncIterator[bytes]:
        for at in range(offset, offset + count, 50_000):
            yield data[at : min(at + 50_000, offset + count)]

    return source


def configured(folder: Path, host: str, text: str) -> HostsConfig:
    """A directory of hosts.toml files with one for ``host``."""
    (folder / host).mkdir(parents=True, exist_ok=True)
    (folder / host / "hosts.toml").write_text(f'server = "https://{host}"\n{text}')
    return HostsConfig(certs_dirs=(folder,))


async def travel(host: str, hosts: HostsConfig, store: Path, credentials: Credentials | None = None) -> None:
    """Push a blob and fetch it."""
    async with await RegistryClient.open(host, hosts=hosts, limits=QUICK, credentials=credentials) as client:
        await client.push_blob("a/b", BLOB, source_of(DATA), chunk=100_000)
        await client.fetch_blob(BlobStore.open(store), "a/b", BLOB)


# --- TLS ---


@pytest.mark.parametrize("form", ["hosts.toml", "certs.d", "one file", "plain list"])
async def test_a_registry_that_wants_client_certificates(
    form: str, authority: Authority, tmp_path: Path
) -> None:
    server, client = authority.issue("server", "127.0.0.1"), authority.issue("client")
    http = TLS.format(certificate=server.certificate, key=server.key)
    http += CLIENTS.format(ca=authority.root.certificate)
    with Registry(tmp_path / "registry", http=http) as registry:
        ca = f'ca = "{authority.root.certificate}"\n'
        if form == "certs.d":
            own = tmp_path / "certs.d" / registry.host
            own.mkdir(parents=True)
            (own / "ca.crt").symlink_to(authority.root.certificate)
            (own / "client.cert").symlink_to(client.certificate)
            (own / "client.key").symlink_to(client.key)
            hosts = HostsConfig(certs_dirs=(tmp_path / "certs.d",))
        else:
            both = tmp_path / "both.pem"
            both.write_bytes(client.certificate.read_bytes() + client.key.read_bytes())
            shown = {
                "hosts.toml": f'[["{client.certificate}", "{client.key}"]]',
                "one file": f'"{both}"',
                "plain list": f'["{both}"]',
            }[form]
            hosts = configured(tmp_path / "certs.d", registry.host, f"{ca}client = {shown}\n")
        await travel(registry.host, hosts, tmp_path / "store")
        with pytest.raises((Denied, Unavailable)):
            await travel(registry.host, configured(tmp_path / "other", registry.host, ca), tmp_path / "no")


@pytest.mark.parametrize("fault", ["wrong CA", "expired", "wrong name", "no CA"])
async def test_G05_a_registry_whose_certificate_is_not_sound(
    fault: str, authority: Authority, tmp_path: Path
) -> None:
    ends = datetime.timedelta(hours=-1) if fault == "expired" else datetime.timedelta(days=1)
    name = "127.0.0.9" if fault == "wrong name" else "127.0.0.1"
    server = authority.issue("server", name, ends=ends)
    ca = Authority(tmp_path / "other").root if fault == "wrong CA" else authority.root
    http = TLS.format(certificate=server.certificate, key=server.key)
    with Registry(tmp_path / "registry", http=http) as registry:
        text = "" if fault == "no CA" else f'ca = ["{ca.certificate}"]'
        with pytest.raises(Denied, match=r"not trusted.*ca\.crt"):
            await travel(registry.host, configured(tmp_path / "certs.d", registry.host, text), tmp_path / "s")
        trusting = configured(tmp_path / "trusting", registry.host, "skip_verify = true")
        await travel(registry.host, trusting, tmp_path / "store")


async def test_an_address_of_ipv6(authority: Authority, tmp_path: Path) -> None:
    server = authority.issue("server", "::1")
    http = TLS.format(certificate=server.certificate, key=server.key)
    with Registry(tmp_path / "registry", http=http, address="[::1]") as registry:
        hosts = configured(tmp_path / "certs.d", registry.host, f'ca = "{authority.root.certificate}"')
        await travel(registry.host, hosts, tmp_path / "store")


# --- tokens ---


@pytest.fixture
async def tokens(authority: Authority) -> AsyncIterator[TokenServer]:
    async with TokenServer(authority.issue("signer"), {"joe": "pa55"}) as running:
        yield running


@pytest.fixture
def guarded(tokens: TokenServer, authority: Authority, tmp_path: Path) -> Iterator[Registry]:
    """A registry that takes the token server's tokens."""
    auth = TOKENS.format(realm=tokens.url, bundle=authority.root.certificate)
    with Registry(tmp_path / "registry", auth=auth) as running:
        yield running


@pytest.fixture
def joe(guarded: Registry, tmp_path: Path) -> Credentials:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {guarded.host: {"username": "joe", "password": "pa55"}}}))
    return Credentials([path])


NOWHERE = HostsConfig(certs_dirs=())


@pytest.mark.parametrize("form", ["GET", "POST"])
async def test_tokens_by_password(
    form: str, tokens: TokenServer, guarded: Registry, joe: Credentials, tmp_path: Path
) -> None:
    tokens.get = form == "GET"
    await travel(guarded.host, NOWHERE, tmp_path / "store", joe)
    assert {(one[0], one[1]) for one in tokens.asked} == {(form, "joe")}
    assert all("offline" not in " ".join(fields) for _, _, fields in tokens.asked)


async def test_a_login_keeps_an_identity_token_and_no_password(
    tokens: TokenServer, guarded: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "kept" / "config.json"
    keeper = Credentials([path])
    with pytest.raises(Denied):
        await login(guarded.host, Credential("joe", "wrong"), keeper, hosts=NOWHERE)
    await login(guarded.host, Credential("joe", "pa55"), keeper, hosts=NOWHERE)
    entry = json.loads(path.read_text())["auths"][guarded.host]
    assert list(tokens.refresh) == [entry["identitytoken"]]
    found = await keeper.find(guarded.host)
    assert found is not None
    assert (found.username, found.password) == ("joe", "")
    tokens.asked.clear()
    await travel(guarded.host, NOWHERE, tmp_path / "store", keeper)
    assert {one[0] for one in tokens.asked} == {"POST"}
    assert len(tokens.asked) == 2  # to push, to pull: each with the refresh token that the last reply gave
    entry = json.loads(path.read_text())["auths"][guarded.host]
    assert list(tokens.refresh) == [entry["identitytoken"]]  # the one before is worth nothing any more
    await travel(guarded.host, NOWHERE, tmp_path / "later", keeper)
    await login(guarded.host, Credential("joe", "pa55"), keeper, hosts=NOWHERE)
    tokens.post = False
    with pytest.raises(MesocosmError):
        await travel(guarded.host, NOWHERE, tmp_path / "again", keeper)


@pytest.mark.parametrize("said", [None, 3600], ids=["honest", "lying"])
async def test_tokens_that_end_in_the_middle(
    said: int | None, tokens: TokenServer, guarded: Registry, joe: Credentials, tmp_path: Path
) -> None:
    """Every token ends a second after it was given, whatever the reply claims; push and pull take longer."""
    tokens.lifetime, tokens.said = 2.0, said
    chunks = 4

    async def slowly(offset: int, count: int) -> AsyncIterator[bytes]:
        yield DATA[offset : offset + count // 2]
        await asyncio.sleep(0.8)
        yield DATA[offset + count // 2 : offset + count]

    async with await RegistryClient.open(guarded.host, hosts=NOWHERE, credentials=joe) as client:
        size = len(DATA) // chunks
        await client.push_blob("slow/a", BLOB, slowly, chunk=size)
        store = BlobStore.open(tmp_path / "store")
        for _ in range(3):
            await asyncio.sleep(1.0)
            assert await client.has_blob("slow/a", BLOB.digest)
        await client.fetch_blob(store, "slow/a", BLOB)
        assert store.read(BLOB.digest, limit=1 << 20) == DATA
    assert len(tokens.asked) >= 4


async def test_too_narrow_a_scope_is_told_from_a_wrong_password(
    tokens: TokenServer, guarded: Registry, joe: Credentials
) -> None:
    tokens.rights["joe"] = {"pull"}
    async with await RegistryClient.open(guarded.host, hosts=NOWHERE, credentials=joe) as client:
        with pytest.raises(Denied, match="does not let joe do this: upload of"):
            await client.push_blob("a/b", BLOB, source_of(DATA))
    tokens.rights[""] = set()
    async with await RegistryClient.open(guarded.host, hosts=NOWHERE) as client:
        with pytest.raises(Denied, match="does not let those without a login do this"):
            await client.push_blob("a/b", BLOB, source_of(DATA))


async def test_G03_a_client_certificate_stays_with_its_host(authority: Authority, tmp_path: Path) -> None:
    """The token server, elsewhere, is verified by the same CA, also where checking is skipped."""
    server, client = authority.issue("server", "127.0.0.2"), authority.issue("client")
    stranger = Authority(tmp_path / "stranger").issue("token", "127.0.0.1")
    users = {"joe": "pa55"}
    http = TLS.format(certificate=server.certificate, key=server.key)
    async with TokenServer(authority.issue("signer"), users, tls=stranger.server_context()) as tokens:
        auth = TOKENS.format(realm=tokens.url, bundle=authority.root.certificate)
        with Registry(tmp_path / "registry", http=http, auth=auth, address="127.0.0.2") as registry:
            text = f'skip_verify = true\nclient = [["{client.certificate}", "{client.key}"]]\n'
            hosts = configured(tmp_path / "certs.d", registry.host, text)
            path = tmp_path / "config.json"
            path.write_text(json.dumps({"auths": {registry.host: {"username": "joe", "password": "pa55"}}}))
            with pytest.raises(Denied, match="not trusted"):
                await travel(registry.host, hosts, tmp_path / "store", Credentials([path]))
            assert tokens.asked == []
            hosts = configured(
                tmp_path / "certs.d", registry.host, f'{text}ca = "{tmp_path}/stranger/ca.pem"\n'
            )
            await travel(registry.host, hosts, tmp_path / "store", Credentials([path]))


# --- proxies ---


async def test_through_a_proxy_with_a_password(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "*")
    server = authority.issue("server", "127.0.0.1")
    http = TLS.format(certificate=server.certificate, key=server.key)
    ca = f'ca = "{authority.root.certificate}"\n'
    with Registry(tmp_path / "registry", http=http) as registry:
        async with Proxy("user", "s3cret") as proxy:
            hosts = configured(tmp_path / "certs.d", registry.host, f'{ca}proxy = "{proxy.url}"')
            await travel(registry.host, hosts, tmp_path / "store")
            assert set(proxy.asked) == {f"CONNECT {registry.host}"}
            assert all("Authorization: Bearer" not in head for head in proxy.heads)
            wrong = proxy.url.replace("s3cret", "gue55")
            hosts = configured(tmp_path / "certs.d", registry.host, f'{ca}proxy = "{wrong}"')
            with pytest.raises(Denied, match="its proxy answered 407") as caught:
                await travel(registry.host, hosts, tmp_path / "other")
            assert "gue55" not in f"{caught.value!r} {caught.value} {caught.value.hint}"
            before = len(proxy.asked)
            hosts = configured(tmp_path / "certs.d", registry.host, ca)
            await travel(registry.host, hosts, tmp_path / "direct")
            assert len(proxy.asked) == before
        hosts = configured(tmp_path / "certs.d", registry.host, f'{ca}proxy = "{proxy.url}"')
        with pytest.raises(Unavailable, match="its proxy cannot be reached") as gone:
            await travel(registry.host, hosts, tmp_path / "gone")
        assert "s3cret" not in str(gone.value)


async def test_plain_requests_through_a_proxy(registry: Registry, tmp_path: Path) -> None:
    async with Proxy("user", "s3cret") as proxy:
        (tmp_path / "certs.d" / registry.host).mkdir(parents=True)
        text = f'server = "http://{registry.host}"\nproxy = "{proxy.url}"\n'
        (tmp_path / "certs.d" / registry.host / "hosts.toml").write_text(text)
        await travel(registry.host, HostsConfig(certs_dirs=(tmp_path / "certs.d",)), tmp_path / "store")
        assert proxy.asked
        general = HostsConfig(certs_dirs=(), proxies={"http": proxy.url})
        before = len(proxy.asked)
        await travel(registry.host, general, tmp_path / "other")  # loopback is reached directly
        assert len(proxy.asked) == before
