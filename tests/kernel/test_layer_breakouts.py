"""The 34 named break-outs of containerd and umoci (attack rows I-01 to I-05), on every kind of layer.

Two-sided: the host folder beside the layer stays as it was, and what an honest archive of the same shape
means lands inside; or the archive is refused with a typed error and leaves nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from layers import SINKS, SinkKind, ingest, seen
from mesocosm.errors import Corrupt
from tarballs import Member, archive, directory, file, hardlink, symlink
from trees import snapshot

SECRET = b"the host's own"
REFUSED: dict[bytes, bytes] = {b"<refused>": b""}


class Case(NamedTuple):
    """``members`` may name the host folder as ``@HOST@``; ``lands`` maps paths inside to their content."""

    name: str
    members: tuple[Member, ...]
    lands: dict[bytes, bytes]


HOST = b"@HOST@"
UP = b"../" * 24

CASES = (
    Case(
        "SymlinkAbsolute",
        (directory(b"etc"), symlink(b"local", b"/etc"), file(b"local/in")),
        {b"etc/in": b"content"},
    ),
    Case(
        "SymlinkUpAndOut",
        (directory(b"etc"), symlink(b"local", b"../../../etc"), file(b"local/in")),
        {b"etc/in": b"content"},
    ),
    Case(
        "SymlinkMultipleAbsolute",
        (symlink(b"one", b"/two"), symlink(b"two", HOST), file(b"one/secret")),
        {b"@HOST@/secret": b"content"},
    ),
    Case(
        "SymlinkMultipleRelative",
        (symlink(b"one", b"two"), symlink(b"two", UP + b"@HOST@"), file(b"one/secret")),
        {b"@HOST@/secret": b"content"},
    ),
    Case("SymlinkEmptyFile", (symlink(b"empty", HOST + b"/secret"), file(b"empty", b"")), {b"empty": b""}),
    Case("HardlinkRelative", (hardlink(b"out", b"../HOST/secret"),), REFUSED),
    Case("HardlinkDownAndOut", (directory(b"a"), hardlink(b"out", b"a/../../HOST/secret")), REFUSED),
    Case("HardlinkAbsolute", (hardlink(b"out", HOST + b"/secret"),), REFUSED),
    Case("HardlinkRelativeLong", (hardlink(b"out", UP + b"@HOST@/secret"),), REFUSED),
    Case(
        "HardlinkRelativeUpAndOut",
        (directory(b"a/b"), hardlink(b"a/b/out", b"../../../HOST/secret")),
        REFUSED,
    ),
    Case(
        "HardlinkDirectRelative",
        (symlink(b"h", b"../HOST"), hardlink(b"out", b"h/secret"), file(b"out", b"overwrite")),
        REFUSED,
    ),
    Case(
        "HardlinkDirectAbsolute",
        (symlink(b"h", HOST), hardlink(b"out", b"h/secret"), file(b"out", b"overwrite")),
        REFUSED,
    ),
    Case(
        "SymlinkParentDirectory",
        (symlink(b"up", b".."), file(b"up/HOST/secret")),
        {b"HOST/secret": b"content"},
    ),
    Case("SymlinkEmptyFilename", (symlink(b"", HOST), file(b"secret")), REFUSED),
    Case(
        "SymlinkParentRelative",
        (directory(b"d"), symlink(b"d/up", b"../../HOST"), file(b"d/up/secret")),
        {b"HOST/secret": b"content"},
    ),
    Case(
        "SymlinkSlashEnded", (symlink(b"local/", HOST), file(b"local/secret")), {b"@HOST@/secret": b"content"}
    ),
    Case(
        "SymlinkOverrideDirectory",
        (directory(b"d"), file(b"d/x"), symlink(b"d", HOST), file(b"d/secret")),
        {b"@HOST@/secret": b"content"},
    ),
    Case(
        "SymlinkOverrideDirectoryRelative",
        (directory(b"d"), file(b"d/x"), symlink(b"d", b"../HOST"), file(b"d/secret")),
        {b"HOST/secret": b"content"},
    ),
    Case("SymlinkOverridePath", (symlink(b"p", HOST + b"/secret"), file(b"p")), {b"p": b"content"}),
    Case(
        "DirectoryOverrideSymlink",
        (symlink(b"d", HOST), directory(b"d"), file(b"d/secret")),
        {b"d/secret": b"content"},
    ),
    Case(
        "DirectoryOverrideSymlinkAndHardlink",
        (
            file(b"f"),
            symlink(b"d", HOST),
            hardlink(b"d2", b"d"),
            directory(b"d"),
            hardlink(b"d/secret", b"f"),
        ),
        {b"d/secret": b"content"},
    ),
    Case("WhiteoutRootParent", (file(b".wh..."),), REFUSED),
    Case("WhiteoutParent", (directory(b"etc"), file(b"etc/.wh...")), REFUSED),
    Case("WhiteoutRoot", (file(b".wh."),), REFUSED),
    Case("WhiteoutCurrentDirectory", (directory(b"etc"), file(b"etc/.wh..")), REFUSED),
    Case("WhiteoutSymlink", (symlink(b"h", HOST), file(b"h/.wh.secret"), file(b"in")), {b"in": b"content"}),
    Case(
        "WhiteoutSymlinkPath",
        (symlink(b"h", b"../HOST"), file(b"h/.wh.secret"), file(b"h/.wh..wh..opq"), file(b"in")),
        {b"in": b"content"},
    ),
    Case("WhiteoutDirectoryName", (directory(b".wh.etc"), file(b".wh.etc/x")), REFUSED),
    Case(
        "WhiteoutDeadSymlinkParent",
        (symlink(b"h", b"/nowhere"), file(b"h/.wh.secret"), file(b"in")),
        {b"in": b"content"},
    ),
    Case("WhiteoutRelativePath", (file(b"../HOST/.wh.secret"), file(b"in")), {b"in": b"content"}),
    Case(
        "HardlinkSymlinkBeforeCreateTarget",
        (symlink(b"l", HOST + b"/new"), hardlink(b"l2", b"l"), file(b"l2")),
        {b"l2": b"content"},
    ),
    Case(
        "HardlinkSymlinkRelative",
        (symlink(b"l", b"../HOST/secret"), hardlink(b"l2", b"l"), file(b"l2")),
        {b"l2": b"content"},
    ),
    Case(
        "HardlinkSymlinkAbsolute",
        (symlink(b"l", HOST + b"/secret"), hardlink(b"l2", b"l"), file(b"l2")),
        {b"l2": b"content"},
    ),
    Case(
        "HardlinkSymlinkChmod",
        (symlink(b"l", HOST + b"/secret"), hardlink(b"l2", b"l", mode=0o4777), file(b"in")),
        {b"in": b"content"},
    ),
)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder beside the layer, of the kind an attacker wants to reach."""
    folder = tmp_path / "HOST"
    folder.mkdir(mode=0o700)
    (folder / "secret").write_bytes(SECRET)
    (folder / "secret").chmod(0o600)
    os.mkfifo(folder / "fifo")
    return folder


def test_all_34_names_are_here() -> None:
    assert len({case.name for case in CASES}) == 34


def placed(text: bytes, host: Path) -> bytes:
    return text.replace(HOST, str(host).encode())


def on_host(case: Case, host: Path) -> bytes:
    """The archive with the host folder's real path in it."""
    return archive(
        *(each._replace(name=placed(each.name, host), link=placed(each.link, host)) for each in case.members)
    )


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_i01_to_i05_breakout(case: Case, kind: SinkKind, host: Path, tmp_path: Path) -> None:
    before = snapshot(host)
    target = tmp_path / "root"
    if case.lands is REFUSED:
        with pytest.raises(Corrupt):
            ingest(kind, target, on_host(case, host))
        assert not target.exists()
    else:
        ingest(kind, target, on_host(case, host))
        with seen(kind, target) as root:
            for path, content in case.lands.items():
                inside = os.fsencode(root) + b"/" + placed(path, host).lstrip(b"/")
                assert Path(os.fsdecode(inside)).read_bytes() == content
    assert snapshot(host) == before
    assert (host / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("kind", ["apply"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_i02_breakout_over_a_lower_layer(case: Case, kind: SinkKind, host: Path, tmp_path: Path) -> None:
    """Every way out already stands in the tree as a lower layer's link; the upper layer goes through it."""
    before = snapshot(host)
    target = tmp_path / "root"
    target.mkdir()
    for name in ("local", "one", "two", "up", "h", "d", "p", "l", "etc", "empty"):
        (target / name).symlink_to(host)
    try:
        ingest(kind, target, on_host(case, host))
    except Corrupt:
        assert case.lands is REFUSED
    else:
        for path, content in case.lands.items():
            assert (target / os.fsdecode(placed(path, host).lstrip(b"/"))).read_bytes() == content
    assert snapshot(host) == before
