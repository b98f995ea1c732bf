"""What a layer's members mean: names below the root, whiteouts, and what is admitted of a member.

Sources: OCI image spec, "Image Layer Filesystem Changeset"; attacks I-01, I-04, I-06, I-08.
"""

from __future__ import annotations

import stat
import struct

import msgspec

from mesocosm.errors import Corrupt, Denied, Exhausted
from mesocosm.images.limits import Limits, Policy
from mesocosm.images.tar.header import HARDLINK, TarEntry

WHITEOUT_PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
_AUFS_PREFIX = b".wh..wh."
NAME_LENGTH = 255  # bytes of one name, on every file system of Linux
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_SUSPECT = (b"", b".", b"/")

Xattrs = tuple[tuple[bytes, bytes], ...]


def clean_path(path: bytes, limits: Limits) -> bytes:
    """Return ``path`` as one below the root: no leading slash, no ``.``, ``..`` or empty parts; b"" is the
    root.

    ``..`` is taken away with the part before it and cannot leave the root (I-01).  Exhausted when the path is
    too long or too deep for the limits, Corrupt when a part exceeds the 255 bytes of every file system.  A
    whiteout's prefix does not count: what it names has 255 bytes itself.
    """
    if path[-1:] == b"/":
        path = path.rstrip(b"/")
    if path[:2] == b"./":
        path = path[2:]
    # Whatever could hold an empty part, ".", ".." or a long one; a few that do not are looked at in vain.
    if (
        path[:1] in _SUSPECT
        or path[-1:] == b"."
        or path.find(b"//") >= 0
        or path.find(b"./") >= 0
        or len(path) > NAME_LENGTH
    ):
        path = _normalised(path)
    if len(path) > limits.path or path.count(b"/") >= limits.depth:
        raise Exhausted(f"layer: a path of {len(path)} bytes is too long or too deep: {path[:60]!r}...")
    return path


def _normalised(path: bytes) -> bytes:
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            if len(part.removeprefix(WHITEOUT_PREFIX)) > NAME_LENGTH:
                raise Corrupt(
                    f"layer: a name of {len(part)} bytes, more than {NAME_LENGTH}: {part[:60]!r}..."
                )
            parts.append(part)
    return b"/".join(parts)


class Whiteout(msgspec.Struct, frozen=True):
    """A mark that takes away what lower layers have: ``path``, or with ``opaque`` all that is in it."""

    path: bytes
    opaque: bool


IGNORED = Whiteout(b"", opaque=False)
"""A mark of AUFS's own (``.wh..wh.plnk`` and others), which means nothing elsewhere."""


def whiteout(path: bytes) -> Whiteout | None:
    """Return the whiteout that a cleaned path means, or None when it names a file.  Corrupt when malformed
    (I-04).
    """
    if path.find(WHITEOUT_PREFIX) < 0:
        return None
    parent, _, name = path.rpartition(b"/")
    if parent.startswith(_AUFS_PREFIX):
        return IGNORED
    if parent.startswith(WHITEOUT_PREFIX) or b"/" + WHITEOUT_PREFIX in parent:
        raise Corrupt(f"layer: a whiteout used as a directory: {path[:80]!r}")
    if not name.startswith(WHITEOUT_PREFIX):
        return None
    if name == OPAQUE_NAME:
        return Whiteout(parent, opaque=True)
    if name.startswith(_AUFS_PREFIX):
        return IGNORED
    target = name[len(WHITEOUT_PREFIX) :]
    if target in (b"", b".", b".."):
        raise Corrupt(f"layer: a whiteout of nothing: {path[:80]!r}")
    return Whiteout(parent + b"/" + target if parent else target, opaque=False)


def admit(entry: TarEntry, path: bytes, policy: Policy) -> bool:
    """Say whether a member with the cleaned ``path`` becomes part of the layer.

    Corrupt when no layer may hold it: a root that is no directory, an empty or endless link target, a device
    that overlayfs would take for a whiteout.  Denied or False for devices that the policy refuses or drops.
    """
    kind = entry.kind
    if kind == stat.S_IFREG and path:
        return True
    if not path and (kind != stat.S_IFDIR or not entry.path):
        raise Corrupt(f"layer: {entry.path[:80]!r} would replace the root directory")
    if kind in (stat.S_IFLNK, HARDLINK) and not 0 < len(entry.link) < 4096:
        raise Corrupt(f"layer: {path[:80]!r} links to a target of {len(entry.link)} bytes")
    if kind in _DEVICES:
        return _admit_device(entry, path, policy)
    return True


def _admit_device(entry: TarEntry, path: bytes, policy: Policy) -> bool:
    if entry.kind == stat.S_IFCHR and not entry.major and not entry.minor:
        raise Corrupt(f"layer: {path[:80]!r} is a device 0:0, overlayfs' own sign of a whiteout")
    if policy.devices == "refuse":
        raise Denied(f"layer: {path[:80]!r} is a device node", hint="devices in layers are refused by policy")
    return policy.devices == "keep"


def admitted_xattrs(xattrs: Xattrs, kind: int, path: bytes) -> Xattrs:
    """Return the extended attributes that may become part of a layer (I-08); most members have none.

    ``user.*`` stays on files and directories (the kernel refuses it elsewhere), ``security.capability`` on
    files.  Labels, ACLs and integrity marks name things of the host they come from: they are left out.  The
    marks of overlayfs are an attack: Corrupt.
    """
    if not xattrs:
        return ()
    return tuple((name, value) for name, value in xattrs if _admit_xattr(name, value, kind, path))


def _admit_xattr(name: bytes, value: bytes, kind: int, path: bytes) -> bool:
    if name.startswith((b"trusted.overlay.", b"user.overlay.")):
        raise Corrupt(f"layer: {path[:80]!r} carries overlayfs' own attribute {name[:60]!r}")
    if len(name) > 255:
        raise Corrupt(f"layer: an attribute name of {len(name)} bytes at {path[:80]!r}")
    if name == b"security.capability":
        if not _valid_capability(value):
            raise Corrupt(f"layer: malformed file capabilities at {path[:80]!r}")
        return kind == stat.S_IFREG
    return name.startswith(b"user.") and len(name) > 5 and kind in (stat.S_IFREG, stat.S_IFDIR)


def _valid_capability(value: bytes) -> bool:
    """capabilities(7): revision 1 has one pair of words behind the magic, 2 has two, 3 also a root user ID.

    Revision 1 is no longer accepted by setxattr(2).
    """
    if len(value) not in (20, 24):
        return False
    revision = struct.unpack_from("<I", value)[0] >> 24
    return bool((len(value), revision) in ((20, 2), (24, 3)))
