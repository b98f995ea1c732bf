"""Logging in to a registry and out: credentials are tried before they are kept."""

from __future__ import annotations

import msgspec

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.images.foreign import shown
from mesocosm.images.reference import DEFAULT_REGISTRY, Reference
from mesocosm.images.registry.auth import Credential
from mesocosm.images.registry.client import RegistryClient
from mesocosm.images.registry.credentials import Credentials
from mesocosm.images.registry.hosts import HostsConfig


class OneCredential:
    """A credential source for one registry: what is about to be kept, and nothing for its mirrors."""

    def __init__(self, registry: str, credential: Credential) -> None:
        self._registry = registry
        self._credential = credential

    async def find(self, registry: str, repository: str = "") -> Credential | None:
        """Return the credential, for its own registry alone."""
        del repository
        return self._credential if registry == self._registry else None


async def login(
    registry: str, credential: Credential, keeper: Credentials, *, hosts: HostsConfig | None = None
) -> bool:
    """Have the registry (``host[:port]``, see `registry_name`) take the credential, then keep it.

    Where its token server gives an identity token, that is kept in place of the password.  Returns whether
    the registry asked for credentials: one that does not has not looked at them, and they are kept as docker
    does.  Raises Denied when it does not take them, Unavailable when it does not answer or is none; then
    nothing is kept.
    """
    source = OneCredential(registry, credential)
    async with await RegistryClient.open(registry, hosts=hosts, credentials=source, offline=True) as client:
        done = await client.log_in()
    if done.identity_token:
        credential = msgspec.structs.replace(credential, password="", identity_token=done.identity_token)
    await keeper.login(registry, credential)
    return done.asked


async def logout(registry: str, keeper: Credentials) -> None:
    """Forget what `login` kept for ``registry`` (``host[:port]``); raises NotFound where nothing is."""
    if not await keeper.logout(registry):
        raise NotFound(f"no credentials are kept for {registry}")


def registry_name(text: str) -> str:
    """Return what a person wrote as ``host[:port]``; raises InvalidConfig.

    docker's own spellings of docker.io are taken; a scheme is dropped, a path is refused.
    """
    bare = text.removeprefix("https://").removeprefix("http://").removesuffix("/")
    if bare in ("", "index.docker.io", "index.docker.io/v1", "registry-1.docker.io", "hub.docker.com"):
        return DEFAULT_REGISTRY
    try:
        return Reference("docker", registry=bare, repository="any/any", tag="any").registry
    except InvalidConfig:
        raise InvalidConfig(
            f"{shown(text, 80)!r} is not a registry", hint="write HOST or HOST:PORT"
        ) from None
