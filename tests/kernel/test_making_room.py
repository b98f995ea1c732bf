"""What is given up, once, so that a pull goes on after the disk was full (Q-06; GAP-24)."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.test_automatic_collection import pulled, settled
from kernel.test_full_disk import MIB, layout, small_disk
from mesocosm.errors import Exhausted
from mesocosm.images.progress import Progress
from provisions import opened


async def test_q06_garbage_makes_room_where_a_blob_would_not_fit(tmp_path: Path) -> None:
    """Its size is known, so nothing of it is written before there is room."""
    old, new = layout(tmp_path / "old", 4 * MIB), layout(tmp_path / "new", 6 * MIB)
    with small_disk(tmp_path / "disk", 14 * MIB) as disk:
        async with opened(disk) as provisioner:
            provisioner.store.catalogue.unname((await provisioner.pull(old)).references[0])
            second = await provisioner.pull(new)
            assert [image.digest for image in await provisioner.images()] == [second.digest]


GIVEN_UP = 'collect-above = "40%"\ncollect-down-to = "30%"'


@pytest.mark.parametrize(
    ("size", "room"),
    [(4 * MIB, 14 * MIB), (3 * MIB, 43 * MIB // 4)],
    ids=["its layer does not fit", "its blob does not fit"],
)
async def test_q06_the_settings_give_up_what_has_a_name(size: int, room: int, tmp_path: Path) -> None:
    """No more than they say, once, and whoever pulls is told."""
    names = [layout(tmp_path / f"old-{number}", 2 * MIB) for number in range(2)]
    new, told = layout(tmp_path / "new", size), list[Progress]()
    with small_disk(tmp_path / "disk", room) as disk:
        async with settled(disk, "", told) as provisioner:
            old = await pulled(provisioner, names)
            await provisioner.pin(old[0])
            (disk / "images.toml").write_text(GIVEN_UP)
            fresh = await provisioner.pull(new)
            (disk / "images.toml").unlink()
            left = {image.digest for image in await provisioner.images()}
            assert left == {old[0], fresh.digest}
            await provisioner.unpin(old[0])
    [one] = [one.subject for one in told if one.subject.startswith(names[1])]
    assert "more than 40% of the disk in use" in one


@pytest.mark.parametrize(
    "text",
    ["", 'collect-above = "99%"', 'collect-older = "1h"', 'collect-above = "1%"', "collect-above = 1"],
    ids=["none", "mark not passed", "not old enough", "all of it young", "not understood"],
)
async def test_q06_what_the_settings_do_not_give_up_stays(text: str, tmp_path: Path) -> None:
    """The pull fails for its want of room, whatever is wrong with the settings."""
    old, new = layout(tmp_path / "old", 4 * MIB), layout(tmp_path / "new", 4 * MIB)
    with small_disk(tmp_path / "disk", 14 * MIB) as disk:
        async with settled(disk, "") as provisioner:
            kept = await provisioner.pull(old)
            await provisioner.automatic.settle()
            (disk / "images.toml").write_text(text)
            with pytest.raises(Exhausted, match="space"):
                await provisioner.pull(new)
            assert [image.digest for image in await provisioner.images()] == [kept.digest]
            assert list((disk / "state/images/ingest").iterdir()) == []


async def test_q06_room_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What still does not fit then fails, and what was given up is gone for nothing but once."""
    old, new = layout(tmp_path / "old", 2 * MIB), layout(tmp_path / "new", 12 * MIB)
    with small_disk(tmp_path / "disk", 14 * MIB) as disk:
        async with settled(disk, "") as provisioner:
            await pulled(provisioner, [old])
            (disk / "images.toml").write_text(GIVEN_UP.replace("40%", "10%").replace("30%", "0%"))
            made, make_room = list[bool](), provisioner.automatic.make_room

            async def counted() -> bool:
                made.append(await make_room())
                return made[-1]

            monkeypatch.setattr(provisioner.automatic, "make_room", counted)
            with pytest.raises(Exhausted, match="space"):
                await provisioner.pull(new)
            assert made == [True] and await provisioner.images() == []
