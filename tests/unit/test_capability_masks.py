"""linux/capabilities: names and masks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.linux import capabilities
from mesocosm.linux.capabilities import ALL, DEFAULT, HARDENED, NAMES, adjusted, mask, names, number


def test_the_table_is_the_kernels() -> None:
    assert len(NAMES) == 41
    assert (number("CAP_CHOWN"), number("CAP_SETFCAP"), number("CAP_CHECKPOINT_RESTORE")) == (0, 31, 40)
    assert number("SYS_ADMIN") == number("cap_sys_admin") == 21
    assert capabilities.last() >= 40


def test_dockers_fourteen_and_podmans_eleven() -> None:
    """Attack R-17: the bounding set of a default container is exactly a80425fb."""
    assert DEFAULT == 0xA80425FB
    assert names(DEFAULT) == (
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SYS_CHROOT",
        "CAP_MKNOD",
        "CAP_AUDIT_WRITE",
        "CAP_SETFCAP",
    )
    assert set(names(DEFAULT)) - set(names(HARDENED)) == {"CAP_MKNOD", "CAP_NET_RAW", "CAP_AUDIT_WRITE"}


@pytest.mark.parametrize("word", ["", "CAP_", "CAP_CAP_CHOWN", "CHOWN ", "CHOWNS", "0", "21", "CAP_41"])
def test_unknown_names_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="capability"):
        mask([word])


@given(st.integers(0, ALL))
def test_names_and_masks_are_inverse(value: int) -> None:
    assert mask(names(value)) == value


def test_all() -> None:
    assert mask(["ALL"]) == mask(["all", "chown"]) == ALL
    assert names(1 << 50) == ("CAP_50",)


@pytest.mark.parametrize(
    ("add", "drop", "wanted"),
    [
        ([], [], DEFAULT),
        (["SYS_ADMIN"], [], DEFAULT | 1 << 21),
        ([], ["chown"], DEFAULT & ~1),
        ([], ["ALL"], 0),
        (["CHOWN"], ["ALL"], 1),
        (["ALL"], [], ALL),
        (["ALL"], ["MKNOD"], ALL & ~(1 << 27)),
        (["ALL"], ["ALL"], ALL),
        (["CHOWN", "KILL"], ["ALL", "KILL"], 1),
    ],
)
def test_docker_add_and_drop(add: list[str], drop: list[str], wanted: int) -> None:
    assert adjusted(DEFAULT, add, drop) == wanted
