"""Layers that are EROFS files already: kept as they are, byte for byte, and sealed as our own are.

The kernel parses what strangers wrote into them (attacks I-21), which nothing here can make safe: policy says
whose files are taken (`policy.Policy.allow_erofs`).  What is checked is that the file is whole, that it needs
no other device, and that this kernel mounts it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mesocosm.errors import Corrupt, Exhausted, Unsupported
from mesocosm.images import mediatypes
from mesocosm.images.digest import Digest, new_hash
from mesocosm.images.documents import Descriptor
from mesocosm.images.erofs import format as fmt
from mesocosm.images.erofs.file import HEAD, new_seal, seal_text
from mesocosm.images.files import write_all
from mesocosm.images.image import ImageRecord
from mesocosm.images.layers.mounts import mount_image
from mesocosm.images.layers.store import CONTENT, READY, Form, LayerRecord
from mesocosm.images.staging import discard

if TYPE_CHECKING:
    from mesocosm.images.layers.store import LayerStore

_EXTRA_DEVICES: Final = 16
"""Where ``extra_devices`` stands among the superblock's fields."""


def require_archives(image: ImageRecord) -> None:
    """Raise Unsupported for an image that has layers without a tar: they cannot take another form."""
    for layer in image.layers:
        if layer.media_type in mediatypes.EROFS:
            raise Unsupported(
                f"image {image.digest}: layer {layer.diff_id} is an EROFS file, of which there is no archive",
                hint="save it as an oci-archive, or push it",
            )


def check_superblock(head: bytes, size: int, what: str) -> None:
    """Raise Corrupt when ``head``, how a file of ``size`` bytes begins, is that of no whole EROFS image."""
    if len(head) < fmt.SUPER_OFFSET + fmt.SUPER_SIZE:
        raise Corrupt(f"{what} is no EROFS image: it is too short")
    fields = fmt.SUPER.unpack_from(head, fmt.SUPER_OFFSET)
    magic, block_bits, blocks = fields[0], fields[3], fields[9]
    if magic != fmt.MAGIC:
        raise Corrupt(f"{what} is no EROFS image: it has another magic number")
    if not 9 <= block_bits <= 16 or not 0 < blocks << block_bits <= size:
        raise Corrupt(f"{what} is truncated: {size} bytes of an EROFS image of {blocks} blocks")
    if fields[_EXTRA_DEVICES]:
        raise Unsupported(f"{what} is an EROFS image that needs further devices", hint="make it whole")


class ReadyWriter:
    """Sink of one transfer: keeps the file below ``staging``, and has ``store`` publish it at the end."""

    def __init__(
        self, store: LayerStore, staging: Path, descriptor: Descriptor, diff_id: Digest, form: Form
    ) -> None:
        if form is not Form.EROFS:
            raise Unsupported(
                f"layer {descriptor.digest} is an EROFS file, and this host keeps layers as directories",
                hint="it needs a kernel that mounts EROFS, and --backend erofs",
            )
        if descriptor.size > store.limits.stream:
            raise Exhausted(f"layer {descriptor.digest} has {descriptor.size} bytes, more than are allowed")
        discard(staging)
        staging.mkdir(mode=0o700)
        self._store = store
        self._staging = staging
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._content = new_hash(diff_id.algorithm)
        self._seal = new_seal("crc32")
        self._head = b""
        self._fd = os.open(
            staging / CONTENT[form], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400
        )

    def write(self, chunk: bytes | memoryview) -> None:
        """Take more of the file."""
        view = memoryview(chunk)
        self._content.update(view)
        write_all(self._fd, view)
        taken = min(HEAD - len(self._head), len(view))
        self._head += bytes(view[:taken])
        self._seal.update(view[taken:])

    def finish(self) -> None:
        """The blob is complete and right: check that it is a file system, and publish the layer."""
        what = f"layer {self._descriptor.digest}"
        check_superblock(self._head, self._descriptor.size, what)
        if self._content.hexdigest() != self._diff_id.hex:
            raise Corrupt(f"{what} is not the {self._diff_id} that the image's configuration says")
        self._seal.update(self._head)
        os.fsync(self._fd)
        self._close()
        _try(self._staging / CONTENT[Form.EROFS], what)
        self._store.publish(self._staging, self._record())

    def abort(self) -> None:
        """Give everything up and leave nothing."""
        with contextlib.suppress(Exception):
            self._close()
            discard(self._staging)

    def _record(self) -> LayerRecord:
        size = self._descriptor.size
        return LayerRecord(
            diff_id=str(self._diff_id),
            form=Form.EROFS,
            size=size,
            seal=seal_text("crc32", self._seal),
            blob=str(self._descriptor.digest),
            tar_size=0,
            entries=0,
            implied=0,
            implied_at=(),
            compression=READY,
        )

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _try(path: Path, what: str) -> None:
    """Mount the file where nobody sees it, so that what cannot be mounted fails at the pull."""
    try:
        os.close(mount_image((path,)))
    except OSError as error:
        raise Corrupt(
            f"{what} cannot be mounted as EROFS: {error.strerror}",
            hint="it is damaged, or made for a newer kernel",
        ) from None
