"""Many layers as one.

A merged image holds the metadata of a whole stack with its whiteouts applied, and refers to the layer files
as further devices (kernel: erofs.rst, "device="): one mount, however deep the stack.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from mesocosm.errors import Exhausted, InvalidConfig
from mesocosm.images.certain import certain
from mesocosm.images.digest import Digest
from mesocosm.images.documents import LAYER_LIMIT
from mesocosm.images.erofs import format as fmt
from mesocosm.images.erofs.file import LayerFile, SealKind, new_seal
from mesocosm.images.erofs.metadata import complete
from mesocosm.images.erofs.reader import ErofsImage
from mesocosm.images.layers.facts import ErofsFacts
from mesocosm.images.layers.tree import LayerTree, Node
from mesocosm.images.limits import DEFAULT_LIMITS, Limits

PRIMARY_BLOCKS = 1 << 22
"""Blocks left for the merged metadata in front of the first layer, in the address space they share."""


def write_merged(
    path: Path,
    layers: Sequence[Path],
    chain_id: Digest,
    *,
    seal: SealKind = "crc32",
    limits: Limits = DEFAULT_LIMITS,
) -> ErofsFacts:
    """Write the merge of ``layers``, lowest first, as ``path``, which must not exist.

    To be mounted with one ``device=`` option per layer, in this order.  All layers must be of one form.
    Raises InvalidConfig when they are not, Exhausted above `LAYER_LIMIT` layers and ``limits.entries``
    inodes, Corrupt for a damaged layer.
    """
    if not layers or len(layers) > LAYER_LIMIT:
        raise Exhausted(f"a merge of {len(layers)} layers", hint=f"one to {LAYER_LIMIT} can be merged")
    root: Node | None = None
    devices = []
    base, bits, inodes = PRIMARY_BLOCKS, 0, 0
    for layer in layers:
        with ErofsImage(layer) as image:
            if bits and image.block_bits != bits:
                raise InvalidConfig(f"{layer} has blocks of another size than the layers below it")
            bits, inodes = image.block_bits, inodes + image.inodes
            if inodes > limits.entries:
                raise Exhausted(
                    f"the layers together have more than {limits.entries} files", hint="use --backend overlay"
                )
            upper = image.tree()
            _shift(upper, base, bits)
            root = _strip(upper) if root is None or upper.opaque else _merge(root, upper)
            devices.append(fmt.DEVICE_SLOT.pack(image.uuid.hex().encode(), image.blocks, base))
            base += image.blocks
    if base >= fmt.MAX_BLOCKS or root is None:
        raise Exhausted("the layers together are larger than EROFS can address")
    tree = LayerTree(limits)
    tree.root = root
    return _write(path, tree, bits, bytes.fromhex(chain_id.hex)[:16], seal, limits, b"".join(devices))


def _write(
    path: Path,
    tree: LayerTree,
    bits: int,
    uuid: bytes,
    seal: SealKind,
    limits: Limits,
    devices: bytes,
) -> ErofsFacts:
    file = LayerFile(path, limit=min(limits.stream, PRIMARY_BLOCKS << bits))
    try:
        file.seal = new_seal(seal)
        inodes = tree.settle()
        for node in inodes:
            node.implied = False
        return complete(file, inodes, bits, uuid, seal=seal, devices=devices)
    except BaseException:
        file.abort()
        raise


# --- merging ------------------------------------------------------------------------------------------------


def _shift(root: Node, base: int, bits: int) -> None:
    """Move the addresses of a layer's data to where the layer stands in the merged image."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if node.children is not None:
            pending += node.children.values()
            node.tail = b""
            node.address = 0
        elif stat.S_ISLNK(node.mode):
            node.address = 0
        elif stat.S_ISREG(node.mode) and id(node) not in seen:
            if node.names > 1:
                seen.add(id(node))
            if node.chunks is not None:
                node.chunks = [block + base if block >= 0 else block for block in node.chunks]
            elif node.size > len(node.tail):
                node.address += base


def _is_whiteout(node: Node) -> bool:
    return node.children is None and stat.S_ISCHR(node.mode) and not node.rdev


def _merge(lower: Node, upper: Node) -> Node:
    """Lay ``upper`` over ``lower``, both directories, as overlayfs shows them; returns the lower one,
    changed.
    """
    pending = [(lower, upper)]
    while pending:
        below, above = pending.pop()
        kept, added = certain(below.children, "the directory"), certain(above.children, "the directory")
        if not above.implied:
            below.mode, below.uid, below.gid = above.mode, above.uid, above.gid
            below.mtime, below.xattrs, below.implied = above.mtime, above.xattrs, False
        for name, node in added.items():
            old = kept.get(name)
            if _is_whiteout(node):
                kept.pop(name, None)
            elif node.children is None:
                kept[name] = node
            elif old is not None and old.children is not None and not node.opaque:
                pending.append((old, node))
            else:
                kept[name] = _strip(node)
    return lower


def _strip(root: Node) -> Node:
    """Take the signs of whiteouts out of a tree that has nothing below it."""
    pending = [root]
    while pending:
        node = pending.pop()
        node.opaque = False
        children = {name: child for name, child in (node.children or {}).items() if not _is_whiteout(child)}
        node.children = children
        pending += [child for child in children.values() if child.children is not None]
    return root
