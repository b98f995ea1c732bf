"""Media types of images, and what each means.

Sources: OCI image spec "media-types.md", distribution's "manifest-v2-2.md".
"""

from __future__ import annotations

from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
EROFS_LAYER: Final = "application/vnd.erofs.layer.v1"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN_LAYER: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
SCHEMA1 = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

ACCEPTED = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
"""What a manifest request asks for, best first."""

ACCEPTED_WITH_SCHEMA1 = (*ACCEPTED, DOCKER_SCHEMA1_SIGNED, DOCKER_SCHEMA1)
"""The same where policy allows docker's schema 1: last, so that it comes only where there is nothing else."""

COMPRESSION: dict[str, str] = {
    OCI_LAYER: "",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    DOCKER_LAYER: "",
    f"{DOCKER_LAYER}.gzip": "gzip",
    f"{DOCKER_LAYER}.zstd": "zstd",
}
"""Layer media type to compression: ``""`` (plain tar), ``gzip`` or ``zstd``.

Only a declaration: docker-built archives call gzip data plain tar, so the unpacker looks at the first bytes
too.
"""

FOREIGN = frozenset(
    {
        DOCKER_FOREIGN_LAYER,
        f"{DOCKER_FOREIGN_LAYER}.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)
"""Layers that are to be fetched from the URLs in their descriptors (attacks G-03, CVE-2020-15157):
refused.
"""

EROFS = frozenset({EROFS_LAYER, f"{OCI_LAYER.removesuffix('.tar')}.erofs"})
"""Layers that are EROFS files already.  The kernel parses what their makers wrote (attacks I-21), so policy
has to allow them.
"""

GENERIC = frozenset({"", "application/json", "application/octet-stream", "text/plain", "binary/octet-stream"})
"""Content-Types of plain file servers: they say nothing about the document."""


def base_type(content_type: str | None) -> str:
    """Return a Content-Type header's media type, lower case, without parameters; empty when it says
    nothing.
    """
    bare = (content_type or "").partition(";")[0].strip().lower()
    return "" if bare in GENERIC else bare
