"""App Container images found by their names: discovery, dependencies, signatures (APC-1, I-19)."""

from __future__ import annotations

import errno
import gzip
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from fixtures.authority import Authority
from fixtures.gnupg import Gnupg, gnupg
from mesocosm.errors import Corrupt, Denied, Exhausted, InvalidConfig, MesocosmError, NotFound, Unavailable
from mesocosm.images.appc.discovery import Template, filled, parse_page
from mesocosm.images.progress import Progress
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.registry.hosts import HostsConfig
from provisions import new_id, opened, paths_of, shown
from registry_fixtures import sha256
from tarballs import archive, directory, file

__all__ = ["gnupg"]

LABELS = [
    {"name": "version", "value": "1.0"},
    {"name": "os", "value": "linux"},
    {"name": "arch", "value": "amd64"},
]
LONG_AGO = "20200101T000000"


class Site:
    """A web server at an address of its own, on the port that names without a port mean."""

    def __init__(self) -> None:
        self.host = ""
        self.files: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.same: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append(request.path_qs)
        found = self.files.get(request.path)
        if found is None:
            return web.Response(status=404)
        etag = f'"{sha256(found)}"'
        if request.headers.get("If-None-Match") == etag:
            self.same.append(request.path)
            return web.Response(status=304)
        return web.Response(body=found, headers={"ETag": etag})

    def add(self, short: str, *, path: str = "", **manifest: object) -> bytes:
        """Serve an image called HOST/SHORT, where simple discovery looks unless ``path`` says otherwise."""
        document = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": f"{self.host}/{short}"}
        described = json.dumps({**document, "labels": LABELS, **manifest}).encode()
        content = file(f"rootfs/{short}".encode(), short.encode())
        data = gzip.compress(archive(file(b"manifest", described), directory(b"rootfs"), content), mtime=0)
        self.files[path or f"/{short}-1.0-linux-amd64.aci"] = data
        return data

    def needs(self, *names: str) -> list[dict[str, object]]:
        """A list of dependencies."""
        return [{"imageName": f"{self.host}/{name}", "labels": LABELS} for name in names]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("appc:nowhere.invalid/app:1.0", "web server nowhere.invalid: no address for "),
        ("tarball:https://nowhere.invalid/root.tar", "web server nowhere.invalid: no address for "),
        (
            "tarball:https://127.0.0.1:1/root.tar",
            "web server 127.0.0.1:1 (https://127.0.0.1:1) cannot be reached",
        ),
    ],
)
async def test_a_server_that_is_not_there_is_no_registry(reference: str, words: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as provisioner:
        with pytest.raises(Unavailable) as caught:
            await provisioner.pull(reference)
    assert words in str(caught.value) and "registry" not in str(caught.value)


def listener(port: int) -> socket.socket:
    """A socket on that port of a loopback address that nobody else uses."""
    while True:
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
        try:
            return socket.create_server((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


@asynccontextmanager
async def site(authority: Authority | None = None) -> AsyncIterator[Site]:
    """A site, serving; by https where there is an authority to vouch for it."""
    made = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    bound = listener(443 if authority else 80)
    made.host = bound.getsockname()[0]
    secured = authority.issue("site", made.host).server_context() if authority else None
    await web.SockSite(runner, bound, ssl_context=secured).start()
    try:
        yield made
    finally:
        await runner.cleanup()


async def names_in(folder: Path, reference: str) -> set[str]:
    """What a container would see at its root."""
    async with opened(folder) as provisioner:
        container = new_id()
        provision = await provisioner.provision(container, reference, scratch=folder / f"s-{container}")
        with shown(provision.root, folder / "root") as root:
            return {path.name for path in root.iterdir()}


async def test_progress_is_told_to_who_pulls(tmp_path: Path) -> None:
    told, general = list[Progress](), list[Progress]()
    async with site() as server, opened(tmp_path, progress=general.append) as provisioner:
        size = len(server.add("base"))
        top = len(server.add("app", dependencies=server.needs("base")))
        name = f"appc:{server.host}/app:1.0"
        await provisioner.pull(name, progress=told.append)
        came = {one.subject.rpartition("/")[2]: one for one in told if one.subject.startswith("http")}
        assert {short: (one.done, one.total, one.finished) for short, one in came.items()} == {
            "app-1.0-linux-amd64.aci": (top, top, True),
            "base-1.0-linux-amd64.aci": (size, size, True),
        }
        told.clear()
        await provisioner.pull(name, progress=told.append)
        assert [one.already for one in told if one.finished] == [True]
        assert general == []


async def test_simple_discovery_with_dependencies(tmp_path: Path) -> None:
    """APC-1: depth first across names; the top image's manifest is the one that counts."""
    async with site() as server:
        server.add("base")
        server.add("left", dependencies=server.needs("base"))
        app = {"exec": ["/top"], "user": "1", "group": "2", "environment": [{"name": "A", "value": "b"}]}
        server.add("top", dependencies=server.needs("left", "base"), app=app)
        reference = f"appc:{server.host}/top:1.0"
        assert await names_in(tmp_path, reference) == {"base", "left", "top"}
        assert [path for path in server.seen if "base" in path] == ["/base-1.0-linux-amd64.aci"]
        async with opened(tmp_path) as provisioner:
            count = len(server.seen)
            image = await provisioner.pull(reference, policy="missing")
            assert len(server.seen) == count
            runtime = image.runtime
            assert (runtime.entrypoint, runtime.user, runtime.env) == (("/top",), "1:2", ("A=b",))
            assert (await provisioner.pull(reference)).digest == image.digest


@pytest.mark.parametrize("way", ["simple", "meta"])
async def test_what_has_not_changed_costs_a_conditional_request(way: str, tmp_path: Path) -> None:
    """For each image that makes it up; a change of any, and of where one is found, is noticed."""
    async with site() as server, opened(tmp_path) as provisioner:
        server.add("base")
        path = "/elsewhere/top.aci" if way == "meta" else ""
        server.add("top", path=path, dependencies=server.needs("base"))
        if way == "meta":
            template = f"http://{server.host}/elsewhere/top.aci"
            tag = f'<meta name="ac-discovery" content="{server.host}/top {template}">'
            server.files["/top"] = tag.encode()
        reference = f"appc:{server.host}/top:1.0"
        first = await provisioner.pull(reference)
        server.seen.clear()
        assert (await provisioner.pull(reference)).digest == first.digest
        top = path or "/top-1.0-linux-amd64.aci"
        assert set(server.same) == {top, "/base-1.0-linux-amd64.aci"}
        assert len(server.seen) == (2 if way == "simple" else 4)
        server.add("more")
        server.add("top", path=path, dependencies=server.needs("base", "more"))
        second = await provisioner.pull(reference)
        assert second.digest != first.digest
        if way == "meta":
            server.add("top", dependencies=server.needs("base"))
            assert (await provisioner.pull(reference)).digest != second.digest


async def test_meta_discovery_goes_up_to_the_host(tmp_path: Path) -> None:
    async with site() as server:
        server.add("app", path="/store/linux/amd64/1.0.aci", name=f"{server.host}/team/app")
        where = f"http://{server.host}/store/{{os}}/{{arch}}/{{version}}.{{ext}}"
        server.files["/"] = (
            f'<!-- <meta name="ac-discovery" content="{server.host} http://169.254.169.254/x"> -->'
            f"<META name='ac-discovery' content=\"{server.host}/other {where}\">"
            f'<meta name="ac-discovery" content="{server.host}/team {where}">'
        ).encode()
        assert await names_in(tmp_path, f"appc:{server.host}/team/app:1.0") == {"app"}
        assert "/team/app?ac-discovery=1" in server.seen and "/team?ac-discovery=1" in server.seen


async def test_a_page_at_the_simple_address_does_not_hide_what_meta_discovery_finds(tmp_path: Path) -> None:
    """Some sites have a page for whatever they are asked for."""
    async with site() as server:
        page = "/app-1.0-linux-amd64.aci"
        for length, words in ((1, " has no manifest"), (40, ": tar header")):
            server.files[page] = b"<html>nothing here</html>" * length
            said = f"^http://{server.host}{page}{words}"
            await refused(tmp_path, f"appc:{server.host}/app:1.0", Corrupt, said)
        server.add("app", path="/store/1.0.aci")
        where = f"http://{server.host}/store/{{version}}.{{ext}}"
        server.files["/"] = f'<meta name="ac-discovery" content="{server.host} {where}">'.encode()
        assert await names_in(tmp_path, f"appc:{server.host}/app:1.0") == {"app"}


async def refused(folder: Path, reference: str, error: type[MesocosmError], words: str) -> None:
    """One clear line, and nothing in the store."""
    async with opened(folder) as provisioner:
        with pytest.raises(error, match=words) as caught:
            await provisioner.pull(reference)
        assert "\n" not in str(caught.value)
        assert list(provisioner.store.layers.list()) == []


async def test_i19_g04_what_discovery_must_not_do(tmp_path: Path) -> None:
    async with site() as server:
        host = server.host
        server.add("a", dependencies=server.needs("b"))
        server.add("b", dependencies=server.needs("a"))
        await refused(tmp_path, f"appc:{host}/a:1.0", Corrupt, "depends on itself")
        for number in range(20):
            server.add(f"deep{number}", dependencies=server.needs(f"deep{number + 1}"))
        await refused(tmp_path, f"appc:{host}/deep0:1.0", Exhausted, "16 deep")
        server.add("alone", dependencies=server.needs("absent"))
        await refused(tmp_path, f"appc:{host}/alone:1.0", NotFound, "absent")
        server.files["/other-1.0-linux-amd64.aci"] = server.add("real")
        await refused(tmp_path, f"appc:{host}/other:1.0", Corrupt, "not 127")
        server.add("old", path="/old-2.0-linux-amd64.aci")
        await refused(tmp_path, f"appc:{host}/old:2.0", Corrupt, "version=2.0")
        pinned = [{"imageName": f"{host}/real", "labels": LABELS, "imageID": "sha512-" + "0" * 128}]
        server.add("pinned", dependencies=pinned)
        await refused(tmp_path, f"appc:{host}/pinned:1.0", Corrupt, "is not the image")
        server.files["/"] = f'<meta name="ac-discovery" content="{host} http://169.254.169.254/x">'.encode()
        await refused(tmp_path, f"appc:{host}/else:1.0", Denied, "169.254.169.254")
        server.files["/"] = f'<meta name="ac-discovery" content="{host} http://files.example/x">'.encode()
        await refused(tmp_path, f"appc:{host}/else:1.0", Denied, "plain http")
        server.files["/"] = b"x" * (1 << 20)
        await refused(tmp_path, f"appc:{host}/else:1.0", Exhausted, "larger|more than")
        await refused(tmp_path, "appc:localname", InvalidConfig, "no host")
        assert await names_in(tmp_path, f"appc:{host}/real:1.0") == {"real"}


@pytest.mark.parametrize("fault", ["", "unsigned", "dependency", "stranger", "flipped", "expired"])
async def test_every_image_of_a_rendering_has_to_be_signed(fault: str, gnupg: Gnupg, tmp_path: Path) -> None:
    key = gnupg.key("team", expires="1d", at=LONG_AGO) if fault == "expired" else gnupg.key("team")
    user, at = (
        ("stranger" if fault == "stranger" else "team"),
        ("20200101T010000" if fault == "expired" else None),
    )
    if fault == "stranger":
        gnupg.key("stranger")
    async with site() as server:
        for name, unsigned in (("base", "dependency"), ("top", "unsigned")):
            data = server.add(name, dependencies=server.needs("base") if name == "top" else [])
            if fault != unsigned:
                signed = data[:-1] + b"?" if fault == "flipped" else data
                server.files[f"/{name}-1.0-linux-amd64.aci.asc"] = gnupg.detach(user, signed, at=at)
        rules = tmp_path / "policy.toml"
        rules.write_text(
            f'default = "reject"\n[[rule]]\nmatch = "appc:{server.host}/*"\n'
            f'action = "signed"\ngpg-keys = ["{key}"]\n'
        )
        for _ in range(2):
            async with Provisioner.open(paths_of(tmp_path), policy=rules) as provisioner:
                container = new_id()
                work = provisioner.provision(container, f"appc:{server.host}/top:1.0", scratch=tmp_path / "s")
                if not fault:
                    await work
                    await provisioner.release(container)
                    continue
                words = {"unsigned": "no signature", "dependency": "no signature", "expired": "expired on"}
                with pytest.raises(Denied, match=words.get(fault, "does not count")) as caught:
                    await work
                assert "\n" not in str(caught.value) and list(provisioner.store.layers.list()) == []
        if not fault:
            rules.write_text(rules.read_text().replace(str(key), str(gnupg.key("later"))))
            async with Provisioner.open(paths_of(tmp_path), policy=rules) as provisioner:
                with pytest.raises(Denied, match="not known to be signed"):
                    await provisioner.provision(
                        new_id(), f"appc:{server.host}/top:1.0", scratch=tmp_path / "s"
                    )


def test_pages_are_read_within_bounds() -> None:
    page = parse_page(
        b'<meta name="ac-discovery" content="a.b https://a.b/{name}.{ext}">'
        b'<meta content="a.b https://a.b/keys&amp;x" name="ac-discovery-pubkeys">'
        b'<meta name="ac-discovery" content="one two three"><meta name="other" content="a b"><meta name='
    )
    assert page.images == (Template("a.b", "https://a.b/{name}.{ext}"),)
    assert page.keys == (Template("a.b", "https://a.b/keys&x"),)
    assert not Template("a.b/c", "").serves("a.b/cd") and Template("a.b/c/", "").serves("a.b/c/d")
    assert parse_page(b"<meta x=y>" * 100 + b'<meta name="ac-discovery" content="a b">').images == ()
    assert filled("{name}-{version}", {"name": "{version}", "version": "1"}) == "{version}-1"
    assert filled("{name}-{nope}", {"name": "a"}) is None


@pytest.mark.parametrize("way", ["simple", "meta"])
async def test_over_tls(way: str, tmp_path: Path) -> None:
    """Pages, images and what they depend on come from a server that the host's configuration vouches for."""
    authority = Authority(tmp_path / "authority")
    async with site(authority) as server:
        server.add("base", path="/elsewhere/base.aci" if way == "meta" else "")
        server.add("top", dependencies=server.needs("base"))
        if way == "meta":
            template = f"https://{server.host}/elsewhere/base.aci"
            server.files["/base"] = (
                f'<meta name="ac-discovery" content="{server.host}/base {template}">'.encode()
            )
        directory_of = tmp_path / "certs.d" / server.host
        directory_of.mkdir(parents=True)
        described = directory_of / "hosts.toml"
        hosts = HostsConfig(certs_dirs=(tmp_path / "certs.d",))
        reference = f"appc:{server.host}/top:1.0"
        described.write_text(f'server = "https://{server.host}"\n')
        async with Provisioner.open(paths_of(tmp_path), hosts=hosts) as provisioner:
            with pytest.raises(Denied, match="is not trusted"):
                await provisioner.pull(reference)
            assert server.seen == [] and list(provisioner.store.layers.list()) == []
        described.write_text(f'server = "https://{server.host}"\nca = "{authority.root.certificate}"\n')
        async with Provisioner.open(paths_of(tmp_path), hosts=hosts) as provisioner:
            image = await provisioner.pull(reference)
            provision = await provisioner.provision(new_id(), reference, pull="never", scratch=tmp_path / "s")
            with shown(provision.root, tmp_path / "root") as root:
                assert {path.name for path in root.iterdir()} == {"base", "top"}
            assert (await provisioner.pull(reference)).digest == image.digest
            for owner in provisioner.store.leases.owners("container-"):
                provisioner.store.leases.drop(owner)
