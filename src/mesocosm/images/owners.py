"""Owners mapped while files are copied: for the one backend whose roots are no mounts of a layer.

What an id-mapped mount would show is written down: owners, the users and groups of access control lists, and
the root that a file capability is for.  An ID that the mapping lacks cannot be written down, and is refused.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from mesocosm.errors import InvalidConfig
from mesocosm.model.idmap import IDMap

CAPABILITY: Final = "security.capability"
LISTS: Final = ("system.posix_acl_access", "system.posix_acl_default")

_ACL_HEADER: Final = struct.Struct("<I")
_ACL_ENTRY: Final = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 0x02, 0x08
"""linux/posix_acl_xattr.h: version; tag, permissions, ID; the two tags whose ID means somebody."""

_VERSION_3: Final = 0x03000000
_FLAGS: Final = 0x00FFFFFF
_MASKS: Final = slice(4, 20)
_ROOT: Final = slice(20, 24)
"""linux/capability.h: struct vfs_ns_cap_data is version and flags, two pairs of masks, the root user."""


class Owners:
    """Who owns a copy; without a mapping whoever owns the original."""

    def __init__(self, mapping: IDMap | None = None) -> None:
        self._mapping = mapping

    def of(self, status: os.stat_result) -> tuple[int, int]:
        """User and group of the copy.  Raises InvalidConfig for one that the mapping lacks."""
        return self._uid(status.st_uid), self._gid(status.st_gid)

    def attribute(self, name: str, value: bytes) -> bytes:
        """An extended attribute's value for the copy.  Raises InvalidConfig likewise."""
        if self._mapping is None:
            return value
        if name == CAPABILITY:
            return self._capability(value)
        return self._list(value) if name in LISTS else value

    def _uid(self, number: int) -> int:
        found = number if self._mapping is None else self._mapping.uid(number)
        if found is None:
            raise self._nobody("user", number)
        return found

    def _gid(self, number: int) -> int:
        found = number if self._mapping is None else self._mapping.gid(number)
        if found is None:
            raise self._nobody("group", number)
        return found

    def _nobody(self, kind: str, number: int) -> InvalidConfig:
        words = "" if self._mapping is None else self._mapping.describe()
        return InvalidConfig(
            f"the image has files of {kind} {number}, which the mapping {words} lacks",
            hint="map more IDs; --backend erofs and overlay show such files as nobody's",
        )

    def _capability(self, value: bytes) -> bytes:
        """capabilities(7): of version 3, for the user namespace whose root that is; 2 is for the host's."""
        (word,) = struct.unpack_from("<I", value)
        root = int.from_bytes(value[_ROOT], "little") if len(value) >= _ROOT.stop else 0
        masks, owner = value[_MASKS], self._uid(root)
        return struct.pack("<I", _VERSION_3 | word & _FLAGS) + masks + owner.to_bytes(4, "little")

    def _list(self, value: bytes) -> bytes:
        mapped = bytearray(value[: _ACL_HEADER.size])
        for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :]):
            if tag == _ACL_USER:
                number = self._uid(number)
            elif tag == _ACL_GROUP:
                number = self._gid(number)
            mapped += _ACL_ENTRY.pack(tag, permissions, number)
        return bytes(mapped)
