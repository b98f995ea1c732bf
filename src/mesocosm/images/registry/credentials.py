"""Where credentials come from: docker's config.json and its helpers, read with suspicion (attacks G-10).

    auths        {"ghcr.io": {"auth": base64("user:password"), ...}}, see docker_config.py
    credHelpers  {"ghcr.io": "gh"}      the program docker-credential-gh answers for ghcr.io
    credsStore   "pass"                 the program docker-credential-pass answers for all others

A helper's name is ``[a-z0-9-]+``, it is looked up in a fixed list of directories, must be root's or ours
and writable by nobody else, gets the question on its standard input, a bare environment, no descriptor but
its pipes, ``/`` as its directory, a session of its own, 30 seconds, a minute of the processor and 1 MiB to
answer, and leaves no core dump.  It has all the rights of who runs us: it has to reach a user's keys.
Secrets are never in an argument vector, a log or an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from mesocosm.errors import Denied, InvalidConfig, MesocosmError, NotFound
from mesocosm.images.foreign import shown
from mesocosm.images.registry import docker_config
from mesocosm.images.registry.auth import Credential
from mesocosm.images.strict import Fields, Json, load

HELPER_DIRS: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
HELPER_OUTPUT: Final = 1 << 20
HELPER_SECONDS: Final = 30.0
HELPER_CPU_SECONDS: Final = 60
"""All its threads together."""

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
    settings = Path(environ["XDG_CONFIG_HOME"]) if environ.get("XDG_CONFIG_HOME") else home / ".config"
    paths.append(settings / "containers" / "auth.json")
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
            document = docker_config.read(path)
            found = await self._find_in(document, path, registry, repository)
            if found is not None:
                return found
        return None

    async def login(self, registry: str, credential: Credential) -> None:
        """Keep ``credential`` for ``registry``: with the configured helper, else in the file (mode 0600)."""
        path = self._paths[0]
        document = docker_config.read(path)
        helper = _helper_for(document, path, registry)
        if helper is not None:
            await self._store(helper, registry, credential)
            return
        auths = docker_config.table(document, "auths", path)
        auths[docker_config.key_of(registry)] = docker_config.entry_of(credential)
        docker_config.write(path, {**document, "auths": auths})

    async def logout(self, registry: str) -> bool:
        """Forget what is kept for ``registry``; whether there was anything."""
        path = self._paths[0]
        document = docker_config.read(path)
        helper = _helper_for(document, path, registry)
        if helper is not None:
            return await self._ask(helper, "erase", docker_config.key_of(registry)) is not None
        auths = docker_config.table(document, "auths", path)
        doomed = [key for key in dict.fromkeys(docker_config.keys_of(registry)) if key in auths]
        for key in doomed:
            del auths[key]
        if doomed:
            docker_config.write(path, {**document, "auths": auths})
        return bool(doomed)

    async def renew(self, registry: str, repository: str, old: str, new: str) -> bool:
        """Keep ``new`` where the identity token ``old`` is kept for ``registry``: the token server gave it in
        its place, and need not take the old one any more (RFC 6749 section 6).

        False where ``old`` is not kept any more: somebody logged in or out meanwhile.  Raises as `find`, and
        Denied for a file that is another user's.
        """
        for path in self._paths:
            document = docker_config.read(path)
            helper = _helper_for(document, path, registry)
            if helper is not None:
                answer = await self._ask(helper, "get", docker_config.key_of(registry))
                if answer is not None:
                    known = _from_helper(answer, helper)
                    if known is None or known.identity_token != old:
                        return False
                    await self._store(helper, registry, Credential(identity_token=new))
                    return True
            renewed = docker_config.with_token(document, path, registry, repository, old, new)
            if renewed is not None:
                docker_config.require_own(path)
                docker_config.write(path, renewed)
                return True
        return False

    async def _store(self, helper: str, registry: str, credential: Credential) -> None:
        secret = credential.identity_token or credential.password
        username = "<token>" if credential.identity_token else credential.username
        key = docker_config.key_of(registry)
        await self._ask(
            helper, "store", json.dumps({"ServerURL": key, "Username": username, "Secret": secret})
        )

    async def _find_in(
        self, document: dict[str, Json], path: Path, registry: str, repository: str
    ) -> Credential | None:
        helper = _helper_for(document, path, registry)
        if helper is not None:
            answer = await self._ask(helper, "get", docker_config.key_of(registry))
            found = None if answer is None else _from_helper(answer, helper)
            if found is not None:
                return found
        auths = docker_config.table(document, "auths", path)
        for key in [*docker_config.keys_beneath(registry, repository), *docker_config.keys_of(registry)]:
            if key in auths:
                found = docker_config.credential_of(auths[key], f"{path}, auths, {shown(key, 80)}")
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
        except BaseException as error:
            await _end(process)
            if not isinstance(error, TimeoutError):
                raise
            message = f"credential helper {helper} did not answer within {self._helper_seconds:g} s"
            raise Denied(message, hint=f"try docker-credential-{helper} by hand") from None
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
    """Kill what is left of a helper that is given up, children that outlived it included, and reap it.

    Its number stays that of its group for as long as one of them is there.
    """
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
    helpers = docker_config.table(document, "credHelpers", path)
    store = document.get("credsStore")
    if not isinstance(store, str | None):
        raise InvalidConfig(f"{path}: credsStore is not a name")
    for key in docker_config.keys_of(registry):
        if isinstance(named := helpers.get(key), str):
            return named or None  # an empty name means the file
    return store or None


def _from_helper(answer: bytes, helper: str) -> Credential | None:
    """What a helper answered; None where it holds neither a name nor a secret, as some say that they know
    nothing.
    """
    try:
        fields = Fields(
            load(answer, f"answer of credential helper {helper}"), f"credential helper {helper}", ()
        )
        username, secret = fields.text("Username") or "", fields.text("Secret") or ""
    except MesocosmError:
        raise Denied(f"credential helper {helper} answered with something that is not JSON") from None
    if not (username or secret):
        return None
    return docker_config.checked(username, secret, "", f"credential helper {helper}")
