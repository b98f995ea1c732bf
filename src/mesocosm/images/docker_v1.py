"""Docker's images before version 1.10: a chain of layers, each with a document of its own.

The topmost document says how the image is run; together they are its history.  Archives of that time and
manifests of schema 1 have them.  Source: docker's "image/spec/v1.md".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mesocosm.images.config import words
from mesocosm.images.digest import Digest
from mesocosm.images.platform import Platform
from mesocosm.images.strict import Fields, Json
from mesocosm.images.synthesis import config_bytes

_KNOWN = (
    "id",
    "parent",
    "created",
    "author",
    "comment",
    "os",
    "architecture",
    "variant",
    "config",
    "container_config",
    "throwaway",
)


class V1Image(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's document.  ``throwaway``: its layer is empty, and need not be kept."""

    id: str
    parent: str
    platform: Platform
    created: str
    created_by: str
    author: str
    comment: str
    throwaway: bool
    runtime: Mapping[str, Json]

    def step(self) -> dict[str, Json]:
        """Return the entry of an OCI image configuration's history (config.md)."""
        told = {
            "created": self.created,
            "created_by": self.created_by,
            "author": self.author,
            "comment": self.comment,
        }
        made: dict[str, Json] = {key: text for key, text in told.items() if text}
        return {**made, "empty_layer": True} if self.throwaway else made


def parse_v1(value: Json, where: str) -> V1Image:
    """Return what a document says; raises Corrupt.  What is to run is checked with the configuration."""
    fields = Fields(value, where, _KNOWN)
    runtime = fields.raw("config") or {}
    if not isinstance(runtime, dict):
        raise fields.fail("config", "is not an object")
    by = Fields(fields.raw("container_config") or {}, f"{where}, container_config", ("Cmd",))
    return V1Image(
        id=fields.text("id") or "",
        parent=fields.text("parent") or "",
        platform=Platform(
            fields.text("os") or "linux", fields.text("architecture") or "", fields.text("variant") or ""
        ),
        created=fields.text("created") or "",
        created_by=" ".join(words(by, "Cmd") or ()),
        author=fields.text("author") or "",
        comment=fields.text("comment") or "",
        throwaway=fields.flag("throwaway"),
        runtime=runtime,
    )


def v1_config(images: Sequence[V1Image], diff_ids: Sequence[Digest]) -> bytes:
    """Return the configuration of an image made of these documents, lowest first, at least one.

    ``diff_ids`` are those of the layers that are kept.
    """
    top = images[-1]
    return config_bytes(
        top.platform,
        diff_ids,
        top.runtime,
        created=top.created,
        author=top.author,
        history=[image.step() for image in images],
    )
