"""Image references: what a user writes to name an image, parsed once into a value.

    docker://[HOST[:PORT]/]NAME[:TAG][@DIGEST]   a registry; the scheme may be left out
    oci:PATH[:REF][@DIGEST]                      OCI image layout, directory
    oci-archive:PATH[:REF][@DIGEST]              OCI image layout, tar
    docker-archive:PATH[:NAME[:TAG]|:@INDEX][@DIGEST]   what ``docker save`` writes
    dir:PATH                                     a directory that already is a root filesystem
    tarball:PATH-or-URL[@DIGEST]                 one tar file as the only layer
    appc:NAME[:VERSION][,LABEL=VALUE]...         App Container image by discovery
    aci:PATH[@DIGEST]                            App Container image in a file
    erofs:PATH[@DIGEST]                          ready-made EROFS file
    host                                         the host's own root
    FAMILY://NAME[@DIGEST]                       a family of an installed package (``mesocosm.stores``)

Sources: distribution/reference's grammar (the distribution spec's ``<name>`` and ``<reference>``), the OCI
image spec's ``org.opencontainers.image.ref.name``, the App Container spec's AC Identifier.  ``PATH`` and
``REF`` part at the first colon, as in skopeo; a path with a colon is refused where that would be ambiguous.
"""

from __future__ import annotations

import re

import msgspec

from mesocosm.errors import InvalidConfig
from mesocosm.images.digest import Digest
from mesocosm.images.foreign import parse_uint, shown

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
NAME_LIMIT = 255

_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-f0-9:]+\])(?::([0-9]{{1,5}}))?", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_IMAGE_ID = re.compile(r"[a-f0-9]{64}", re.ASCII)
_PINNED = re.compile(r"(.*)@(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})", re.ASCII | re.DOTALL)
_OCI_REF = re.compile(
    r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*)*",
    re.ASCII,
)
_AC_NAME = re.compile(r"[a-z0-9]+(?:[-._~/][a-z0-9]+)*", re.ASCII)
_AC_VALUE = re.compile(r"[A-Za-z0-9._~+/@-]{1,255}", re.ASCII)
_URL = re.compile(r"https?://[\x21-\x7e]+", re.ASCII)
_FAMILY = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*", re.ASCII)
_FOREIGN = re.compile(rf"({_FAMILY.pattern})://(.*)", re.ASCII | re.DOTALL)

_WITH_REF = frozenset({"oci", "oci-archive", "docker-archive"})
_WITH_PATH = frozenset({"oci", "oci-archive", "docker-archive", "dir", "tarball", "aci", "erofs"})
_PINNABLE = _WITH_PATH - {"dir"}
TRANSPORTS = _WITH_PATH | {"docker", "appc", "host"}
_PROTOCOLS = frozenset({"http", "https", "ftp", "file"})
"""What stands before ``://`` by mistake, and names no family of images."""


class Reference(msgspec.Struct, frozen=True):
    """One parsed image reference.  ``str()`` is canonical: parsing it gives an equal value.

    transport    one of :data:`TRANSPORTS`, or a family of others
    registry     docker: ``host[:port]`` as in ``docker.io``; elsewhere empty
    repository   docker: ``library/debian``; appc: the image's name; elsewhere empty
    tag          docker: tag; appc: version; None when only a digest was given
    digest       what is fetched must have this digest (of manifest, archive or file)
    path         path transports: as written, relative or absolute; tarball: possibly a URL; a family of
                 others: what its store calls the image
    ref          oci, oci-archive: value of ``org.opencontainers.image.ref.name``; docker-archive: canonical
                 ``registry/repository:tag``, or ``@N`` for the N-th image
    labels       appc: sorted pairs, without ``version``
    """

    transport: str
    registry: str = ""
    repository: str = ""
    tag: str | None = None
    digest: Digest | None = None
    path: str = ""
    ref: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.is_foreign:
            _check_foreign(self)
        elif self.transport == "docker":
            _check_docker(self)
        elif self.transport == "appc":
            _check_appc(self)
        elif self.transport in _WITH_PATH:
            _check_path(self)

    @property
    def name(self) -> str:
        """Docker: ``registry/repository``, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The form people write: ``debian:12`` for ``docker://docker.io/library/debian:12``."""
        if self.transport != "docker":
            return str(self)
        name = self.name
        for prefix in ("docker.io/library/", "docker.io/"):
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        short = name + self._suffix()
        return short if _round_trips(short, self) else self.name + self._suffix()

    @property
    def full_name(self) -> str:
        """``docker.io/library/debian:12``: what every reader of an archive understands alike.

        Of ``debian:12`` docker makes docker.io's image, podman one of ``localhost``.
        """
        return f"{self.name}:{self.tag}"

    @property
    def is_url(self) -> bool:
        """Whether ``path`` is an http or https URL (tarball only)."""
        return self.transport == "tarball" and "://" in self.path

    @property
    def is_file(self) -> bool:
        """Whether ``path`` is one on this host."""
        return self.transport in _WITH_PATH and not self.is_url

    @property
    def is_foreign(self) -> bool:
        """Whether a store of others serves it: no more is known of what its name means."""
        return self.transport not in TRANSPORTS

    def pinned(self, digest: Digest) -> Reference:
        """Return this reference bound to ``digest``."""
        return msgspec.structs.replace(self, digest=digest)

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def __str__(self) -> str:
        if self.transport == "host":
            return "host"
        if self.transport == "docker":
            return f"docker://{self.name}{self._suffix()}"
        if self.transport == "appc":
            labels = "".join(f",{name}={value}" for name, value in self.labels)
            return f"appc:{self.repository}{self._suffix()}{labels}"
        ref = f":{self.ref}" if self.ref else ""
        pin = f"@{self.digest}" if self.digest else ""
        slashes = "//" if self.is_foreign else ""
        return f"{self.transport}:{slashes}{self.path}{ref}{pin}"


def parse_reference(text: str) -> Reference:
    """Return the reference that ``text`` writes; raises InvalidConfig naming the part that is wrong."""
    try:
        return _parse(text)
    except _Malformed as error:
        raise _bad(text, error.why, error.hint) from None


def is_tag(text: str) -> bool:
    """Whether ``text`` can be a tag."""
    return _TAG.fullmatch(text) is not None


def is_ac_name(text: str) -> bool:
    """Whether ``text`` is an AC Identifier, as images of the App Container spec are named."""
    return len(text) <= NAME_LIMIT and _AC_NAME.fullmatch(text) is not None


def _parse(text: str) -> Reference:
    if not text:
        raise _bad(text, "it is empty")
    if len(text) > 8192 or any(not c.isprintable() for c in text):
        raise _bad(text, "it holds control characters or is too long")
    if text == "host":
        return Reference("host")
    if text.startswith("docker://"):
        return parse_docker_name(text.removeprefix("docker://"))
    transport, colon, rest = text.partition(":")
    if colon and transport in _WITH_PATH:
        return _parse_path(transport, rest)
    if colon and transport == "appc":
        return _parse_appc(rest)
    if (match := _FOREIGN.fullmatch(text)) and match[1] not in TRANSPORTS | _PROTOCOLS:
        return _parse_foreign(match[1], match[2])
    return parse_docker_name(text)


def parse_docker_name(text: str) -> Reference:
    """Return the docker reference for ``[HOST[:PORT]/]NAME[:TAG][@DIGEST]``, with docker's defaults filled
    in.
    """
    if "://" in text:
        raise _bad(text, "unknown scheme", "registries are written docker://HOST/NAME, without http")
    rest, at, pin = text.partition("@")
    digest = _pin(text, pin) if at else None
    tag: str | None = None
    if ":" in rest.rpartition("/")[2]:
        rest, _, tag = rest.rpartition(":")
    registry, repository = _split_registry(rest)
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference("docker", registry=registry, repository=repository, tag=tag, digest=digest)


def _split_registry(name: str) -> tuple[str, str]:
    """Split off the registry by docker's rule: a dot, a colon, an upper-case letter, or ``localhost``."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        registry, repository = first.lower(), rest
    else:
        registry, repository = DEFAULT_REGISTRY, name
        if _IMAGE_ID.fullmatch(name):
            raise _bad(name, "64 hex digits are an image ID, not a name")
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _pin(text: str, pin: str) -> Digest:
    try:
        return Digest.parse(pin)
    except InvalidConfig as error:
        raise _bad(text, "what follows @ is not a digest", error.hint) from None


def _parse_path(transport: str, rest: str) -> Reference:
    digest: Digest | None = None
    if transport in _PINNABLE and (match := _PINNED.fullmatch(rest)):
        rest, digest = match[1], Digest.parse(match[2])
    path, ref = rest, ""
    if transport in _WITH_REF:
        path, _, ref = rest.partition(":")
    if transport == "docker-archive" and ref and not ref.startswith("@"):
        named = parse_docker_name(ref)
        if named.digest is not None:
            raise _bad(rest, "archives know tags, not digests")
        ref = f"{named.name}:{named.tag}"
    return Reference(transport, path=path, ref=ref or None, digest=digest)


def _parse_foreign(family: str, rest: str) -> Reference:
    pin = _PINNED.fullmatch(rest)
    if pin is None:
        return Reference(family, path=rest)
    return Reference(family, path=pin[1], digest=Digest.parse(pin[2]))


def _parse_appc(rest: str) -> Reference:
    head, *pairs = rest.split(",")
    name, colon, version = head.partition(":")
    labels: dict[str, str] = {"version": version} if colon else {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key in labels:
            raise _bad(rest, f"label {shown(pair, 60)!r} is malformed or repeated")
        labels[key] = value
    tag = labels.pop("version", None)
    return Reference("appc", repository=name, tag=tag, labels=tuple(sorted(labels.items())))


def _check_docker(ref: Reference) -> None:
    registry = _REGISTRY.fullmatch(ref.registry)
    if registry is None or (registry[1] and parse_uint(registry[1], 65535) in (None, 0)):
        raise _bad(ref.registry, "that is not a registry host", "expected HOST or HOST:PORT")
    if ref.repository != ref.repository.lower():
        raise _bad(ref.repository, "repository names are lower case")
    if not _REPOSITORY.fullmatch(ref.repository):
        raise _bad(
            ref.repository, "that is not a repository name", "letters, digits and single . _ - between them"
        )
    if len(ref.name) > NAME_LIMIT:
        raise _bad(ref.name, f"the name is longer than {NAME_LIMIT} characters")
    if ref.tag is not None and not _TAG.fullmatch(ref.tag):
        raise _bad(ref.tag, "that is not a tag", "up to 128 letters, digits, . _ -, not starting with . or -")
    if ref.tag is None and ref.digest is None:
        raise _bad(ref.name, "neither tag nor digest")
    if ref.registry == DEFAULT_REGISTRY and "/" not in ref.repository:
        raise _bad(ref.name, "docker.io names have two parts", "official images live below library/")


def _check_appc(ref: Reference) -> None:
    if not is_ac_name(ref.repository):
        raise _bad(
            ref.repository, "that is not an App Container image name", "lower case, as example.com/app"
        )
    if ref.tag is not None and not _AC_VALUE.fullmatch(ref.tag):
        raise _bad(ref.tag, "that is not a version")
    for name, value in ref.labels:
        if not _AC_NAME.fullmatch(name) or not _AC_VALUE.fullmatch(value):
            raise _bad(f"{name}={value}", "that is not a label")
    names = [name for name, _ in ref.labels]
    if names != sorted(set(names)) or "version" in names:
        raise _bad(str(names), "labels are sorted, unique, and the version is the tag")
    if ref.digest is not None:
        raise _bad(ref.repository, "App Container names cannot be pinned by digest", "use aci:PATH@DIGEST")


def _check_path(ref: Reference) -> None:
    if not ref.path or any(not c.isprintable() for c in ref.path):
        raise _bad(ref.path, f"{ref.transport}: needs a path")
    if ref.transport == "tarball" and "://" in ref.path and not _URL.fullmatch(ref.path):
        raise _bad(ref.path, "only http and https URLs are fetched")
    if ref.transport in _WITH_REF and ":" in ref.path:
        raise _bad(
            ref.path, f"{ref.transport}: paths cannot hold a colon", "use a path without one, or a symlink"
        )
    if ref.digest is not None and ref.transport not in _PINNABLE:
        raise _bad(ref.path, f"{ref.transport}: cannot be pinned by digest")
    if ref.digest is None and ref.transport in _PINNABLE and _PINNED.fullmatch(ref.ref or ref.path):
        raise _bad(ref.path, "a digest at the end is a pin, not part of the name")
    if ref.ref is not None:
        _check_ref(ref.transport, ref.ref)


def _check_foreign(ref: Reference) -> None:
    if not _FAMILY.fullmatch(ref.transport) or ref.transport in _PROTOCOLS:
        raise _bad(ref.transport, "that is not a family of images")
    if not ref.path or any(not c.isprintable() for c in ref.path):
        raise _bad(ref.path, f"{ref.transport}:// needs a name")
    if ref.registry or ref.repository or ref.tag or ref.ref or ref.labels:
        raise _bad(ref.path, f"{ref.transport}:// has a name and a digest, and nothing else")
    if ref.digest is None and _PINNED.fullmatch(ref.path):
        raise _bad(ref.path, "a digest at the end is a pin, not part of the name")


def _check_ref(transport: str, ref: str) -> None:
    if transport == "docker-archive" and ref.startswith("@"):
        if parse_uint(ref[1:], 9999) is None or ref != f"@{int(ref[1:])}":
            raise _bad(ref, "that is not an image's place in the archive", "expected @0, @1, ...")
    elif transport == "docker-archive":
        named = parse_docker_name(ref)
        if ref != f"{named.name}:{named.tag}":
            raise _bad(ref, "that is not a canonical registry/repository:tag")
    elif transport not in _WITH_REF or len(ref) > NAME_LIMIT or not _OCI_REF.fullmatch(ref):
        raise _bad(ref, "that is not a reference name")


def _round_trips(short: str, ref: Reference) -> bool:
    try:
        return short != "host" and parse_reference(short) == ref
    except InvalidConfig:
        return False


class _Malformed(InvalidConfig):
    """Carries the reason apart from the text, so that the whole reference can be named and not only its
    part.
    """

    def __init__(self, text: str, why: str, hint: str | None) -> None:
        super().__init__(f"image reference {shown(text, 160)!r}: {why}", hint=hint)
        self.why = why


def _bad(text: str, why: str, hint: str | None = None) -> _Malformed:
    return _Malformed(text, why, hint)
