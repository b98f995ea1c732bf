"""Layers by hand, and a plain model of what they show together: the rules of the OCI image spec, layer.md.

The model knows nothing of file systems: a tree is names with what they are, a layer changes it.
"""

from __future__ import annotations

import stat
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from mesocosm.images.tar.header import BLOCK, HARDLINK, TarEntry
from mesocosm.images.tar.writer import END, member
from mesocosm.model.idmap import IDMap

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
CAPABILITY: Final = "security.capability"
NOBODY: Final = 65534
"""The kernel's overflow user and group (/proc/sys/kernel/overflowuid): who an unmapped owner looks like."""

_WHEN: Final = 1_600_000_000_123_456_789
_ALLOWED: Final = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""linux/capability.h, struct vfs_cap_data of version 2: effective, CAP_NET_RAW."""


Xattrs = tuple[tuple[str, bytes], ...]


class Member(NamedTuple):
    """One member of a layer.  ``kind`` is of ``S_IFMT``, or HARDLINK; ``content`` a file's bytes, the target
    of a link; ``mtime`` in nanoseconds.
    """

    path: bytes
    kind: int = stat.S_IFREG
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = _WHEN
    content: bytes = b""
    xattrs: Xattrs = ()
    device: tuple[int, int] = (0, 0)


Layer = Sequence[Member]


class Shown(NamedTuple):
    """How one name looks.  ``content`` is a file's bytes or a link's target, ``device`` a node's numbers."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    content: bytes
    xattrs: Xattrs
    device: tuple[int, int]


class Tree(NamedTuple):
    """What a root shows below ``/``: its names, and which of them are one file."""

    names: dict[bytes, Shown]
    linked: frozenset[frozenset[bytes]]


def file(
    path: bytes,
    content: bytes = b"x",
    mode: int = 0o644,
    *,
    uid: int = 0,
    gid: int = 0,
    mtime: int = _WHEN,
    xattrs: Xattrs = (),
) -> Member:
    """A regular file."""
    return Member(path, stat.S_IFREG, mode, uid, gid, mtime, content, xattrs)


def directory(
    path: bytes, mode: int = 0o755, *, uid: int = 0, gid: int = 0, mtime: int = _WHEN, xattrs: Xattrs = ()
) -> Member:
    """A directory, described."""
    return Member(path, stat.S_IFDIR, mode, uid, gid, mtime, xattrs=xattrs)


def symlink(path: bytes, target: bytes) -> Member:
    """A symbolic link."""
    return Member(path, stat.S_IFLNK, 0o777, content=target)


def hardlink(path: bytes, target: bytes) -> Member:
    """One more name of a file of the same layer."""
    return Member(path, HARDLINK, content=target)


def removed(path: bytes) -> Member:
    """A whiteout: what lower layers have there is gone."""
    parent, slash, name = path.rpartition(b"/")
    return Member(parent + slash + WHITEOUT + name)


def emptied(path: bytes) -> Member:
    """An opaque directory: what lower layers have in it is gone."""
    return Member(path + b"/" + OPAQUE if path else OPAQUE)


LAYERS: Final[tuple[Layer, ...]] = (
    (
        directory(b"d", 0o711, uid=3, gid=4, mtime=-1_000_000_001),
        file(b"d/kept", b"k" * 10_000),
        file(b"d/replaced", b"old", 0o600),
        file(b"d/removed"),
        directory(b"d/sub"),
        file(b"d/sub/x"),
        directory(b"undescribed", 0o2750, uid=5, gid=6, mtime=1_234_567_890_987_654_321),
        file(b"undescribed/lower"),
        directory(b"opaque"),
        file(b"opaque/hidden"),
        directory(b"opaque/deep"),
        file(b"opaque/deep/hidden"),
        file(b"file-to-directory"),
        directory(b"directory-to-file"),
        file(b"directory-to-file/x"),
        symlink(b"link-to-directory", b"d"),
        symlink(b"link", b"/nowhere/\xff"),
        directory(b"there-and-back"),
        file(b"there-and-back/first"),
        file(b"set-uid", b"x", 0o6755, uid=1000, gid=100),
        file(b"closed", b"secret", 0),
        file(b"capable", xattrs=((CAPABILITY, _ALLOWED),)),
        file(b"attributes", xattrs=(("user.a", b"\x00\xff"), ("user.empty", b""))),
        Member(b"fifo", stat.S_IFIFO, 0o640, uid=7),
        Member(b"null", stat.S_IFCHR, 0o666, device=(1, 3)),
        file(b"one", b"linked", uid=8),
        hardlink(b"two", b"one"),
        hardlink(b"d/three", b"one"),
        directory(b"sticky", 0o1777),
        file(b"odd: ,\\\n\xff\xfe*", b"odd"),
        file(b"\xc3\xa4" * 127, b"long"),
        file(b"empty", b""),
    ),
    (),
    (
        directory(b"d", 0o750, xattrs=(("user.d", b"above"),)),
        file(b"d/replaced", b"new, and longer", mtime=4_102_444_800_000_000_001),
        removed(b"d/removed"),
        removed(b"d/sub"),
        removed(b"d/was-never-there"),
        file(b"undescribed/upper", b"added"),
        directory(b"opaque", 0o700),
        emptied(b"opaque"),
        file(b"opaque/shown"),
        directory(b"file-to-directory"),
        file(b"file-to-directory/y"),
        file(b"directory-to-file", b"now a file"),
        directory(b"link-to-directory"),
        file(b"link-to-directory/own"),
        symlink(b"there-and-back", b"d"),
        file(b"attributes", b"without"),
        removed(b"\xc3\xa4" * 127),
    ),
    (
        file(b"d/sub", b"a file again"),
        hardlink(b"d/sub-2", b"d/sub"),
        directory(b"opaque"),
        directory(b"opaque/deep"),
        file(b"opaque/third"),
        directory(b"there-and-back", 0o700),
        file(b"there-and-back/third"),
    ),
)
"""What layers do to each other, lowest first."""


def deep(count: int) -> tuple[Layer, ...]:
    """So many layers: each adds a file, replaces one, and takes away what the one below it added."""
    return tuple(
        (
            file(b"each", b"%d" % number, uid=number),
            file(b"own-%d" % number),
            *([removed(b"own-%d" % (number - 1))] if number % 2 else []),
        )
        for number in range(count)
    )


MANY: Final = 70
"""Layers that neither fit into an option string of one page nor are mounted one by one where they are files.
"""

ONE: Final = LAYERS[:1]
STACKS: Final[dict[str, tuple[Layer, ...]]] = {
    "no layers": (),
    "one layer": ONE,
    "an empty layer": ((),),
    "layers that change each other": LAYERS,
    "a layer that comes twice": (ONE[0], (removed(b"one"), file(b"set-uid", b"other")), ONE[0]),
    "a layer that hides everything": (
        (file(b"a"), directory(b"d"), file(b"d/x")),
        (emptied(b""), file(b"b")),
    ),
    f"{MANY} layers": deep(MANY),
}

THEIRS: Final = ((file(b"ours", uid=3, gid=4), directory(b"d", uid=5, gid=4), file(b"d/theirs", gid=1000)),)
"""Owners of whom a narrow mapping lacks some."""


def archive(layer: Layer) -> bytes:
    """The layer as a tar file."""
    return b"".join(_archived(one) for one in layer) + END


def stacked(layers: Iterable[Layer]) -> Tree:
    """What layers, lowest first, show together.

    A directory that a layer has but does not describe has to be there below it.
    """
    tree: dict[bytes, Member] = {}
    for layer in layers:
        for one in layer:
            _white_out(tree, one.path)
        for one in layer:
            _put(tree, one)
    names = defaultdict(set)
    for path, one in tree.items():
        names[id(one)].add(path)
    linked = frozenset(frozenset(paths) for paths in names.values() if len(paths) > 1)
    return Tree({path: _shown(one) for path, one in tree.items()}, linked)


def mapped(tree: Tree, idmap: IDMap) -> Tree:
    """The same with mapped owners: the root that a file capability is for is one, too."""
    return tree._replace(names={path: _mapped(one, idmap) for path, one in tree.names.items()})


def _archived(one: Member) -> bytes:
    is_file = one.kind == stat.S_IFREG
    entry = TarEntry(
        path=one.path,
        flag=0,
        kind=one.kind,
        mode=one.mode,
        uid=one.uid,
        gid=one.gid,
        size=len(one.content) if is_file else 0,
        mtime=one.mtime,
        link=b"" if is_file else one.content,
        major=one.device[0],
        minor=one.device[1],
        xattrs=tuple((name.encode(), value) for name, value in one.xattrs),
    )
    data = one.content if is_file else b""
    return member(entry) + data + bytes(-len(data) % BLOCK)


def _white_out(tree: dict[bytes, Member], path: bytes) -> None:
    parent, slash, name = path.rpartition(b"/")
    if name == OPAQUE:
        _remove_below(tree, parent + slash)
    elif name.startswith(WHITEOUT):
        _remove(tree, parent + slash + name.removeprefix(WHITEOUT))


def _put(tree: dict[bytes, Member], one: Member) -> None:
    if one.path.rpartition(b"/")[2].startswith(WHITEOUT):
        return
    found = tree[one.content] if one.kind == HARDLINK else one
    known = tree.get(one.path)
    if known is not None and not (known.kind == found.kind == stat.S_IFDIR):
        _remove(tree, one.path)
    tree[one.path] = found


def _remove(tree: dict[bytes, Member], path: bytes) -> None:
    tree.pop(path, None)
    _remove_below(tree, path + b"/")


def _remove_below(tree: dict[bytes, Member], prefix: bytes) -> None:
    for path in [path for path in tree if path.startswith(prefix)]:
        del tree[path]


def _shown(one: Member) -> Shown:
    return Shown(*one[1:])._replace(xattrs=tuple(sorted(one.xattrs)))


def _mapped(one: Shown, idmap: IDMap) -> Shown:
    uid, gid, root = idmap.uid(one.uid), idmap.gid(one.gid), idmap.uid(0)
    return one._replace(
        uid=NOBODY if uid is None else uid,
        gid=NOBODY if gid is None else gid,
        xattrs=tuple(
            (name, _for(root or 0, value) if name == CAPABILITY else value) for name, value in one.xattrs
        ),
    )


def _for(root: int, capability: bytes) -> bytes:
    """capabilities(7): of version 3, whose last field says whose root it is for."""
    (word,) = struct.unpack_from("<I", capability)
    return struct.pack("<I", word & 0x00FFFFFF | 0x03000000) + capability[4:] + struct.pack("<I", root)
