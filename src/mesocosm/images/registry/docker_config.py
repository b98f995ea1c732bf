"""Docker's ``config.json``: reading it with suspicion, its entries, writing it whole (attacks G-10).

    auths  {"ghcr.io": {"auth": base64("user:password"), "identitytoken": ..., "registrytoken": ...}}

``identitytoken`` is a refresh token, for the token server; ``registrytoken`` a bearer token, for the registry
itself (docker's cli/config/types, AuthConfig).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from mesocosm import durable
from mesocosm.errors import Denied, InvalidConfig, MesocosmError
from mesocosm.images.files import write_all
from mesocosm.images.foreign import shown
from mesocosm.images.reference import DEFAULT_REGISTRY
from mesocosm.images.registry.auth import Credential
from mesocosm.images.strict import Fields, Json, load

FILE_LIMIT: Final = 4 << 20
HUB_KEY: Final = "https://index.docker.io/v1/"
"""The key under which docker keeps docker.io's credentials."""


def read(path: Path) -> dict[str, Json]:
    """Return a file's document, empty where there is none; raises InvalidConfig."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from None
    if not data.strip():
        return {}
    try:
        return load(data, str(path), limit=FILE_LIMIT)
    except MesocosmError as error:
        raise InvalidConfig(error.message, hint="repair or remove the file, and log in again") from None


def table(document: Mapping[str, Json], name: str, path: Path) -> dict[str, Json]:
    """Return a member that is an object, empty where there is none; raises InvalidConfig."""
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidConfig(
            f"{path}: {name} is not an object", hint="repair or remove the file, and log in again"
        )
    return dict(value)


def write(path: Path, document: Mapping[str, Json]) -> None:
    """Replace the file atomically, readable by its owner alone at every moment."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A link points at the file that is meant (a dotfiles repository, a mounted secret): replace that one.
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            write_all(fd, json.dumps(document, indent="\t").encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(target)
        durable.sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def key_of(registry: str) -> str:
    """Return the key under which a registry's credentials are kept by login."""
    return HUB_KEY if registry == DEFAULT_REGISTRY else registry


def keys_of(registry: str) -> tuple[str, ...]:
    """Return every key under which a registry's credentials may be found."""
    hosts = (
        ("docker.io", "index.docker.io", "registry-1.docker.io")
        if registry == DEFAULT_REGISTRY
        else (registry,)
    )
    forms = (
        "{}",
        "https://{}",
        "https://{}/",
        "https://{}/v1/",
        "https://{}/v2/",
        "http://{}",
        "{}/v1/",
        "{}/v2/",
    )
    keys = [form.format(host) for host in hosts for form in forms]
    return (HUB_KEY, *keys) if registry == DEFAULT_REGISTRY else tuple(keys)


def keys_beneath(registry: str, repository: str) -> list[str]:
    """Return the keys for parts of a registry that a repository lies in, the longest first."""
    parts = repository.split("/") if repository else []
    return ["/".join((registry, *parts[:count])) for count in range(len(parts), 0, -1)]


def credential_of(value: Json, where: str) -> Credential | None:
    """Return what an entry of ``auths`` holds, None for nothing; raises InvalidConfig."""
    try:
        entry = Fields(value, where, ())
        username, password = entry.text("username") or "", entry.text("password") or ""
        token = entry.text("identitytoken") or ""
        bearer = entry.text("registrytoken") or ""
        packed = entry.text("auth") or ""
        if packed:
            plain = base64.b64decode(packed, validate=True).decode("utf-8")
            username, colon, password = plain.partition(":")
            if not colon:
                raise InvalidConfig(f"{where}: auth is not user:password", hint="log in again")
    except (binascii.Error, ValueError):
        raise InvalidConfig(f"{where}: auth is not base64", hint="log in again") from None
    if not (username or token or bearer):
        return None
    if bearer and not (bearer.isascii() and bearer.isprintable() and " " not in bearer):
        raise InvalidConfig(f"{where}: registrytoken is not a bearer token", hint="log in again")
    # Docker pads the packed pair with NUL bytes.
    found = checked(username, password.rstrip("\0"), token, where)
    return msgspec.structs.replace(found, registry_token=bearer)


def checked(username: str, password: str, token: str, where: str) -> Credential:
    """Return a credential whose user name can be sent; ``<token>`` stands for an identity token."""
    if any(ord(c) < 32 or ord(c) == 127 for c in username) or ":" in username:
        raise InvalidConfig(
            f"{where}: the user name holds control characters or a colon", hint="log in again"
        )
    if username == "<token>":
        return Credential(identity_token=token or password)
    return Credential(username, password, token)


def with_token(
    document: Mapping[str, Json], path: Path, registry: str, repository: str, old: str, new: str
) -> dict[str, Json] | None:
    """Return the document with the identity token that is kept for a registry replaced; None unless it is
    ``old``.
    """
    auths = table(document, "auths", path)
    for key in (*keys_beneath(registry, repository), *keys_of(registry)):
        found = credential_of(auths[key], f"{path}, auths, {shown(key, 80)}") if key in auths else None
        entry = auths.get(key)
        if found is None or not isinstance(entry, dict):
            continue
        if found.identity_token != old:
            return None
        kept = {name: value for name, value in entry.items() if name not in ("auth", "password")}
        auths[key] = {**kept, **entry_of(msgspec.structs.replace(found, identity_token=new))}
        return {**document, "auths": auths}
    return None


def require_own(path: Path) -> None:
    """Raise Denied where a file is another user's: replaced it would be ours."""
    if path.stat().st_uid != os.geteuid():
        raise Denied(f"{path} is another user's and stays as it is")


def entry_of(credential: Credential) -> dict[str, Json]:
    """Return the entry of ``auths`` for a credential."""
    pair = f"{credential.username}:{credential.password}".encode()
    entry: dict[str, Json] = {"auth": base64.b64encode(pair).decode("ascii")}
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    return entry
