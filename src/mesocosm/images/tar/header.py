"""One tar header block, and the records that extend it: v7, ustar, star, GNU, PAX.

Sources: POSIX.1-2017 pax(1) "ustar Interchange Format" and "pax Extended Header"; tar(5) of libarchive; the
GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".  Headers are hostile (attacks I-10, I-11):
digits are checked as digits, numbers as ranges, and whatever two readers could read differently is Corrupt.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import stat
import struct
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import msgspec
from isal.isal_zlib import adler32

from mesocosm.errors import Corrupt, Exhausted
from mesocosm.images.limits import Limits

BLOCK = 512
_ZEROES = bytes(BLOCK)
HARDLINK = 0
"""``TarEntry.kind`` of a hard link, where others have their ``S_IFMT`` bits."""

MAX_ID = 2**32 - 2
MAX_SECONDS = 1 << 43
"""Times beyond some 280,000 years are refused: no file system keeps them, and nanoseconds would overflow."""

Extents = tuple[tuple[int, int], ...]
"""(offset, length) of a sparse file's data, ascending, without overlap."""

_KINDS = {
    ord("0"): stat.S_IFREG,
    0: stat.S_IFREG,
    ord("7"): stat.S_IFREG,
    ord("S"): stat.S_IFREG,
    ord("1"): HARDLINK,
    ord("2"): stat.S_IFLNK,
    ord("3"): stat.S_IFCHR,
    ord("4"): stat.S_IFBLK,
    ord("5"): stat.S_IFDIR,
    ord("6"): stat.S_IFIFO,
}

_FILE = ord("0")
_PLAIN = (0, _FILE)

_FIELDS = struct.Struct("100s24s12s12s8sB")
"""Name; mode and owners; size; time; checksum; type."""

_OCTAL = re.compile(rb"[ ]*([0-7]*)[ \0]*", re.ASCII)
_DECIMAL = re.compile(rb"[0-9]{1,19}", re.ASCII)
_TIME = re.compile(rb"(-?)([0-9]{1,14})(?:\.([0-9]*))?", re.ASCII)
_ADLER = 65521
_REMEMBERED = 4096
"""Fields whose meaning is remembered: an archive's members have few owners, modes and seconds."""


class TarEntry(msgspec.Struct, gc=False):
    """One member as the archive describes it, nothing cleaned yet; only its reader changes it.

    ``path`` and ``link`` (target of a symbolic or hard link) are raw bytes without NUL.  ``flag`` is the type
    byte, ``kind`` what it means: ``S_IFREG``, ``S_IFDIR``, ``S_IFLNK``, ``S_IFCHR``, ``S_IFBLK``, ``S_IFIFO``
    or `HARDLINK`; ``mode`` the lower twelve bits.
    ``size`` is the file's apparent size, ``stored`` the bytes of it in the archive, at ``offset`` of the
    stream; they differ when ``extents`` is not None (sparse).  ``mtime`` is in nanoseconds since the epoch.
    ``xattrs`` are (name, value) as found.
    """

    path: bytes
    flag: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    kind: int = -1
    major: int = 0
    minor: int = 0
    offset: int = 0
    stored: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    extents: Extents | None = None


def number(field: bytes, what: str) -> int:
    """Return an octal or base-256 number field; Corrupt unless it is one of the two, whole."""
    digits = field.rstrip(b" \0")
    if digits.isdigit():  # ASCII digits only: it is bytes that are asked
        try:
            return int(digits, 8)
        except ValueError:
            pass  # an 8 or a 9
    return _odd_number(field, what)


def _odd_number(field: bytes, what: str) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (8 * len(field) - 1)
        return value
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise Corrupt(f"tar header: {what} is not a number: {field!r}")
    return int(match[1] or b"0", 8)


def bounded(value: int, low: int, high: int, what: str) -> int:
    """Return ``value``, or Corrupt when it is not within ``low`` and ``high``."""
    if not low <= value <= high:
        raise Corrupt(f"tar header: {what} is out of range: {value}")
    return value


def text(field: bytes, what: str) -> bytes:
    """Return a NUL-padded string field; bytes behind the first NUL are Corrupt (I-11: two readers, two
    names).
    """
    value, _, rest = field.partition(b"\0")
    if rest and not _ZEROES.startswith(rest) and rest.strip(b"\0"):
        raise Corrupt(f"tar header: {what} holds a NUL: {field[:80]!r}")
    return value


_NO_HEADER = "it is no tar archive, or a damaged one"


def check_sum(block: bytes, field: bytes) -> None:
    """Check a header's sum; historic writers added signed bytes, so both readings pass.

    The low half of Adler-32 is one plus the sum of all bytes modulo 65521, which makes the usual case two C
    calls; isal's takes a third of zlib's time.
    """
    try:
        stored = number(field, "checksum")
    except Corrupt:
        raise Corrupt("tar header: no checksum", hint=_NO_HEADER) from None
    found = (adler32(block) & 0xFFFF) - (adler32(field) & 0xFFFF) + 256
    if (found - stored) % _ADLER and not _sum_matches(block, stored):
        raise Corrupt("tar header: wrong checksum", hint=_NO_HEADER)


def _sum_matches(block: bytes, stored: int) -> bool:
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    return stored in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def parse_header(block: bytes, offset: int) -> TarEntry:
    """Return what a member's 512-byte header says; Corrupt unless its fields are well-formed.  ``offset``: of
    the member's data in the stream.
    """
    name, owned, size, time, checksum, flag = _FIELDS.unpack_from(block)
    check_sum(block, checksum)
    path = _prefixed(block, text(name, "name")) if block[345] else text(name, "name")
    link = text(block[157:257], "link name") if block[157] else b""
    mode, uid, gid = _mode_and_owners(owned)
    length = number(size, "size")
    kind = stat.S_IFREG if flag == _FILE and path[-1:] != b"/" else kind_of(flag, path)
    entry = TarEntry(path, flag, mode, uid, gid, length, _time(time), link, kind, 0, 0, offset, length)
    if flag == 51 or flag == 52:
        entry.major = number(block[329:337], "device number")
        entry.minor = number(block[337:345], "device number")
    return entry


def extension_size(block: bytes) -> int:
    """Return the size of the extended header whose 512-byte header this is; nothing else in it counts."""
    check_sum(block, block[148:156])
    return number(block[124:136], "size")


@functools.lru_cache(_REMEMBERED)
def _mode_and_owners(fields: bytes) -> tuple[int, int, int]:
    mode = number(fields[:8], "mode") & 0o7777
    uid = bounded(number(fields[8:16], "user ID"), 0, MAX_ID, "user ID")
    return mode, uid, bounded(number(fields[16:], "group ID"), 0, MAX_ID, "group ID")


@functools.lru_cache(_REMEMBERED)
def _time(field: bytes) -> int:
    return bounded(number(field, "time"), -MAX_SECONDS, MAX_SECONDS, "time") * 1_000_000_000


def _prefixed(block: bytes, name: bytes) -> bytes:
    """The name behind its prefix; v7 has none, GNU keeps times and sparse maps in its place."""
    if block[257:263] != b"ustar\0":
        return name
    end = 476 if block[508:512] == b"tar\0" else 500
    return text(block[345:end], "name prefix") + b"/" + name


def kind_of(flag: int, path: bytes) -> int:
    """Return the kind of a member; v7 archives mark a directory by a slash only.  Unknown types are
    Corrupt.
    """
    kind = _KINDS.get(flag)
    if kind == stat.S_IFREG:
        return stat.S_IFDIR if path[-1:] == b"/" and flag in _PLAIN else kind
    if kind is None:
        raise Corrupt(f"tar: unknown member type {chr(flag)!r} for {path[:80]!r}")
    return kind


# --- PAX records --------------------------------------------------------------------------------------------

Records = list[tuple[bytes, bytes]]


def parse_records(body: bytes) -> Records:
    """Return the ``key=value`` records of an extended header in their order; Corrupt unless well-formed."""
    records: Records = []
    position = 0
    size = len(body)
    while position < size:
        space = body.find(b" ", position, position + 21)
        digits = body[position:space] if space > 0 else b""
        if not (digits.isdigit() and len(digits) < 20):  # bytes.isdigit() knows ASCII digits only
            raise Corrupt("tar: an extended header's record has no length")
        end = position + int(digits)
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if end > size or end < space + 3 or body[end - 1] != 0x0A or not equals or not key:
            raise Corrupt("tar: malformed record in an extended header")
        records.append((key, value))
        position = end
    return records


def decimal(value: bytes, what: str, high: int = 2**63 - 1) -> int:
    """Return a record's unsigned decimal, at most ``high``; Corrupt otherwise."""
    if not _DECIMAL.fullmatch(value):
        raise Corrupt(f"tar: {what} is not a number: {value[:40]!r}")
    return bounded(int(value), 0, high, what)


def nanoseconds(value: bytes) -> int:
    """Return a record's time in nanoseconds, rounded down; Corrupt when it is none."""
    whole, _, fraction = value.partition(b".")
    if whole.isdigit() and len(whole) < 12 and fraction.isdigit() and len(fraction) < 10:
        return int(whole) * 1_000_000_000 + int(fraction.ljust(9, b"0"))
    match = _TIME.fullmatch(value)
    if match is None:
        raise Corrupt(f"tar: not a time: {value[:40]!r}")
    seconds = bounded(int(match[2]), 0, MAX_SECONDS, "time") * 1_000_000_000
    fraction = match[3] or b""
    nanos = int((fraction[:9] + b"0" * 9)[:9])
    if not match[1]:
        return seconds + nanos
    return -(seconds + nanos + (1 if fraction[9:].strip(b"0") else 0))


def _no_nul(value: bytes, what: str) -> bytes:
    if 0 in value:
        raise Corrupt(f"tar: {what} holds a NUL: {value[:80]!r}")
    return value


_OVERRULED: dict[bytes, tuple[str, Callable[[bytes], bytes | int]]] = {
    b"mtime": ("mtime", nanoseconds),
    b"path": ("path", functools.partial(_no_nul, what="path")),
    b"linkpath": ("link", functools.partial(_no_nul, what="link path")),
    b"size": ("size", functools.partial(decimal, what="size")),
    b"uid": ("uid", functools.partial(decimal, what="user ID", high=MAX_ID)),
    b"gid": ("gid", functools.partial(decimal, what="group ID", high=MAX_ID)),
    b"SCHILY.devmajor": ("major", functools.partial(decimal, what="device number")),
    b"SCHILY.devminor": ("minor", functools.partial(decimal, what="device number")),
}


_OWN = frozenset((b"path", b"linkpath", b"size"))
_OWN_PREFIXES = (b"GNU.sparse.", b"SCHILY.xattr.", b"SCHILY.dev", b"LIBARCHIVE.xattr.")


def check_global(records: Records) -> None:
    """Check what an archive says of all members to come: Corrupt for what is one member's own.

    Only some readers apply global headers (pax(1) does, Go's and libarchive's do not): a name, a size or an
    attribute in them means another tree to each.
    """
    for key, _ in records:
        if key in _OWN or key.startswith(_OWN_PREFIXES):
            raise Corrupt(f"tar: a global header gives all members one {key[:60]!r}")


_PASSED_OVER = frozenset((b"atime", b"ctime", b"uname", b"gname"))


def apply_records(entry: TarEntry, records: dict[bytes, bytes]) -> bool:
    """Let extended records overrule the header's fields, and say whether there are others.

    An empty value falls back to the field (pax(1)).
    """
    others = False
    for key, value in records.items():
        overruled = _OVERRULED.get(key)
        if overruled is None:
            others = others or key not in _PASSED_OVER
        elif value:
            attribute, meaning = overruled
            setattr(entry, attribute, meaning(value))
    return others


def xattrs_of(records: dict[bytes, bytes], limits: Limits) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes among the records: star's raw form, and libarchive's as base64.

    libarchive writes both forms; the raw one counts.  Exhausted above the limits (I-08).
    """
    found: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key[:1] not in b"SL":
            continue
        if key.startswith(b"SCHILY.xattr."):
            found[_no_nul(key[13:], "attribute name")] = value
        elif key.startswith(b"LIBARCHIVE.xattr."):
            name = _no_nul(unquote_to_bytes(key[17:]), "attribute name")
            found.setdefault(name, _base64(value))
    if len(found) > limits.xattrs:
        raise Exhausted(f"tar: a member has {len(found)} extended attributes, more than {limits.xattrs}")
    if sum(len(name) + len(value) for name, value in found.items()) > limits.xattr_bytes:
        raise Exhausted(f"tar: a member's extended attributes are larger than {limits.xattr_bytes} bytes")
    return tuple(sorted(found.items()))


def _base64(value: bytes) -> bytes:
    """libarchive leaves the padding out."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise Corrupt("tar: an extended attribute is not base64") from None
