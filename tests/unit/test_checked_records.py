"""Records with a check: no flipped bit is believed (Q-20)."""

from __future__ import annotations

import msgspec
import pytest

from listed_images import APP
from mesocosm.errors import Corrupt
from mesocosm.images import checked
from mesocosm.images.image import RefRecord
from mesocosm.images.leases import Lease

REF = RefRecord(reference="docker://example.org/a:1", digest=APP.digest, etag='"x"', checked_at=1.5)
LEASE = Lease(owner="pin-x", digests=(APP.digest,), layers=(APP.image_id,))


@pytest.mark.parametrize("record", [REF, LEASE], ids=["name", "lease"])
def test_every_flipped_bit_is_found(record: RefRecord | Lease) -> None:
    """One within the member's own name leaves all else as it was."""
    whole = checked.encode(record)
    assert checked.decode(whole, type(record), "it") == record
    found = 0
    for at in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        try:
            assert checked.decode(bytes(flipped), type(record), "it") == record
        except Corrupt as error:
            assert "it" in error.message
            found += 1
    assert found >= 8 * (len(whole) - len(b',"check":"00000000"}'))


def test_a_record_of_an_earlier_version_has_no_check() -> None:
    whole = msgspec.json.encode(REF)
    assert checked.decode(whole, RefRecord, "it") == REF
    with pytest.raises(Corrupt):
        checked.decode(whole[:-1], RefRecord, "it")


def test_members_that_are_not_known_count_in_it() -> None:
    """A newer version may add some."""
    whole = checked.encode(REF)
    body, _, check = whole.rpartition(b",")
    assert b"check" in check
    more = body + b',"more":[1]' + b"," + check
    with pytest.raises(Corrupt):
        checked.decode(more, RefRecord, "it")

    class Newer(RefRecord, frozen=True, kw_only=True):
        more: tuple[int, ...] = (1,)

    newer = Newer(**msgspec.structs.asdict(REF))
    assert checked.decode(checked.encode(newer), RefRecord, "it") == REF
