"""Logging in and out from Python: what a library keeps, it and everybody else who runs as the user has."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.registry import Registry
from malicious_registry import Fault, MaliciousRegistry, status
from mesocosm.errors import Denied, InvalidConfig, NotFound, Unavailable
from mesocosm.images.provisioner import Provisioner
from mesocosm.images.registry.credentials import Credentials
from provisions import paths_of
from tarballs import archive, file


async def test_a_library_logs_in_and_out(tmp_path: Path) -> None:
    """Within one library: whoever was refused is known from then on; a wrong password is not kept."""
    kept, root = tmp_path / "docker" / "config.json", tmp_path / "root.tar"
    root.write_bytes(archive(file(b"hello")))
    with Registry(tmp_path / "registry", user="me", password="secret") as registry:
        name = f"{registry.host}/team/app:1"
        async with Provisioner.open(paths_of(tmp_path), credentials=Credentials([kept])) as images:
            made = await images.import_tarball(root, name)
            with pytest.raises(Denied):
                await images.push(name)
            with pytest.raises(Denied):
                await images.remote.login(registry.host, "me", "wrong")
            assert not kept.exists()
            await images.remote.login(f"https://{registry.host}/", "me", "secret")
            assert kept.stat().st_mode & 0o777 == 0o600
            assert await images.push(name) == made.digest
            assert await images.remote.tags(f"{registry.host}/team/app") == ["1"]
            await images.remote.logout(registry.host)
            with pytest.raises(NotFound, match="no credentials are kept"):
                await images.remote.logout(registry.host)
        async with Provisioner.open(paths_of(tmp_path), credentials=Credentials([kept])) as images:
            with pytest.raises(Denied):
                await images.remote.tags(f"{registry.host}/team/app")


async def test_what_is_no_registry_is_refused(tmp_path: Path) -> None:
    async with Provisioner.open(
        paths_of(tmp_path), credentials=Credentials([tmp_path / "config.json"])
    ) as images:
        with pytest.raises(InvalidConfig, match="is not a registry"):
            await images.remote.login("a b", "me", "secret")


async def test_a_registry_that_asks_for_nothing_has_checked_nothing(tmp_path: Path) -> None:
    """As docker does, what was given is kept; and who asked is told that nobody has looked at it."""
    kept = tmp_path / "config.json"
    with Registry(tmp_path / "registry") as registry:
        async with Provisioner.open(paths_of(tmp_path), credentials=Credentials([kept])) as images:
            assert await images.remote.login(registry.host, "me", "anything") is False
        assert registry.host in kept.read_text()
    with Registry(tmp_path / "guarded", user="me", password="secret") as registry:
        async with Provisioner.open(paths_of(tmp_path), credentials=Credentials([kept])) as images:
            assert await images.remote.login(registry.host, "me", "secret") is True


PAGE = b"<!doctype html><title>Welcome</title>"


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        (status(200, body=PAGE), False),
        (status(200, body=PAGE * 3000), False),
        (status(200, body=b"OK"), False),
        (status(404, body=PAGE), False),
        (status(200, body=b""), True),
        (status(200, body=b"{}\n"), True),
        (status(200, {"Docker-Distribution-Api-Version": "registry/2.0"}, PAGE), True),
    ],
    ids=["page", "large page", "word", "not found", "nothing", "JSON", "header"],
)
async def test_a_web_server_is_no_registry(answer: Fault, taken: bool, tmp_path: Path) -> None:
    kept = tmp_path / "config.json"
    async with MaliciousRegistry() as server:
        server.always("/v2/", answer)
        async with Provisioner.open(paths_of(tmp_path), credentials=Credentials([kept])) as images:
            if taken:
                assert await images.remote.login(server.host, "me", "anything") is False
            else:
                with pytest.raises(Unavailable, match=f"^{server.host} .*regist"):
                    await images.remote.login(server.host, "me", "anything")
    assert kept.exists() is taken


async def test_where_credentials_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody gave any, the files of the user that we run as: docker finds them."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "mine"))
    with Registry(tmp_path / "registry", user="me", password="secret") as registry:
        async with Provisioner.open(paths_of(tmp_path)) as images:
            await images.remote.login(registry.host, "me", "secret")
    assert registry.host in (tmp_path / "mine" / "config.json").read_text()
