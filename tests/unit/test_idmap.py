"""Mappings of user and group IDs: what is read, what is refused, what they answer."""

from __future__ import annotations

import msgspec
import pytest

from mesocosm.errors import InvalidConfig
from mesocosm.model.idmap import IDMap, IDRange, parse_idmap, require_root

GOOD = {"container": 0, "host": 1, "length": 1}


@pytest.mark.parametrize(
    ("text", "uids", "gids"),
    [
        ("0:100000:65536", ((0, 100000, 65536),), ((0, 100000, 65536),)),
        ("0-100000-65536", ((0, 100000, 65536),), ((0, 100000, 65536),)),
        ("0:1000:1#1:100000:65535", ((0, 1000, 1), (1, 100000, 65535)), ((0, 1000, 1), (1, 100000, 65535))),
        ("uids=0-1-10#10-11-10;gids=0-100-10", ((0, 1, 10), (10, 11, 10)), ((0, 100, 10),)),
        ("gids=5:6:1;uids=7:8:1", ((7, 8, 1),), ((5, 6, 1),)),
        ("0:0:4294967295", ((0, 0, 4294967295),), ((0, 0, 4294967295),)),
        ("4294967294:4294967294:1",) + (((4294967294, 4294967294, 1),),) * 2,
    ],
)
def test_what_is_read(
    text: str, uids: tuple[tuple[int, int, int], ...], gids: tuple[tuple[int, int, int], ...]
) -> None:
    mapping = parse_idmap(text)
    assert mapping == IDMap(
        uids=tuple(IDRange(*one) for one in uids), gids=tuple(IDRange(*one) for one in gids)
    )
    assert parse_idmap(mapping.describe()) == mapping


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a range"),
        ("0", "not a range"),
        ("0:1", "not a range"),
        ("0:1:2:3", "not a range"),
        ("0:1-2", "not a range"),
        ("-1:0:1", "not a range"),
        ("0:-1:1", "not a range"),
        (" 0:1:1", "not a range"),
        ("0:1:1\n", "not a range"),
        ("0:1:1#", "not a range"),
        ("0x0:1:1", "not a range"),
        ("٠:1:1", "not a range"),
        ("0:99999999999:1", "not a range"),
        ("0:1:0", "empty"),
        ("0:4294967295:1", "beyond 4294967294"),
        ("4294967295:0:1", "beyond 4294967294"),
        ("0:1:4294967295", "beyond 4294967294"),
        ("0:100:10#5:200:10", "overlap on the container's side"),
        ("0:100:10#10:105:10", "overlap on the host's side"),
        ("0:1:1#0:1:1", "overlap"),
        ("uids=0:1:1", "maps only uids"),
        ("gids=0:1:1", "maps only gids"),
        ("uids=0:1:1;uids=0:1:1", "not a mapping"),
        ("uids=0:1:1;gids=0:1:1;", "not a mapping"),
        ("uids=0:1:1;pids=0:1:1", "not a mapping"),
        ("uids=;gids=0:1:1", "not a range"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidConfig, match=why) as raised:
        parse_idmap(text, "--idmap")
    assert raised.value.hint or "beyond" in why or "overlap" in why


def test_as_many_ranges_as_the_kernel_takes() -> None:
    """340 of them where they are short; fewer where their numbers fill a page."""
    short = "#".join(f"{n}:{n + 1}:1" for n in range(0, 680, 2))
    assert len(parse_idmap(short).uids) == 340
    with pytest.raises(InvalidConfig, match="341 ranges"):
        parse_idmap(f"{short}#900:900:1")
    with pytest.raises(InvalidConfig, match="200 ranges"):
        parse_idmap("#".join(f"{4_000_000_000 + n}:{4_000_000_000 + n}:1" for n in range(200)))


def test_whom_an_id_becomes() -> None:
    mapping = parse_idmap("uids=0:1000:1#5:100000:10;gids=0:7:2")
    assert list(map(mapping.uid, (0, 1, 4, 5, 14, 15))) == [1000, None, None, 100000, 100009, None]
    assert [mapping.gid(number) for number in (0, 1, 2)] == [7, 8, None]
    assert mapping.owner == (1000, 7)
    assert parse_idmap("uids=1:1000:1;gids=0:7:2").owner is None
    assert parse_idmap("uids=0:1000:1;gids=1:7:2").owner is None


def test_a_roots_mapping_has_root_and_never_the_hosts() -> None:
    require_root(parse_idmap("0:1000:1#1:100000:65535"), "x")
    for text, why in (
        ("1:100000:5", "does not map root"),
        ("uids=0:100000:5;gids=1:100000:5", "does not map root"),
        ("0:0:65536", "maps to the host's root"),
        ("0:100000:1#1:0:1", "maps to the host's root"),
        ("uids=0:100000:5;gids=0:0:5", "maps to the host's root"),
    ):
        with pytest.raises(InvalidConfig, match=why) as raised:
            require_root(parse_idmap(text), "--idmap")
        assert raised.value.hint


@pytest.mark.parametrize(
    "record",
    [
        {"uids": [], "gids": [GOOD]},
        {"uids": [{**GOOD, "host": -1}], "gids": [GOOD]},
        {"uids": [GOOD], "gids": [{**GOOD, "length": -1}]},
    ],
)
def test_a_mapping_from_python_is_checked_as_well(record: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        msgspec.convert(record, IDMap)
