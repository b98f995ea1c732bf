"""Authentication: challenges, levels, tokens, credential files and helpers (G-03, G-10)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import select
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from malicious_registry import MaliciousRegistry, redirect, status
from mesocosm.errors import Corrupt, Denied, InvalidConfig, MesocosmError, NotFound
from mesocosm.images.digest import Digest
from mesocosm.images.documents import Descriptor
from mesocosm.images.progress import Progress
from mesocosm.images.registry.auth import Authenticator, Credential, check_realm
from mesocosm.images.registry.challenge import Challenge, parse_challenges
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.credentials import Credentials, default_paths
from mesocosm.images.registry.hosts import HostsConfig
from mesocosm.images.registry.limits import Limits
from mesocosm.images.registry.origin import Origin
from registry_fixtures import small_image

HERE = Origin("https", "r.example", 443)
SECRET = "s3cr3t-w0rd"
PULL = "repository:a/b:pull"

# --- challenges ---


@pytest.mark.parametrize(
    "header, expected",
    [
        ('Basic realm="x"', (Challenge("basic", {"realm": "x"}),)),
        ("basic", (Challenge("basic"),)),
        ("Negotiate abc==", (Challenge("negotiate"),)),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"',
            (
                Challenge(
                    "bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a/b:pull,push"}
                ),
            ),
        ),
        ('Bearer Realm = "a", SERVICE=b', (Challenge("bearer", {"realm": "a", "service": "b"}),)),
        (
            'Basic realm="a", Bearer realm="b"',
            (Challenge("basic", {"realm": "a"}), Challenge("bearer", {"realm": "b"})),
        ),
        ('Digest, , Basic realm="a\\"b"', (Challenge("digest"), Challenge("basic", {"realm": 'a"b'}))),
    ],
)
def test_challenges_are_read(header: str, expected: tuple[Challenge, ...]) -> None:
    assert parse_challenges([header]) == expected


@pytest.mark.parametrize(
    "header",
    [
        'Bearer realm="a',
        'Bearer realm="a" service="b"',
        'Bearer realm="a",realm="b"',
        'Bearer realm="a\r\nX: y"',
        'Bearer realm="a\x00"',
        "=",
        'Be(arer realm="a"',
        "x" * 9000,
        ",".join(["Basic"] * 20),
    ],
)
def test_malformed_challenges_are_refused(header: str) -> None:
    with pytest.raises(Corrupt):
        parse_challenges([header])


@given(st.text(st.characters(max_codepoint=300), max_size=60))
def test_any_header_is_read_or_refused(text: str) -> None:
    try:
        found = parse_challenges([text])
    except Corrupt:
        return
    for challenge in found:
        assert challenge.scheme == challenge.scheme.lower()
        assert all("\r" not in value and "\n" not in value for value in challenge.params.values())


TOKEN = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=10)
QUOTED = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(TOKEN, st.dictionaries(TOKEN.map(str.lower), QUOTED, max_size=3)), max_size=4))
def test_whatever_is_written_is_read_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quote(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    parts = [
        f"{scheme} " + ", ".join(f"{name}={quote(value)}" for name, value in params.items())
        for scheme, params in challenges
    ]
    header = ", ".join(part.strip() for part in parts)
    assert parse_challenges([header]) == tuple(
        Challenge(scheme.lower(), params) for scheme, params in challenges
    )


# --- levels ---


def bearer(**params: str) -> list[Challenge]:
    return [Challenge("bearer", {"realm": "https://auth.example/token", **params})]


def query(url: str) -> dict[str, list[str]]:
    return parse_qs(URL(url).raw_query_string)


def test_anonymous_goes_to_a_token_without_credentials() -> None:
    auth = Authenticator("r.example", HERE, None)
    assert (auth.header(PULL), auth.level(PULL)) == (None, "anonymous")
    request = auth.refused(bearer(service="s", scope=PULL), PULL, "anonymous")
    assert request is not None
    assert (request.authorization, request.form) == (None, None)
    assert query(request.url) == {"service": ["s"], "scope": [PULL]}
    auth.granted(request.key, b'{"access_token": "t1"}')
    assert (auth.header(PULL), auth.level(PULL)) == ("Bearer t1", "bearer")
    assert auth.header("repository:c/d:pull") is None


def test_MESOS_10092_a_missing_scope_and_service_are_made_up() -> None:
    request = Authenticator("r.example", HERE, None).refused(bearer(), PULL, "anonymous")
    assert request is not None
    assert query(request.url) == {"service": ["r.example"], "scope": [PULL]}


def test_the_scope_asked_for_is_asked_for_beside_the_one_demanded() -> None:
    request = Authenticator("r.example", HERE, None).refused(bearer(scope="x:y:z"), PULL, "anonymous")
    assert request is not None
    assert query(request.url)["scope"] == ["x:y:z", PULL]


def test_the_realm_keeps_its_own_query() -> None:
    challenge = [Challenge("bearer", {"realm": "https://auth.example/t?a=b%26c", "service": "x&y"})]
    request = Authenticator("r.example", HERE, None).refused(challenge, PULL, "anonymous")
    assert request is not None
    assert query(request.url) == {"a": ["b&c"], "service": ["x&y"], "scope": [PULL]}


def test_basic_then_nothing_more() -> None:
    auth = Authenticator("r.example", HERE, Credential("joe", SECRET))
    challenge = [Challenge("basic", {"realm": "x"})]
    assert auth.refused(challenge, PULL, "anonymous") is None
    assert auth.header(PULL) == "Basic " + base64.b64encode(f"joe:{SECRET}".encode()).decode()
    with pytest.raises(Denied, match=r"credentials of joe.*mesocosm login r\.example") as raised:
        auth.refused(challenge, PULL, "basic")
    assert SECRET not in str(raised.value)


def test_no_credentials_and_a_basic_challenge_say_log_in() -> None:
    with pytest.raises(Denied, match=r"mesocosm login r\.example"):
        Authenticator("r.example", HERE, None).refused([Challenge("basic")], PULL, "anonymous")


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(Denied):
        Authenticator("r.example", HERE, Credential("a", "b")).refused(
            [Challenge("digest")], PULL, "anonymous"
        )


def test_a_token_expires_and_is_renewed() -> None:
    now = [0.0]
    auth = Authenticator("r.example", HERE, None, clock=lambda: now[0])
    auth.granted(PULL, b'{"token": "t", "expires_in": 100}')
    now[0] = 89.0
    assert auth.header(PULL) == "Bearer t"
    now[0] = 91.0
    assert auth.header(PULL) is None


def test_an_identity_token_is_posted_and_replaced() -> None:
    auth = Authenticator("r.example", HERE, Credential(identity_token="refresh-1"))
    request = auth.refused(bearer(service="s"), PULL, "anonymous")
    assert request is not None
    assert request.authorization is None
    assert "refresh-1" not in request.url
    assert "refresh-1" not in repr(request)
    form = parse_qs(request.form or "")
    assert form == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["refresh-1"],
        "client_id": ["mesocosm"],
        "service": ["s"],
        "scope": [PULL],
    }
    auth.granted(PULL, b'{"access_token": "a", "refresh_token": "refresh-2"}')
    again = auth.refused(bearer(service="s"), PULL, "bearer")
    assert again is not None
    assert "refresh-2" in (again.form or "")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"token": ""}', b'{"token": 5}', b'{"token": "a b"}', b'{"token": "a\\r\\nX: y"}', b"[]"],
)
def test_unusable_tokens_are_refused(body: bytes) -> None:
    with pytest.raises(MesocosmError):
        Authenticator("r.example", HERE, None).granted(PULL, body)


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example/token",
        "http://r.example/token",
        "file:///etc/passwd",
        "https://user:pw@auth.example/",
        "https://",
        "",
        "https://auth.example/\r\nX: y",
    ],
)
def test_G03_realms_that_are_not_https_are_refused(realm: str) -> None:
    with pytest.raises(Denied):
        check_realm(HERE, realm, "r.example")


def test_G03_a_plain_registry_may_name_its_own_host_only() -> None:
    plain = Origin("http", "127.0.0.1", 5000)
    assert check_realm(plain, "http://127.0.0.1:5001/t", "x").port == 5001
    assert check_realm(plain, "https://auth.example/t", "x").scheme == "https"
    with pytest.raises(Denied):
        check_realm(plain, "http://127.0.0.2:5000/t", "x")


def test_secrets_are_not_shown() -> None:
    for value in (Credential("joe", SECRET), Credential("joe", SECRET, "id-" + SECRET)):
        assert SECRET not in repr(value)
        assert SECRET not in str(value)
        assert SECRET not in f"{[value]}"


# --- against a server ---


@pytest.fixture
async def registry() -> AsyncIterator[MaliciousRegistry]:
    async with MaliciousRegistry() as one:
        one.add(small_image(), "a/b", "latest")
        yield one


def credentials_file(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(document))
    return path


async def connect(registry: MaliciousRegistry, credentials: Credentials | None = None) -> RegistryClient:
    return await RegistryClient.open(
        registry.host,
        hosts=HostsConfig(certs_dirs=()),
        credentials=credentials,
        limits=Limits(backoff=0.001, backoff_cap=0.01),
    )


def with_auth(tmp_path: Path, registry: MaliciousRegistry, password: str = SECRET) -> Credentials:
    auth = base64.b64encode(f"joe:{password}".encode()).decode()
    return Credentials([credentials_file(tmp_path, {"auths": {registry.host: {"auth": auth}}})])


@pytest.mark.parametrize("kind", ["basic", "token", "token for a user"])
async def test_each_kind_of_authentication_works(
    registry: MaliciousRegistry, tmp_path: Path, kind: str
) -> None:
    if kind == "basic":
        registry.require_basic("joe", SECRET)
    else:
        registry.require_token(user=("joe", SECRET) if "user" in kind else None)
    async with await connect(registry, with_auth(tmp_path, registry)) as client:
        await client.log_in()
        assert await client.manifest("a/b", "latest") is not None
        assert await client.tags("a/b") == ["latest"]


async def test_one_token_serves_many_requests_at_once(registry: MaliciousRegistry) -> None:
    registry.require_token()
    async with await connect(registry) as client:
        await asyncio.gather(*[client.manifest("a/b", "latest") for _ in range(20)])
    assert len(registry.paths("/token")) == 1


async def test_a_token_that_stops_working_is_renewed(registry: MaliciousRegistry) -> None:
    registry.require_token()
    async with await connect(registry) as client:
        await client.manifest("a/b", "latest")
        registry.token = "another"
        await client.manifest("a/b", "latest")
    assert len(registry.paths("/token")) == 2


@pytest.mark.parametrize("kind", ["basic", "token"])
async def test_wrong_credentials_say_so_and_end(
    registry: MaliciousRegistry, tmp_path: Path, kind: str
) -> None:
    if kind == "basic":
        registry.require_basic("joe", SECRET)
    else:
        registry.require_token(user=("joe", SECRET))
    async with await connect(registry, with_auth(tmp_path, registry, "wr0ng-w0rd")) as client:
        with pytest.raises(Denied, match=f"mesocosm login {registry.host}") as raised:
            await client.manifest("a/b", "latest")
    assert "wr0ng" not in str(raised.value)
    assert len(registry.seen) <= 3


async def test_a_token_that_is_never_good_enough_ends(registry: MaliciousRegistry) -> None:
    registry.require_token()
    registry.token_reply = b'{"token": "useless"}'
    async with await connect(registry) as client:
        with pytest.raises(Denied):
            await client.manifest("a/b", "latest")
    assert len(registry.seen) < 10


async def test_G03_a_token_server_cannot_redirect_the_password(
    registry: MaliciousRegistry, tmp_path: Path
) -> None:
    async with MaliciousRegistry(address="127.0.0.2") as other:
        registry.require_token(user=("joe", SECRET))
        registry.always("/token", status(307, {"Location": f"{other.url}/token"}))
        async with await connect(registry, with_auth(tmp_path, registry)) as client:
            with pytest.raises(MesocosmError):
                await client.manifest("a/b", "latest")
        assert not other.seen


# --- credential files ---


async def test_every_way_of_naming_a_registry_is_found(tmp_path: Path) -> None:
    for key in ("r.io:5000", "https://r.io:5000", "http://r.io:5000", "https://r.io:5000/v2/"):
        path = credentials_file(tmp_path, {"auths": {key: {"auth": base64.b64encode(b"u:p:q").decode()}}})
        assert await Credentials([path]).find("r.io:5000") == Credential("u", "p:q")
        assert await Credentials([path]).find("r.io") is None
    for key in ("docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"):
        path = credentials_file(tmp_path, {"auths": {key: {"username": "u", "password": "p"}}})
        assert await Credentials([path]).find("docker.io") == Credential("u", "p")


async def test_the_longest_path_wins_and_identity_tokens_are_read(tmp_path: Path) -> None:
    auths = {
        "r.io": {"auth": base64.b64encode(b"u:all").decode()},
        "r.io/a/b": {"auth": base64.b64encode(b"u:ab").decode()},
        "t.io": {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": "id"},
        "empty.io": {},
    }
    found = Credentials([credentials_file(tmp_path, {"auths": auths})])
    assert await found.find("r.io", "a/b/c") == Credential("u", "ab")
    assert await found.find("r.io", "a/bc") == Credential("u", "all")
    token = await found.find("t.io")
    assert token is not None
    assert token.identity_token == "id"
    assert await found.find("empty.io") is None


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        '{"auths": []}',
        '{"auths": {"r.io": {"auth": "' + SECRET + '"}}}',
        '{"auths": {"r.io": {"auth": "' + base64.b64encode(SECRET.encode()).decode() + '"}}}',
        '{"auths": {"r.io": {"auth": "' + base64.b64encode(b"a\r\nb:" + SECRET.encode()).decode() + '"}}}',
        '{"credHelpers": []}',
        '{"credsStore": 5}',
    ],
)
async def test_G10_a_malformed_file_is_an_error_without_the_secret(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InvalidConfig) as raised:
        await Credentials([path]).find("r.io")
    assert SECRET not in str(raised.value)
    assert str(raised.value).isprintable()


async def test_login_and_logout_keep_the_rest_of_the_file(tmp_path: Path) -> None:
    path = credentials_file(tmp_path, {"HttpHeaders": {"a": "b"}, "auths": {"other.io": {"auth": "dTpw"}}})
    path.chmod(0o644)
    credentials = Credentials([path])
    await credentials.login("docker.io", Credential("joe", SECRET))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await credentials.find("docker.io") == Credential("joe", SECRET)
    assert json.loads(path.read_text())["HttpHeaders"] == {"a": "b"}
    assert "https://index.docker.io/v1/" in json.loads(path.read_text())["auths"]
    assert await credentials.logout("docker.io")
    assert not await credentials.logout("docker.io")
    assert await credentials.find("docker.io") is None
    assert await credentials.find("other.io") == Credential("u", "p")
    assert os.listdir(tmp_path) == ["config.json"]


async def test_login_makes_the_file_and_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".docker" / "config.json"
    await Credentials([path]).login("r.io", Credential("u", "p", "id"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert await Credentials([path]).find("r.io") == Credential("u", "p", "id")


def test_the_files_that_docker_and_podman_use() -> None:
    environ = {"HOME": "/h", "DOCKER_CONFIG": "/d", "REGISTRY_AUTH_FILE": "/r", "XDG_RUNTIME_DIR": "/x"}
    assert [str(path) for path in default_paths(environ)] == [
        "/d/config.json",
        "/r",
        "/x/containers/auth.json",
        "/h/.config/containers/auth.json",
    ]
    assert [str(path) for path in default_paths({"HOME": "/h", "XDG_CONFIG_HOME": "/c"})] == [
        "/h/.docker/config.json",
        "/c/containers/auth.json",
    ]


# --- helpers ---

HELPER = """#!/bin/sh
# $1 is the verb; the question comes on standard input.
read -r question
echo "$1 $question argv:$#" >> "{log}"
env >> "{log}"
case "$1" in
get) {answer} ;;
esac
"""


def helper(tmp_path: Path, answer: str, *, name: str = "test", mode: int = 0o755) -> Credentials:
    directory = tmp_path / "bin"
    directory.mkdir(exist_ok=True)
    program = directory / f"docker-credential-{name}"
    program.write_text(HELPER.format(log=tmp_path / "log", answer=answer))
    program.chmod(mode)
    path = credentials_file(tmp_path, {"credHelpers": {"r.io": name}})
    return Credentials(
        [path], environ={"HOME": "/h", "TOP_SECRET": "x"}, helper_dirs=[str(directory)], helper_seconds=5
    )


async def test_G10_a_helper_is_asked_over_standard_input(tmp_path: Path) -> None:
    answer = f"""echo '{{"ServerURL": "r.io", "Username": "joe", "Secret": "{SECRET}"}}'"""
    asked = f'echo "core $(ulimit -c) cpu $(ulimit -t)" >> "{tmp_path}/log"'
    credentials = helper(tmp_path, f"{asked}; {answer}")
    assert await credentials.find("r.io") == Credential("joe", SECRET)
    assert "core 0 cpu 60\n" in (tmp_path / "log").read_text()
    await credentials.login("r.io", Credential("joe", "t0p"))
    log = (tmp_path / "log").read_text()
    assert "get r.io argv:1" in log
    assert 'store {"ServerURL": "r.io", "Username": "joe", "Secret": "t0p"} argv:1' in log
    assert "TOP_SECRET" not in log
    assert "t0p" not in (tmp_path / "config.json").read_text()


async def test_G10_a_token_from_a_helper_is_an_identity_token(tmp_path: Path) -> None:
    found = await helper(tmp_path, """echo '{"Username": "<token>", "Secret": "id"}'""").find("r.io")
    assert found == Credential(identity_token="id")


# --- tokens that are given, and tokens that are replaced ---


async def test_a_registry_token_is_sent_as_it_is_and_only_to_the_registry(tmp_path: Path) -> None:
    """docker's AuthConfig: "a bearer token to be sent to a registry", before all else that is known."""
    async with MaliciousRegistry() as registry, MaliciousRegistry(address="127.0.0.2") as other:
        registry.add(small_image(), "a/b", "latest")
        registry.require_token(user=("u", "p"))
        blob = next(iter(small_image().blobs))
        other.blobs.update(small_image().blobs)
        entry = {"registrytoken": "good-token", "auth": base64.b64encode(b"u:p").decode()}
        keys = Credentials([credentials_file(tmp_path, {"auths": {registry.host: entry}})])
        async with await connect(registry, keys) as client:
            assert await client.manifest("a/b", "latest") is not None
            registry.on(blob, redirect(f"{other.url}/v2/a/b/blobs/{blob}"))
            size = len(small_image().blobs[blob])
            await client.read_blob("a/b", Descriptor("x/y", Digest.parse(blob), size))
        assert not registry.paths("/token")
        assert {one.authorization for one in registry.seen} == {"", "Bearer good-token"}
        assert [one.authorization for one in other.seen] == [""]
        registry.token = "another"
        async with await connect(registry, keys) as client:
            with pytest.raises(Denied, match="refuses the credentials"):
                await client.manifest("a/b", "latest")
        assert not registry.paths("/token")


@pytest.mark.parametrize("token", ["a b", "a\r\nX: 1", "\u00e9"])
async def test_G10_a_registry_token_that_is_none_is_refused(tmp_path: Path, token: str) -> None:
    keys = Credentials([credentials_file(tmp_path, {"auths": {"r.io": {"registrytoken": token}}})])
    with pytest.raises(InvalidConfig, match="registrytoken"):
        await keys.find("r.io")


def test_a_registry_token_is_never_shown() -> None:
    assert SECRET not in repr(Credential(registry_token=SECRET))


RENEWED = [
    {"auth": base64.b64encode(b"joe:").decode(), "identitytoken": "old"},
    {"auth": base64.b64encode(b"<token>:old").decode()},
    {"username": "<token>", "password": "old"},
    {"identitytoken": "old"},
]


@pytest.mark.parametrize("entry", RENEWED)
async def test_an_identity_token_is_replaced_where_it_is_kept(tmp_path: Path, entry: dict[str, str]) -> None:
    other = {"auth": base64.b64encode(b"u:p").decode()}
    path = credentials_file(tmp_path, {"auths": {"x.io": other, "r.io": entry}, "HttpHeaders": {"a": "b"}})
    empty = tmp_path / "none.json"
    keys = Credentials([empty, path])
    before = await keys.find("r.io")
    assert not await keys.renew("r.io", "a/b", "another", "new")  # somebody logged in meanwhile
    assert await keys.find("r.io") == before
    assert await keys.renew("r.io", "a/b", "old", "new")
    found = await keys.find("r.io")
    assert found is not None and found.identity_token == "new"
    assert before is not None and found.username == before.username
    document = json.loads(path.read_text())
    assert document["auths"]["x.io"] == other and document["HttpHeaders"] == {"a": "b"}
    assert "old" not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    assert not empty.exists()
    assert not await keys.renew("gone.io", "", "old", "new")


async def test_a_helper_is_given_the_identity_token_that_replaces_its_own(tmp_path: Path) -> None:
    keys = helper(tmp_path, """echo '{"Username": "<token>", "Secret": "old"}'""")
    assert not await keys.renew("r.io", "", "another", "new")
    assert "store" not in (tmp_path / "log").read_text()
    assert await keys.renew("r.io", "", "old", "new")
    asked = 'store {"ServerURL": "r.io", "Username": "<token>", "Secret": "new"}'
    assert asked in (tmp_path / "log").read_text()


async def test_a_file_of_another_user_stays_and_the_pull_goes_on(tmp_path: Path) -> None:
    async with MaliciousRegistry() as registry:
        registry.add(small_image(), "a/b", "latest")
        registry.require_token()
        registry.token_reply = b'{"access_token": "good-token", "refresh_token": "new"}'
        path = credentials_file(tmp_path, {"auths": {registry.host: {"identitytoken": "old"}}})
        os.chown(path, 1000, 1000)
        told: list[Progress] = []
        async with await connect(registry, Credentials([path])) as client:
            assert await client.manifest("a/b", "latest") is not None
            client.tell_warnings(told.append)
        (warning,) = told
        assert "new identity token was not kept" in warning.subject and "another user's" in warning.subject
        assert json.loads(path.read_text())["auths"][registry.host] == {"identitytoken": "old"}
        os.chown(path, 0, 0)
        async with await connect(registry, Credentials([path])) as client:
            assert await client.manifest("a/b", "latest") is not None
        assert json.loads(path.read_text())["auths"][registry.host]["identitytoken"] == "new"


@pytest.mark.parametrize(
    "answer",
    ['echo "credentials not found in native keychain"; exit 1', """echo '{"Username": "", "Secret": ""}'"""],
)
async def test_G10_a_helper_that_knows_nothing_is_no_error(tmp_path: Path, answer: str) -> None:
    credentials = helper(tmp_path, answer)
    assert await credentials.find("r.io") is None
    assert await credentials.find("other.io") is None


@pytest.mark.parametrize(
    "answer",
    [
        f"echo {SECRET}; exit 3",
        f"echo {SECRET}",
        "exec cat /dev/zero",
        f"""echo '{{"Username": "a:b", "Secret": "{SECRET}"}}'""",
    ],
    ids=["fails", "no JSON", "1 GiB", "colon in the name"],
)
async def test_G10_a_misbehaving_helper_is_refused_without_its_output(tmp_path: Path, answer: str) -> None:
    with pytest.raises((Denied, InvalidConfig)) as raised:
        await helper(tmp_path, answer).find("r.io")
    assert SECRET not in str(raised.value)


async def test_G10_a_helper_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    credentials = helper(tmp_path, f'cat > "{fifo}" < /dev/zero & cat "{fifo}" > /dev/null; wait')
    credentials._helper_seconds = 0.3
    with pytest.raises(Denied, match="did not answer"):
        await credentials.find("r.io")


async def test_G10_children_that_outlive_a_helper_go_with_it(tmp_path: Path) -> None:
    """One that holds the pipe open keeps the answer from ending; the helper itself is gone by then."""
    life = tmp_path / "life"
    os.mkfifo(life)
    reader = os.open(life, os.O_RDONLY | os.O_NONBLOCK)
    try:
        credentials = helper(tmp_path, f'( exec 3> "{life}"; echo >&3; exec sleep 1000 ) & exit 0')
        credentials._helper_seconds = 1
        with pytest.raises(Denied, match="did not answer"):
            await credentials.find("r.io")
        async with asyncio.timeout(10):
            await asyncio.to_thread(lambda: select.select([reader], [], []) and os.read(reader, 100))
            assert (
                await asyncio.to_thread(lambda: select.select([reader], [], []) and os.read(reader, 1)) == b""
            )
    finally:
        os.close(reader)


async def test_G10_a_helper_has_a_bare_environment_and_no_descriptors(tmp_path: Path) -> None:
    answer = f"""
env | sed 's/=.*//' | sort | tr '\\n' ' ' > "{tmp_path}/env"; pwd > "{tmp_path}/cwd"
ls /proc/self/fd | tr '\\n' ' ' > "{tmp_path}/fds"
echo '{{"Username": "joe", "Secret": "x"}}'"""
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        assert await helper(tmp_path, answer).find("r.io") == Credential("joe", "x")
    finally:
        os.close(kept)
    assert set((tmp_path / "env").read_text().split()) <= {"HOME", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    assert (tmp_path / "cwd").read_text() == "/\n"
    assert (tmp_path / "fds").read_text().split() == ["0", "1", "2", "3"], "the last is that of ls itself"


@pytest.mark.parametrize("name", ["../../x", "/bin/sh", "a b", "A", "x\n", "", "a/../b", "\u00e9"])
async def test_G10_a_helper_is_a_name_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = credentials_file(tmp_path, {"credHelpers": {"r.io": name}})
    credentials = Credentials([path], helper_dirs=[str(tmp_path)])
    if not name:  # an empty name means the file, whatever credsStore says
        document = {"credHelpers": {"r.io": ""}, "credsStore": "none", "auths": {"r.io": {"auth": "YTpi"}}}
        path.write_text(json.dumps(document))
        assert await credentials.find("r.io") == Credential("a", "b")
        return
    with pytest.raises(InvalidConfig):
        await credentials.find("r.io")


async def test_G10_a_helper_that_others_can_change_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(Denied, match="changed by others"):
        await helper(tmp_path, "true", mode=0o777).find("r.io")
    assert not (tmp_path / "log").exists()


async def test_G10_helpers_are_not_looked_for_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, "true")
    monkeypatch.chdir(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NotFound, match="docker-credential-test"):
        await Credentials([tmp_path / "config.json"]).find("r.io")
