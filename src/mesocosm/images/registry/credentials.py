"""Where credentials come from: docker's config.json and its helpers, read with suspicion (attacks G-10).

    auths        {"ghcr.io": {"auth": base64("user:password"), "identitytoken": ...}}
    credHelpers  {"ghcr.io": "gh"}      the program docker-credential-gh answers for ghcr.io
    credsStore   "pass"                 the program docker-credential-pass answers for all others

A helper's name is ``[a-z0-9-]+``, it is looked up in a fixed list of directories, must be root's or ours
and writable by nobody else, gets the question on its standard input, a bare environment, 30 seconds, 1 MiB,
and leaves no core dump.  Secrets are never in an argument vector, a log or an error.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
import re
import resource
import secrets
import signal
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from mesocosm import durable
from mesocosm.errors import Denied, InvalidConfig, MesocosmError, NotFound
from mesocosm.images.blobs import write_all
from mesocosm.images.foreign import shown
from mesocosm.images.reference import DEFAULT_REGISTRY
from mesocosm.images.registry.auth import Credential
from mesocosm.images.strict import Fields, Json, load

HELPER_DIRS: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
HELPER_OUTPUT: Final = 1 << 20
HELPER_SECONDS: Final = 30.0
HELPER_CPU_SECONDS: Final = 60
"""All its threads together."""

FILE_LIMIT: Final = 4 << 20
HUB_KEY: Final = "https://index.docker.io/v1/"
"""The key under which docker keeps docker.io's credentials."""

_NAME = re.compile(r"[a-z0-9-]{1,64}", re.ASCII)
_ENVIRONMENT = ("HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "GNUPGHOME", "PASSWORD_STORE_DIR")
_NOT_FOUND = "credentials not found in native keychain"


def default_paths(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return docker's configuration files that exist by convention, the one to write first."""
    home = Path(environ.get("HOME") or "/root")
    docker = Path(environ["DOCKER_CONFIG"]) if environ.get("DOCKER_CONFIG") else home / ".docker"
    paths = [docker / "config.json"]
    if environ.get("REGISTRY_AUTH_FILE"):
        paths.append(Path(environ["REGISTRY_AUTH_FILE"]))
    if environ.get("XDG_RUNTIME_DIR"):
        paths.append(Path(environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    return tuple(paths)


class Credentials:
    """Finds, keeps and forgets credentials.  ``paths[0]`` is the file that :meth:`login` writes.

    ``environ`` is the environment of which helpers see a few variables, ``helper_dirs`` where they are
    looked for.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        environ: Mapping[str, str] | None = None,
        helper_dirs: Sequence[str] = HELPER_DIRS,
        helper_seconds: float = HELPER_SECONDS,
    ) -> None:
        self._paths = tuple(paths)
        self._environ = dict(environ or {})
        self._helper_dirs = tuple(helper_dirs)
        self._helper_seconds = helper_seconds

    async def find(self, registry: str, repository: str = "") -> Credential | None:
        """Return the credential for ``registry`` (``host[:port]``), None when there is none.

        Entries for ``host/path`` (containers' auth.json) serve repositories below that path; the longest
        wins. Raises InvalidConfig for a file that cannot be understood, Denied when a helper fails.
        """
        for path in self._paths:
            document = _read(path)
            found = await self._find_in(document, path, registry, repository)
            if found is not None:
                return found
        return None

    async def login(self, registry: str, credential: Credential) -> None:
        """Keep ``credential`` for ``registry``: with the configured helper, else in the file (mode 0600)."""
        path = self._paths[0]
        document = _read(path)
        helper = _helper_for(document, path, registry)
        if helper is not None:
            secret = credential.identity_token or credential.password
            username = "<token>" if credential.identity_token else credential.username
            question = json.dumps({"ServerURL": _key(registry), "Username": username, "Secret": secret})
            await self._ask(helper, "store", question)
            return
        auths = _table(document, "auths", path)
        auths[_key(registry)] = _entry(credential)
        _write(path, {**document, "auths": auths})

    async def logout(self, registry: str) -> bool:
        """Forget what is kept for ``registry``; whether there was anything."""
        path = self._paths[0]
        document = _read(path)
        helper = _helper_for(document, path, registry)
        if helper is not None:
            return await self._ask(helper, "erase", _key(registry)) is not None
        auths = _table(document, "auths", path)
        doomed = [key for key in dict.fromkeys(_keys(registry)) if key in auths]
        for key in doomed:
            del auths[key]
        if doomed:
            _write(path, {**document, "auths": auths})
        return bool(doomed)

    async def _find_in(
        self, document: dict[str, Json], path: Path, registry: str, repository: str
    ) -> Credential | None:
        helper = _helper_for(document, path, registry)
        if helper is not None:
            answer = await self._ask(helper, "get", _key(registry))
            if answer is not None:
                return _from_helper(answer, helper)
        auths = _table(document, "auths", path)
        for key in [*_prefixes(registry, repository), *_keys(registry)]:
            if key in auths:
                found = _from_entry(auths[key], f"{path}, auths, {shown(key, 80)}")
                if found is not None:
                    return found
        return None

    async def _ask(self, helper: str, verb: str, question: str) -> bytes | None:
        """Run one helper; its output, or None when it knows nothing of the registry."""
        program = _helper_path(helper, self._helper_dirs)
        environment = {name: self._environ[name] for name in _ENVIRONMENT if name in self._environ}
        environment["PATH"] = ":".join(HELPER_DIRS)
        process = await asyncio.create_subprocess_exec(
            program,
            verb,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        try:
            _bound(process.pid)
            async with asyncio.timeout(self._helper_seconds):
                output = await _converse(process, question.encode(), helper)
                status = await process.wait()
        except TimeoutError:
            message = f"credential helper {helper} did not answer within {self._helper_seconds:g} s"
            raise Denied(message, hint=f"try docker-credential-{helper} by hand") from None
        finally:
            await _end(process)
        if status == 0:
            return output
        if _NOT_FOUND in output.decode("utf-8", "replace"):
            return None
        raise Denied(
            f"credential helper {helper} failed with status {status}", hint="try it by hand, or log in again"
        )


def _bound(pid: int) -> None:
    """Bound what a helper may do, before it is told anything: no core dumps with secrets, little of the
    processor.
    """
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        resource.prlimit(pid, resource.RLIMIT_CPU, (HELPER_CPU_SECONDS, HELPER_CPU_SECONDS))


async def _converse(process: asyncio.subprocess.Process, question: bytes, helper: str) -> bytes:
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise Denied(f"credential helper {helper} has no pipes")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(question)
        await stdin.drain()
    stdin.close()
    output = bytearray()
    while chunk := await stdout.read(64 << 10):
        output += chunk
        if len(output) > HELPER_OUTPUT:
            raise Denied(f"credential helper {helper} printed more than {HELPER_OUTPUT} bytes")
    return bytes(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the helper's whole session and reap it; a helper that ended already is only reaped."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


def _helper_path(name: str, directories: Iterable[str]) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidConfig(
            f"credential helper {shown(name, 60)!r} is not a name", hint="letters, digits and - only"
        )
    for directory in directories:
        path = Path(directory) / f"docker-credential-{name}"
        try:
            found = path.stat()
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
            continue
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise Denied(
                f"{path} may be changed by others and is not run", hint=f"chown root, chmod go-w {path}"
            )
        return str(path)
    hint = "install it into one of " + ", ".join(directories)
    raise NotFound(f"credential helper docker-credential-{name} is not installed", hint=hint)


def _helper_for(document: Mapping[str, Json], path: Path, registry: str) -> str | None:
    helpers = _table(document, "credHelpers", path)
    store = document.get("credsStore")
    if not isinstance(store, str | None):
        raise InvalidConfig(f"{path}: credsStore is not a name")
    for key in _keys(registry):
        if isinstance(named := helpers.get(key), str):
            return named or None  # an empty name means the file
    return store or None


def _from_helper(answer: bytes, helper: str) -> Credential:
    try:
        fields = Fields(
            load(answer, f"answer of credential helper {helper}"), f"credential helper {helper}", ()
        )
        username, secret = fields.text("Username") or "", fields.text("Secret") or ""
    except MesocosmError:
        raise Denied(f"credential helper {helper} answered with something that is not JSON") from None
    return _credential(username, secret, "", f"credential helper {helper}")


def _from_entry(value: Json, where: str) -> Credential | None:
    try:
        entry = Fields(value, where, ())
        username, password = entry.text("username") or "", entry.text("password") or ""
        token = entry.text("identitytoken") or ""
        packed = entry.text("auth") or ""
        if packed:
            plain = base64.b64decode(packed, validate=True).decode("utf-8")
            username, colon, password = plain.partition(":")
            if not colon:
                raise InvalidConfig(f"{where}: auth is not user:password", hint="log in again")
    except (binascii.Error, ValueError):
        raise InvalidConfig(f"{where}: auth is not base64", hint="log in again") from None
    # Docker pads the packed pair with NUL bytes.
    return _credential(username, password.rstrip("\0"), token, where) if username or token else None


def _credential(username: str, password: str, token: str, where: str) -> Credential:
    if any(ord(c) < 32 or ord(c) == 127 for c in username) or ":" in username:
        raise InvalidConfig(
            f"{where}: the user name holds control characters or a colon", hint="log in again"
        )
    if username == "<token>":
        return Credential(identity_token=token or password)
    return Credential(username, password, token)


def _entry(credential: Credential) -> dict[str, Json]:
    pair = f"{credential.username}:{credential.password}".encode()
    entry: dict[str, Json] = {"auth": base64.b64encode(pair).decode("ascii")}
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    return entry


def _key(registry: str) -> str:
    return HUB_KEY if registry == DEFAULT_REGISTRY else registry


def _keys(registry: str) -> tuple[str, ...]:
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


def _prefixes(registry: str, repository: str) -> list[str]:
    parts = repository.split("/") if repository else []
    return ["/".join((registry, *parts[:count])) for count in range(len(parts), 0, -1)]


def _read(path: Path) -> dict[str, Json]:
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


def _table(document: Mapping[str, Json], name: str, path: Path) -> dict[str, Json]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidConfig(
            f"{path}: {name} is not an object", hint="repair or remove the file, and log in again"
        )
    return dict(value)


def _write(path: Path, document: Mapping[str, Json]) -> None:
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
