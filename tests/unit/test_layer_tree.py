"""A layer's tree in memory: the short way by which nearly all files are put into it leads where the long one
does.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import MesocosmError
from mesocosm.images.erofs.sink import ErofsSink
from mesocosm.images.layers.tree import LayerTree, Node
from mesocosm.images.limits import Limits
from mesocosm.images.tar.header import HARDLINK, TarEntry

LIMITS = Limits(depth=4, path=24)

_PARTS = st.sampled_from([b"a", b"bb", b".", b"..", b"", b".h", b".wh.a", b".wh..wh..opq", b"n" * 20])
_PATHS = st.lists(_PARTS, min_size=1, max_size=5).map(b"/".join)
_KINDS = st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, HARDLINK])
_MEMBERS = st.lists(st.tuples(_PATHS, _KINDS, _PATHS), max_size=8)
"""Path, kind, and where a link leads."""


def outcome(members: list[tuple[bytes, int, bytes]], path: Path) -> object:
    """What a layer of empty files, directories and links becomes, or the error."""
    sink = ErofsSink(path, limits=LIMITS)
    try:
        for name, kind, link in members:
            target = link if kind in (stat.S_IFLNK, HARDLINK) else b""
            entry = TarEntry(name, 0, 0o644, 0, 0, 0, 0, target, kind)
            if kind == stat.S_IFREG:
                sink.whole(entry, memoryview(b""))
            else:
                sink.begin(entry)
        return shown(sink._tree.settle()[0])
    except MesocosmError as error:
        return type(error), error.message
    finally:
        sink.abort()


def shown(node: Node) -> object:
    """A node with all below it."""
    below = {name: shown(child) for name, child in (node.children or {}).items()}
    return node.mode, node.names, node.tail, node.opaque, node.implied, below


@given(_MEMBERS)
def test_the_short_way_leads_where_the_long_one_does(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[bytes, int, bytes]]
) -> None:
    """Whatever the names (I-01, I-04, I-05): dots, empty parts, hidden ones, whiteouts, beyond the limits."""
    path = tmp_path_factory.getbasetemp() / "layer"
    short = outcome(members, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerTree, "put_beside", lambda *_: False)
        assert outcome(members, path) == short


def test_the_short_way_is_taken() -> None:
    """By the second file of a directory, and by none that has to be looked at."""
    tree = LayerTree(LIMITS)
    tree.put(b"a/b", Node(stat.S_IFREG))
    assert tree.put_beside(b"a/c", Node(stat.S_IFREG))
    assert tree.put_beside(b"c", Node(stat.S_IFREG))
    for path in (b"d/e", b"a/", b"a//x", b"./x", b"a/.x", b"a/..", b"a/.wh.b", b"a/" + b"n" * 30):
        assert not tree.put_beside(path, Node(stat.S_IFREG)), path
