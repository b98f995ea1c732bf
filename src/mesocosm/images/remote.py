"""What registries have: tags, what refers to an image, and taking away; and being known to them.  Nothing
here touches this host's images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from mesocosm.errors import Corrupt, InvalidConfig
from mesocosm.images.digest import Digest
from mesocosm.images.families import Families
from mesocosm.images.reference import Reference, parse_reference

if TYPE_CHECKING:
    from mesocosm.images.registry.client import RegistryClient
    from mesocosm.images.registry.credentials import Credentials
    from mesocosm.images.stores.docker import RegistryStore


class Referrer(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest in a registry whose subject is an image: a signature, a bill of materials.

    ``size`` is the manifest's, in bytes; ``annotations`` and ``artifact_type`` are its author's words.
    """

    digest: str
    artifact_type: str
    media_type: str
    size: int
    annotations: Mapping[str, str] = {}


class Remote:
    """Questions to registries by name, with this host's credentials and configuration.

    Methods raise MesocosmError only: NotFound, Denied, Unavailable, Unsupported, InvalidConfig.
    """

    def __init__(self, families: Families) -> None:
        self._families = families

    async def tags(self, name: str) -> list[str]:
        """Return the tags of a repository, ``HOST/NAME``, in order."""
        reference = _name_in_registry(name)
        if reference.digest is not None or _says_tag(name, reference):
            raise InvalidConfig(f"{name} is one image", hint=f"tags are those of {reference.name}")
        client = await registry_client(self._families, reference)
        return sorted(await client.tags(reference.repository))

    async def referrers(self, name: str, *, artifact_type: str | None = None) -> list[Referrer]:
        """Return what refers to the image that ``name`` stands for in its registry (distribution spec,
        "Listing Referrers"), by the tag scheme where the registry has no such list.
        """
        reference = _name_in_registry(name)
        client = await registry_client(self._families, reference)
        digest = await _digest(client, reference)
        found = await client.referrers(reference.repository, digest, artifact_type=artifact_type)
        return [
            Referrer(
                digest=str(one.digest),
                artifact_type=one.artifact_type or "",
                media_type=one.media_type,
                size=one.size,
                annotations=one.annotations,
            )
            for one in found
        ]

    async def delete(self, name: str) -> None:
        """Remove a tag, ``HOST/NAME:TAG``, or a manifest with all its tags, ``HOST/NAME@DIGEST``.

        Unsupported where the registry forbids it, or removes no single tags.  Layers go when the registry
        collects its garbage.
        """
        reference = _name_in_registry(name)
        client = await registry_client(self._families, reference)
        if reference.digest is not None:
            await client.delete(reference.repository, reference.digest)
        elif reference.tag is not None and _says_tag(name, reference):
            await client.delete_tag(reference.repository, reference.tag)
        else:
            raise InvalidConfig(f"{name} says no tag", hint=f"write {name}:TAG or {name}@DIGEST")

    async def login(self, registry: str, username: str, password: str) -> bool:
        """Try credentials at ``registry`` (``HOST[:PORT]``) and keep them where docker does, for whoever runs
        as this user: by its credential helper, else in its file.

        A user ``<token>`` has an identity token for a password.  Returns whether the registry asked for
        credentials: else they are kept untried.  Raises Denied where they are not taken, Unavailable where it
        is no registry; then nothing is kept.
        """
        from mesocosm.images.registry.auth import Credential  # the HTTP library takes long to import
        from mesocosm.images.registry.session import login, registry_name

        name, by_token = registry_name(registry), username == "<token>"
        credential = Credential(identity_token=password) if by_token else Credential(username, password)
        asked = await login(name, credential, self._keeper(), hosts=self._families.context.hosts)
        self._forget(name)
        return asked

    async def logout(self, registry: str) -> None:
        """Forget what `login` kept for ``registry``.  Raises NotFound where nothing is kept."""
        from mesocosm.images.registry.session import logout, registry_name

        name = registry_name(registry)
        await logout(name, self._keeper())
        self._forget(name)

    def _keeper(self) -> Credentials:
        from mesocosm.images.registry.credentials import Credentials
        from mesocosm.images.stores.docker import own_credentials

        given = self._families.context.credentials
        return given if isinstance(given, Credentials) else own_credentials()

    def _forget(self, registry: str) -> None:
        _registries(
            self._families, Reference("docker", registry=registry, repository="any/any", tag="any")
        ).forget(registry)


async def registry_client(families: Families, reference: Reference) -> RegistryClient:
    """Return the client for the registry and repository that a reference names; InvalidConfig for others."""
    return await _registries(families, reference).client(reference)


def _registries(families: Families, reference: Reference) -> RegistryStore:
    from mesocosm.images.stores.docker import RegistryStore  # the HTTP library takes long to import

    store = families.store(reference)
    if not isinstance(store, RegistryStore):
        raise InvalidConfig(
            f"{reference} is not a name in a registry", hint="names are written HOST/NAME:TAG"
        )
    return store


def _name_in_registry(name: str) -> Reference:
    reference = parse_reference(name)
    if reference.transport != "docker":
        raise InvalidConfig(f"{name} is not a name in a registry", hint="names are written HOST/NAME:TAG")
    return reference


def _says_tag(name: str, reference: Reference) -> bool:
    """Whether a tag was written, and not only meant."""
    return name.endswith(f":{reference.tag}")


async def _digest(client: RegistryClient, reference: Reference) -> Digest:
    if reference.digest is not None:
        return reference.digest
    resolved = await client.resolve(reference.repository, reference.tag or "latest")
    if resolved is None:
        raise Corrupt(f"{reference.familiar}: the registry says that nothing changed, but was not asked that")
    return resolved.digest
