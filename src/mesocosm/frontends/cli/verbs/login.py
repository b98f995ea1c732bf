"""``mesocosm login``: keep credentials for a registry, after it took them."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from mesocosm.errors import InvalidConfig
from mesocosm.frontends.cli.context import asynchronous
from mesocosm.frontends.cli.examples import examples
from mesocosm.frontends.cli.saying import say

if TYPE_CHECKING:
    from mesocosm.images.registry.auth import Credential

MOST = 64 << 10
"""Longest secret on standard input, in bytes."""


@click.command(
    epilog=examples(
        ("mesocosm login registry.example", "asks for both"),
        ("mesocosm login -u me --password-stdin registry.example < file", "asks nothing"),
    )
)
@click.option("-u", "--username", metavar="NAME", help="Who; asked for without it.")
@click.option("--password-stdin", is_flag=True, help="Read the password, or a token, from standard input.")
@click.option("-p", "--password", hidden=True)
@click.argument("registry", default="docker.io")
@click.pass_context
def command(
    ctx: click.Context, username: str | None, password_stdin: bool, password: str | None, registry: str
) -> int:
    """Try credentials at REGISTRY (HOST[:PORT], docker.io without it) and keep them where docker does.

    That is the credential helper of ~/.docker/config.json where one is configured, else that file itself,
    readable by you alone.
    """
    if password is not None:
        hint = "everybody on this host can read it there; use --password-stdin"
        raise InvalidConfig("a password does not belong on the command line", hint=hint)
    from mesocosm.images.registry.auth import Credential  # noqa: PLC0415
    from mesocosm.images.registry.session import registry_name  # noqa: PLC0415

    name = registry_name(registry)
    with _interruptible():
        user = username if username is not None else _ask_user(password_stdin)
        secret = _from_stdin() if password_stdin else _ask_secret()
    credential = Credential(identity_token=secret) if user == "<token>" else Credential(user, secret)
    return _login(ctx, name, credential)


@asynchronous
async def _login(ctx: click.Context, name: str, credential: Credential) -> None:
    del ctx
    from mesocosm.images.registry.session import login  # noqa: PLC0415
    from mesocosm.images.stores.docker import own_credentials  # noqa: PLC0415

    asked = await login(name, credential, own_credentials())
    told = (
        "knows you now" if asked else "asks for no credentials; these are kept, but nobody has checked them"
    )
    say(f"{name} {told}")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises meanwhile, so that the terminal gets its echo back."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ask_user(password_stdin: bool) -> str:
    if password_stdin or not sys.stdin.isatty():
        raise InvalidConfig("who is logging in?", hint="give --username NAME")
    return str(click.prompt("User", err=True))


def _ask_secret() -> str:
    if not sys.stdin.isatty():
        raise InvalidConfig("there is no terminal to ask for a password on", hint="use --password-stdin")
    return str(click.prompt("Password", hide_input=True, err=True))


def _from_stdin() -> str:
    data = sys.stdin.buffer.read(MOST + 1)
    secret = data.rstrip(b"\r\n")
    if not secret or len(data) > MOST:
        raise InvalidConfig("standard input holds no password", hint="as in: pass show registry | mesocosm …")
    try:
        return secret.decode()
    except UnicodeDecodeError:
        raise InvalidConfig("the password on standard input is not UTF-8") from None
