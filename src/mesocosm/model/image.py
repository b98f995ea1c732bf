"""What an image says about the process to run in it."""

from __future__ import annotations

import msgspec


class ImageRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """The runtime part of an image's configuration (OCI image spec, config.md); all of it hostile input.

    ``groups`` are further groups of ``user``, by number, ``fixed_volumes`` the read-only ones among
    ``volumes``.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    groups: tuple[int, ...] = ()
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    fixed_volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: dict[str, str] = {}


class ImageIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which bytes run: what was asked for and what it resolved to.

    ``reference`` canonical text, ``digest`` of the manifest (None for the host and plain directories),
    ``image_id`` digest of the configuration, ``checked_at`` seconds since the epoch when the name was last
    resolved, ``layers`` the diff IDs bottom first.
    """

    reference: str
    digest: str | None = None
    image_id: str | None = None
    platform: str | None = None
    checked_at: float | None = None
    layers: tuple[str, ...] = ()
