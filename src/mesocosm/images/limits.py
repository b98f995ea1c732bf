"""What a layer may cost: the bounds that every reader and writer of layers keeps (attacks I-06 to I-12)."""

from __future__ import annotations

from typing import Literal

import msgspec

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one layer stream; sizes in bytes.  Crossing one is Exhausted.

    ``stream``      decompressed bytes, and bytes of the layer made of them (I-09)
    ``ratio``       decompressed bytes for each compressed byte, once ``ratio_from`` bytes came out (I-09)
    ``window``      memory that a decompressor may ask for: zstd window, xz dictionary (I-09)
    ``entries``     archive members (I-12)
    ``file``        apparent size of one file, holes included (I-10)
    ``records``     extended headers and names of one member (I-11)
    ``sparse_map``  a sparse file's map of extents (I-10)
    ``path``, ``depth``  length of one path, and the number of its components (I-11, I-12)
    ``links``       names of one file; ext4 itself takes 65,000 (I-12)
    ``xattrs``, ``xattr_bytes``  extended attributes of one member, and their names and values together (I-08)
    """

    stream: int = 64 * GIB
    ratio: int = 200
    ratio_from: int = 64 * MIB
    window: int = 128 * MIB
    entries: int = 2_000_000
    file: int = 64 * GIB
    records: int = MIB
    sparse_map: int = MIB
    path: int = 4095
    depth: int = 1024
    links: int = 65_000
    xattrs: int = 128
    xattr_bytes: int = 64 * KIB


DEFAULT_LIMITS = Limits()

DevicePolicy = Literal["keep", "drop", "refuse"]


class Policy(msgspec.Struct, frozen=True):
    """What to do with members that are legal but powerful.

    ``devices``: device nodes are kept as published, left out, or refused (I-06).  FIFOs are always kept: they
    are inert until a container opens them.  Layers are to be mounted ``nodev`` in any case.
    """

    devices: DevicePolicy = "keep"


DEFAULT_POLICY = Policy()
