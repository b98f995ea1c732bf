"""One table of what layers hold and do to each other: each row an image, and what its root has to show.

Whoever makes a root of an image is measured by it: every backend, and GNU tar and umoci where they can say
the same.  Sockets are missing because a tar archive has no type for them.
"""

from __future__ import annotations

from typing import NamedTuple

from tarballs import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARDLINK,
    Member,
    directory,
    file,
    hardlink,
    padded,
    symlink,
)

Facts = dict[str, object]
Layers = list[list[Member]]


class Row(NamedTuple):
    """``layers`` lowest first; ``shows`` some fields of `trees.Seen` by name, and no other name.

    ``umoci``, ``tar``: whether these make the same tree, and in which fields they do not; ``free`` are fields
    in which backends may differ.
    """

    layers: Layers
    shows: dict[bytes, Facts]
    umoci: bool = True
    tar: bool = True
    ignore: tuple[str, ...] = ()
    free: tuple[str, ...] = ()


CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
NAMESPACED = bytes.fromhex("010000030004000000000000000000000000000000000100")
SECOND = 1_000_000_000
LONGEST = b"n" * 255
ODD = b"\xff\xfe\x80 \t\\:,*?[\x7f"
MIB, GIB = 1 << 20, 1 << 30
MANY = 50_000


def dated(name: bytes, when: bytes, kind: bytes = b"0") -> Member:
    """A member whose time stands in an extended header."""
    return Member(name, kind, mode=0o755, link=b"a" if kind == b"2" else b"", pax=((b"mtime", when),))


def with_attribute(name: bytes, key: bytes, value: bytes, kind: bytes = b"0") -> Member:
    """A member with an extended attribute."""
    return Member(name, kind, mode=0o755, pax=((b"SCHILY.xattr." + key, value),))


def sparse(name: bytes, size: int, extents: list[tuple[int, bytes]]) -> Member:
    """A sparse file in GNU tar's PAX form 1.0: the map, in whole blocks, then the data."""
    lines = [len(extents)] + [number for at, data in extents for number in (at, len(data))]
    head = padded("".join(f"{line}\n" for line in lines).encode())
    records = (
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", name),
        (b"GNU.sparse.realsize", b"%d" % size),
    )
    assert len(head) % BLOCK == 0
    return Member(b"GNUSparseFile.0/x", data=head + b"".join(data for _, data in extents), pax=records)


def kind(name: str, **more: object) -> Facts:
    """What a file of a kind shows."""
    return {"kind": name, **more}


A_FILE, A_DIRECTORY = kind("file"), kind("directory")

ROWS: dict[str, Row] = {
    "holes": Row(
        [
            [
                sparse(b"middle", 8 * MIB, [(MIB, b"a" * 4096), (4 * MIB, b"b" * 8192)]),
                sparse(b"all hole", 3 * MIB, [(3 * MIB, b"")]),
                sparse(b"end", 2 * MIB + 4096, [(2 * MIB, b"z" * 4096)]),
                file(b"zeroes", bytes(64 << 10)),
            ]
        ],
        {
            b"middle": kind("file", size=8 * MIB, data=((MIB, MIB + 4096), (4 * MIB, 4 * MIB + 8192))),
            b"all hole": kind("file", size=3 * MIB, data=()),
            b"end": kind("file", data=((2 * MIB, 2 * MIB + 4096),)),
            b"zeroes": kind("file", data=((0, 64 << 10),)),
        },
        tar=False,  # takes the end of the last data for the file's end, unless the map goes on
        ignore=("data",),  # umoci fills holes
    ),
    "more than 4 GiB": Row(
        [[sparse(b"huge", 5 * GIB, [(0, b"first" + bytes(4091)), (9 * GIB // 2, b"last" * 1024)])]],
        {b"huge": kind("file", size=5 * GIB, stored=256 << 10)},
        umoci=False,  # writes five gigabytes of zeroes
        tar=False,
        free=("data",),  # an EROFS file has holes in whole chunks
    ),
    "hard links": Row(
        [
            [
                file(b"a", b"linked"),
                directory(b"d"),
                hardlink(b"d/b", b"a"),
                hardlink(b"c", b"./d/b"),
                symlink(b"s", b"a"),
                Member(b"s2", HARDLINK, link=b"s"),
                Member(b"pipe", FIFO, mode=0o600),
                Member(b"pipe2", HARDLINK, link=b"pipe"),
            ]
        ],
        {
            b"a": kind("file", nlink=3),
            b"d": A_DIRECTORY,
            b"d/b": kind("file", nlink=3, same_as=b"a"),
            b"c": kind("file", nlink=3, same_as=b"a"),
            b"s": kind("symlink", nlink=2),
            b"s2": kind("symlink", nlink=2, target=b"a", same_as=b"s"),
            b"pipe": kind("fifo", nlink=2),
            b"pipe2": kind("fifo", nlink=2, same_as=b"pipe"),
        },
    ),
    "hard links that a higher layer parts": Row(
        [
            [file(b"a", b"one"), hardlink(b"b", b"a"), hardlink(b"c", b"a")],
            [file(b"b", b"two"), hardlink(b"d", b"b"), file(b".wh.c", b"")],
        ],
        {
            b"a": kind("file", size=3),
            b"b": kind("file", nlink=2),
            b"d": kind("file", nlink=2, same_as=b"b"),
        },
        tar=False,
        free=("nlink", "same_as"),  # overlayfs tells how many names the lower layer's file has
    ),
    "attributes": Row(
        [
            [
                with_attribute(b"capable", b"security.capability", CAPABILITY),
                with_attribute(b"user", b"user.a", b"\x00\xff"),
                with_attribute(b"long", b"user." + b"k" * 200, b"v" * 3000),
                with_attribute(b"d", b"user.d", b"directory", DIRECTORY),
            ],
            [with_attribute(b"d", b"user.e", b"above", DIRECTORY), file(b"user", b"without")],
        ],
        {
            b"capable": kind("file", xattrs=(("security.capability", CAPABILITY),)),
            b"user": kind("file", xattrs=()),
            b"long": kind("file", xattrs=(("user." + "k" * 200, b"v" * 3000),)),
            b"d": kind("directory", xattrs=(("user.e", b"above"),)),
        },
        tar=False,
    ),
    "attributes that umoci leaves out": Row(
        [
            [
                with_attribute(b"empty", b"user.empty", b""),
                with_attribute(b"v3", b"security.capability", NAMESPACED),
            ]
        ],
        {
            b"empty": kind("file", xattrs=(("user.empty", b""),)),
            b"v3": kind("file", xattrs=(("security.capability", NAMESPACED),)),
        },
        umoci=False,
        tar=False,
    ),
    "times": Row(
        [
            [
                dated(b"nanoseconds", b"1234567890.123456789"),
                dated(b"before 1970", b"-86400.25"),
                dated(b"1901", b"-2147483648"),
                dated(b"after 2038", b"4102444800.000000001"),
                dated(b"after 2106", b"9999999999.5"),
                dated(b"d", b"-1.000000001", DIRECTORY),
                dated(b"link", b"1.999999999", b"2"),
                dated(b"fifo", b"2147483648.5", FIFO),
            ]
        ],
        {
            b"nanoseconds": kind("file", mtime=1_234_567_890_123_456_789),
            b"before 1970": kind("file", mtime=-86_400_250_000_000),
            b"1901": kind("file", mtime=-2_147_483_648 * SECOND),
            b"after 2038": kind("file", mtime=4_102_444_800 * SECOND + 1),
            b"after 2106": kind("file", mtime=9_999_999_999 * SECOND + SECOND // 2),
            b"d": kind("directory", mtime=-SECOND - 1),
            b"link": kind("symlink", mtime=SECOND + 999_999_999),
            b"fifo": kind("fifo", mtime=2_147_483_648 * SECOND + SECOND // 2),
        },
        ignore=("mtime",),  # umoci has no time after 2106
    ),
    "nodes": Row(
        [
            [
                Member(b"null", CHARACTER, mode=0o666, device=(1, 3)),
                Member(b"disk", BLOCK_DEVICE, mode=0o660, gid=6, device=(259, 70_000)),
                Member(b"pipe", FIFO, mode=0o640, uid=7),
                Member(b"replaced", FIFO, mode=0o640),
                file(b"file"),
            ],
            [file(b"replaced", b"now a file"), Member(b"file", CHARACTER, mode=0o600, device=(1, 5))],
        ],
        {
            b"null": kind("character device", device=0x103, mode=0o666),
            b"disk": kind("block device", mode=0o660, gid=6),
            b"pipe": kind("fifo", mode=0o640, uid=7),
            b"replaced": A_FILE,
            b"file": kind("character device", device=0x105),
        },
        tar=False,
    ),
    "names": Row(
        [
            [
                file(LONGEST, b"longest"),
                file(b"m" * 255, b"to be removed"),
                directory(b"o" * 255),
                file(b"o" * 255 + b"/" + b"p" * 255, b"below"),
                file(ODD, b"odd"),
                file(b"\xc3\xa4 \xe2\x82\xac", b"UTF-8"),
                file(b".wh", b"no whiteout"),
                file(b"a\nb", b"a line feed"),
                symlink(b"odd link", ODD),
                symlink(b"long link", b"/x" * 500),
            ],
            [file(b".wh." + b"m" * 255, b"")],
        ],
        {
            LONGEST: kind("file", size=7),
            b"o" * 255: A_DIRECTORY,
            b"o" * 255 + b"/" + b"p" * 255: kind("file", size=5),
            ODD: kind("file", size=3),
            b"\xc3\xa4 \xe2\x82\xac": A_FILE,
            b".wh": A_FILE,
            b"a\nb": A_FILE,
            b"odd link": kind("symlink", target=ODD),
            b"long link": kind("symlink", target=b"/x" * 500),
        },
        tar=False,
    ),
    "the longest link": Row(
        [[symlink(b"link", b"l" * 4095)]],
        {b"link": kind("symlink", target=b"l" * 4095)},
    ),
    "opaque directories": Row(
        [
            [directory(b"o"), file(b"o/hidden"), directory(b"o/d"), file(b"o/d/x"), directory(b"p")],
            [
                directory(b"o", 0o700),
                file(b"o/.wh..wh..opq", b""),
                file(b"o/shown"),
                file(b"p/below/.wh..wh..opq", b""),
            ],
            [directory(b"o/d"), file(b"o/d/y"), file(b"o/third")],
        ],
        {
            b"o": kind("directory", mode=0o700),
            b"o/shown": A_FILE,
            b"o/d": A_DIRECTORY,
            b"o/d/y": A_FILE,
            b"o/third": A_FILE,
            b"p": A_DIRECTORY,
            b"p/below": A_DIRECTORY,
        },
        umoci=False,  # gives a directory that nobody described the time of its own making
        tar=False,
    ),
    "whiteouts": Row(
        [
            [
                *(directory(b"d"), file(b"d/x"), directory(b"d/deep"), file(b"d/deep/y"), file(b"f")),
                *(symlink(b"s", b"d"), Member(b"pipe", FIFO), directory(b"kept"), file(b"kept/z")),
            ],
            [
                *(file(b".wh.d", b""), file(b".wh.f", b""), file(b".wh.s", b""), file(b".wh.pipe", b"")),
                *(file(b".wh.missing", b""), file(b"kept/.wh.neither", b"")),
            ],
            [directory(b"d", 0o711), file(b"d/new")],
        ],
        {
            b"d": kind("directory", mode=0o711),
            b"d/new": A_FILE,
            b"kept": kind("directory", mtime=1_600_000_000 * SECOND),
            b"kept/z": A_FILE,
        },
        umoci=False,  # a directory that only a whiteout stands in gets the time of the unpacking
        tar=False,
    ),
    "directory to file to directory": Row(
        [
            [directory(b"a"), file(b"a/1"), directory(b"b"), file(b"b/1"), file(b"c")],
            [file(b"a", b"a file"), symlink(b"b", b"a"), directory(b"c"), file(b"c/2")],
            [directory(b"a", 0o700), file(b"a/3"), directory(b"b"), file(b"b/3"), symlink(b"c", b"b")],
        ],
        {
            b"a": kind("directory", mode=0o700),
            b"a/3": A_FILE,
            b"b": A_DIRECTORY,
            b"b/3": A_FILE,
            b"c": kind("symlink", target=b"b"),
        },
        tar=False,
    ),
    "modes and owners": Row(
        [
            [
                file(b"set-uid", b"x", 0o4755),
                file(b"set-gid", b"x", 0o2755),
                file(b"both", b"x", 0o6711),
                directory(b"sticky", 0o1777),
                directory(b"set-gid d", 0o2775),
                file(b"closed", b"x", 0),
                Member(b"large", uid=65_536, gid=70_000, mode=0o4711),
                Member(b"largest", uid=2**32 - 2, gid=2**32 - 2),
                Member(b"by name", b"5", mode=0o755, uid=1, gid=2),
            ]
        ],
        {
            b"set-uid": kind("file", mode=0o4755),
            b"set-gid": kind("file", mode=0o2755),
            b"both": kind("file", mode=0o6711),
            b"sticky": kind("directory", mode=0o1777),
            b"set-gid d": kind("directory", mode=0o2775),
            b"closed": kind("file", mode=0),
            b"large": kind("file", uid=65_536, gid=70_000, mode=0o4711),
            b"largest": kind("file", uid=2**32 - 2, gid=2**32 - 2),
            b"by name": kind("directory", uid=1, gid=2),
        },
    ),
    "empty layers": Row(
        [[], [file(b"a")], [], [], [file(b"b")], []],
        {b"a": A_FILE, b"b": A_FILE},
        tar=False,
    ),
    "one name more than once": Row(
        [
            [
                *(file(b"a", b"first"), file(b"a", b"second", 0o600)),
                *(file(b"b", b"file"), directory(b"b"), file(b"b/x")),
                *(symlink(b"c", b"a"), file(b"c", b"no link")),
                *(directory(b"d", 0o700), directory(b"d", 0o711), file(b"d/x")),
            ]
        ],
        {
            b"a": kind("file", size=6, mode=0o600),
            b"b": A_DIRECTORY,
            b"b/x": A_FILE,
            b"c": kind("file", size=7),
            b"d": kind("directory", mode=0o711),
            b"d/x": A_FILE,
        },
    ),
    "names with a head": Row(
        [
            [
                directory(b"./"),
                *(directory(b"./d/"), file(b"./d/x"), file(b"/absolute"), directory(b"//twice//")),
                *(file(b"twice/./y"), hardlink(b"./hard", b"/absolute")),
            ]
        ],
        {
            b"d": A_DIRECTORY,
            b"d/x": A_FILE,
            b"absolute": kind("file", nlink=2),
            b"twice": A_DIRECTORY,
            b"twice/y": A_FILE,
            b"hard": kind("file", nlink=2, same_as=b"absolute"),
        },
    ),
    "children before parents": Row(
        [
            [
                *(file(b"a/b/c"), directory(b"a/b", 0o750), directory(b"a", 0o711)),
                *(hardlink(b"early", b"a/b/c"), Member(b"a/b/pipe", FIFO)),
            ],
            [file(b"a/b/d"), directory(b"a/b", 0o700)],
        ],
        {
            b"a": kind("directory", mode=0o711, mtime=1_600_000_000 * SECOND),
            b"a/b": kind("directory", mode=0o700, mtime=1_600_000_000 * SECOND),
            b"a/b/c": kind("file", nlink=2),
            b"a/b/d": A_FILE,
            b"a/b/pipe": kind("fifo"),
            b"early": kind("file", nlink=2),
        },
        umoci=False,  # a directory keeps the time of the last unpacking into it
        tar=False,
    ),
    "directories nobody described": Row(
        [
            [
                Member(b"etc", DIRECTORY, mode=0o750, uid=5, pax=((b"SCHILY.xattr.user.a", b"kept"),)),
                file(b"etc/old"),
            ],
            [file(b"etc/new"), file(b"opt/app/bin")],
            [file(b"opt/app/lib")],
        ],
        {
            b"etc": kind(
                "directory", mode=0o750, uid=5, mtime=1_600_000_000 * SECOND, xattrs=(("user.a", b"kept"),)
            ),
            b"etc/old": A_FILE,
            b"etc/new": A_FILE,
            b"opt": kind("directory", mode=0o755, mtime=0),
            b"opt/app": kind("directory", mode=0o755, mtime=0),
            b"opt/app/bin": A_FILE,
            b"opt/app/lib": A_FILE,
        },
        umoci=False,
        tar=False,
    ),
    "a huge directory": Row(
        [
            [directory(b"d"), *(file(b"d/%05d" % number, b"") for number in range(MANY))],
            [file(b"d/.wh.00007", b""), file(b"d/more", b"")],
        ],
        {
            b"d": A_DIRECTORY,
            **{b"d/%05d" % number: A_FILE for number in range(MANY) if number != 7},
            b"d/more": A_FILE,
        },
        umoci=False,  # takes minutes for what it says of the other rows
        tar=False,
    ),
}
