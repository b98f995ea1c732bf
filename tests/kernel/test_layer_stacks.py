"""Random stacks of layers: every way of putting them together shows the tree that a small model says
(I-05).
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from layers import SINKS, SinkKind, ingest, mounted, seen, stacked
from mesocosm.errors import Corrupt
from mesocosm.images.digest import Digest
from mesocosm.images.erofs.merge import write_merged
from tarballs import Member, archive, directory, file, hardlink, symlink
from trees import Seen, snapshot

CHAIN = Digest("sha256", "cd" * 32)


@dataclass
class Leaf:
    """A file or link of the model, by identity: hard links share one."""

    text: str


@dataclass
class Dir:
    """A directory of the model."""

    look: tuple[int, int] | None = None
    opaque: bool = False
    gone: set[bytes] = field(default_factory=set)
    names: dict[bytes, Leaf | Dir] = field(default_factory=dict)


class Refused(Exception):
    """The layer makes no sense."""


def way(root: Dir, path: bytes, hops: int = 40) -> Dir:
    """The directory at a path of one layer, made when missing, links followed inside the root."""
    done: list[bytes] = []
    todo = [part for part in path.split(b"/") if part]
    while todo:
        part = todo.pop(0)
        if part == b"..":
            del done[-1:]
            continue
        here = root
        for name in done:
            here = here.names[name]  # type: ignore[assignment]
        found = here.names.setdefault(part, Dir())
        if isinstance(found, Dir):
            done.append(part)
        elif found.text.startswith("link ") and hops:
            hops -= 1
            target = found.text[5:].encode()
            if target.startswith(b"/"):
                done = []
            todo = [each for each in target.split(b"/") if each not in (b"", b".")] + todo
        else:
            raise Refused
    here = root
    for name in done:
        here = here.names[name]  # type: ignore[assignment]
    return here


def exists(root: Dir, path: bytes) -> Leaf | None:
    """The file at a path of one layer, nothing made on the way."""
    import copy

    trial = copy.deepcopy(root)
    parent, _, name = path.rpartition(b"/")
    before = repr(trial)
    try:
        way(trial, parent)
    except Refused:
        return None
    if repr(trial) != before:
        return None
    found = way(root, parent).names.get(name)
    if isinstance(found, Dir):
        raise Refused
    return found


def model_layer(members: list[Member]) -> Dir:
    """One layer, applied blindly."""
    root = Dir()
    for each in members:
        parent, _, name = each.name.rpartition(b"/")
        if each.kind == b"1":
            leaf = exists(root, each.link)
            if leaf is None:
                raise Refused
            put(way(root, parent), name, leaf)
        elif name == b".wh..wh..opq":
            way(root, parent).opaque = True
        elif name.startswith(b".wh."):
            way(root, parent).gone.add(name[4:])
        elif each.kind == b"5":
            here = way(root, parent)
            old = here.names.get(name)
            if not isinstance(old, Dir):
                put(here, name, Dir())
                old = here.names[name]
                assert isinstance(old, Dir)
            old.look = (each.mode, each.mtime)
        else:
            text = "link " + each.link.decode() if each.kind == b"2" else f"file {each.data.decode()}"
            put(way(root, parent), name, Leaf(text))
    return root


def put(here: Dir, name: bytes, node: Leaf | Dir) -> None:
    """The last of a name wins; a directory in the place of something else hides what is below."""
    if name in here.names and isinstance(node, Dir):
        node.opaque = True
    here.names[name] = node


def lay(lower: Dir, upper: Dir) -> Dir:
    """Lay one layer over what is there."""
    result = Dir(look=upper.look or (None if upper.opaque else lower.look))
    if not upper.opaque:
        result.names = {name: node for name, node in lower.names.items() if name not in upper.gone}
    for name, node in upper.names.items():
        if isinstance(node, Dir):
            old = result.names.get(name)
            result.names[name] = lay(old if isinstance(old, Dir) else Dir(), node)
        else:
            result.names[name] = node
    return result


def shown(tree: Dir, prefix: bytes = b"") -> dict[bytes, str]:
    """The model's tree as text; a directory nobody described is 0755 at the epoch."""
    found: dict[bytes, str] = {}
    for name, node in tree.names.items():
        if isinstance(node, Dir):
            mode, mtime = node.look or (0o755, 0)
            found[prefix + name] = f"dir {mode:o} {mtime}"
            found |= shown(node, prefix + name + b"/")
        else:
            found[prefix + name] = node.text
    return found


def as_text(root: Path) -> dict[bytes, str]:
    """A real tree in the model's words."""

    def text(path: bytes, look: Seen) -> str:
        if look.kind == "directory":
            return f"dir {look.mode:o} {look.mtime // 10**9}"
        if look.kind == "symlink":
            return "link " + look.target.decode()
        return "file " + (root / path.decode()).read_text()

    return {path: text(path, look) for path, look in snapshot(root).items() if path != b"."}


def without_looks(tree: dict[bytes, str]) -> dict[bytes, str]:
    """overlayfs shows an upper directory's look even where no member described it."""
    return {path: "dir" if text.startswith("dir ") else text for path, text in tree.items()}


PARTS = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map(b"/".join)
TARGETS = st.sampled_from([b"a", b"/b", b"../c", b"a/b", b"/", b"..", b"c/.."])
NUMBERS = st.integers(0, 9)


def under(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name


MEMBERS = st.one_of(
    st.builds(lambda path, n: file(path, b"%d" % n), PATHS, NUMBERS),
    st.builds(lambda path, n: directory(path, 0o700 + n)._replace(mtime=n), PATHS, NUMBERS),
    st.builds(symlink, PATHS, TARGETS),
    st.builds(hardlink, PATHS, PATHS),
    st.builds(lambda path, name: file(under(path, b".wh." + name), b""), PATHS, PARTS),
    st.builds(lambda path: file(under(path, b".wh..wh..opq"), b""), PATHS),
    st.builds(lambda name: file(b".wh." + name, b""), PARTS),
)
STACKS = st.lists(st.lists(MEMBERS, max_size=9), min_size=1, max_size=4)
NO_LINK_WAYS = st.one_of(
    st.builds(lambda path, n: [file(path, b"%d" % n)], PATHS, NUMBERS),
    st.builds(lambda path, n: [directory(path, 0o700 + n)._replace(mtime=n)], PATHS, NUMBERS),
    st.builds(lambda path, name: [directory(path), file(under(path, b".wh." + name), b"")], PATHS, PARTS),
    st.builds(lambda name: [file(b".wh." + name, b"")], PARTS),
)


def model_stack(layers: list[list[Member]]) -> Dir | None:
    """The whole stack, or None when a layer makes no sense."""
    tree = Dir()
    try:
        for members in layers:
            tree = lay(tree, model_layer(members))
    except Refused:
        return None
    return tree


@pytest.mark.slow
@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(STACKS)
@example([[file(b"d/old"), file(b"f/old")], [file(b".wh.d", b""), file(b"d/new"), file(b"f/new")]])
@example([[file(b"d/old")], [file(b"d/new"), file(b".wh.d", b"")]])
def test_i05_every_backend_shows_the_model(layers: list[list[Member]]) -> None:
    model = model_stack(layers)
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            for kind in SINKS:
                with pytest.raises(Corrupt):
                    build(kind, Path(folder), layers)
            return
        expected = shown(model)
        flat = Path(folder) / "apply-flat"
        for members in layers:
            ingest("apply", flat, archive(*members))
        assert as_text(flat) == expected
        for kind in SINKS[1:]:
            paths = build(kind, Path(folder), layers)
            with contextlib.ExitStack() as stack:
                lowers = [stack.enter_context(seen(kind, path)) for path in paths]
                root = stack.enter_context(stacked(Path(folder) / f"{kind}-stack", lowers))
                assert without_looks(as_text(root)) == without_looks(expected)
            if kind != "overlay":
                merged = Path(folder) / f"{kind}-merged"
                write_merged(merged, paths, CHAIN)
                with mounted(merged, paths) as root:
                    assert as_text(root) == expected


def build(kind: SinkKind, folder: Path, layers: list[list[Member]]) -> list[Path]:
    """Each layer by itself."""
    paths = []
    for index, members in enumerate(layers):
        paths.append(folder / f"{kind}-{index}")
        ingest(kind, paths[-1], archive(*members))
    return paths


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(NO_LINK_WAYS, min_size=1, max_size=8), min_size=1, max_size=3))
def test_i05_same_as_umoci(stacks: list[list[list[Member]]]) -> None:
    """umoci follows links of lower layers, has no name for directories nobody described, and makes none for a
    whiteout: such layers are not compared.
    """
    layers = [[member for group in groups for member in group] for groups in stacks]
    model = model_stack(layers)
    if model is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        flat = Path(folder) / "flat"
        for members in layers:
            ingest("apply", flat, archive(*members))
        theirs = unpacked_by_umoci([archive(*members) for members in layers], Path(folder))
        if theirs is not None:
            assert without_looks(as_text(flat)) == without_looks(as_text(theirs))


def unpacked_by_umoci(blobs: list[bytes], folder: Path) -> Path | None:
    """The stack as umoci unpacks it; None when it refuses a file of a lower layer on the way."""
    image = f"{folder}/layout:latest"
    commands = [["umoci", "init", "--layout", f"{folder}/layout"], ["umoci", "new", "--image", image]]
    for index, blob in enumerate(blobs):
        layer = folder / f"umoci-{index}.tar"
        layer.write_bytes(blob)
        commands.append(["umoci", "raw", "add-layer", "--image", image, str(layer)])
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    target = folder / "umoci"
    command = ["umoci", "raw", "unpack", "--image", image, str(target)]
    return target if subprocess.run(command, capture_output=True).returncode == 0 else None
