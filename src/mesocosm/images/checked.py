"""Records that tell when a bit of them has flipped.

    {"digest":"sha256:…","version":1,"check":"89abcdef"}

``check``, the last member, is the CRC-32 of the record as it would be without it.  It finds accidents: what
it says of a user, a layer, or a name would be believed otherwise.  Earlier versions wrote none.
"""

from __future__ import annotations

import re
import zlib
from typing import Final, TypeVar

import msgspec

from mesocosm.errors import Corrupt

_Record = TypeVar("_Record", bound=msgspec.Struct)
_CHECK = re.compile(rb',"check":"([0-9a-f]{8})"\}')
_LENGTH: Final = len(b',"check":"00000000"}')


def encode(record: msgspec.Struct) -> bytes:
    """Return a record, which has members, as its bytes in a file."""
    whole = msgspec.json.encode(record)
    return b'%b,"check":"%08x"}' % (whole[:-1], zlib.crc32(whole))


def decode(data: bytes, kind: type[_Record], what: object) -> _Record:
    """Return the record that a file's bytes hold; Corrupt, naming ``what``, for any others."""
    check = _CHECK.fullmatch(data, max(0, len(data) - _LENGTH))
    if check is not None:
        data = data[: check.start()] + b"}"
        if zlib.crc32(data) != int(check[1], 16):
            raise Corrupt(f"{what} is damaged: its check is another")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"{what} cannot be read") from error
