"""``--mount type=image``: the policy's word on such images, and for which platform they are (G-13; R-41)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks.commandline import Answer, CommandLine
from fixtures.host_settings import host_settings
from malicious_registry import MaliciousRegistry
from provisions import image_of
from registry_fixtures import write_index_layout
from tarballs import file

DATA = image_of([[file(b"data", b"data\n")]])
DIFF_ID = json.loads(DATA.config)["rootfs"]["diff_ids"][0]
REJECTING = '[[rule]]\nmatch = "127.0.0.1:*/data/*"\naction = "reject"\n'
REFUSALS = {
    REJECTING: "is rejected by policy",
    f'deny-layers = ["{DIFF_ID}"]': "which policy denies",
}
"""Policies, and what they answer."""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Path]:
    with host_settings(tmp_path) as folder:
        yield folder


async def mounting(line: CommandLine, root: Path, source: str, *options: str) -> Answer:
    """A container that shows what is mounted."""
    words = ("run", "--rm", "-q", *options, "--mount", f"type=image,source={source},target=/x")
    return await asyncio.to_thread(line, *words, f"dir:{root}", "cat", "/x/data")


def leases(line: CommandLine) -> list[Path]:
    return list((line.root / "images/leases").iterdir())


@pytest.mark.parametrize("policy", list(REFUSALS), ids=["rejected", "denied layer"])
async def test_g13_refused_before_it_is_fetched(
    policy: str, settings: Path, mesocosm: CommandLine, busybox_root: Path
) -> None:
    (settings / "policy.toml").write_text(policy)
    async with MaliciousRegistry() as registry:
        registry.add(DATA, "data/a", "latest")
        registry.add(DATA, "other/a", "latest")
        answer = await mounting(mesocosm, busybox_root, f"{registry.host}/data/a")
        assert REFUSALS[policy] in answer.refused()
        assert not registry.paths(json.loads(DATA.manifest)["layers"][0]["digest"])
        assert list((mesocosm.root / "images/layers").iterdir()) == [] == leases(mesocosm)
        assert mesocosm("ps", "-aq").accepted() == ""
        other = await mounting(mesocosm, busybox_root, f"{registry.host}/other/a")
        assert (other.status == 0) == (policy == REJECTING), other.err


@pytest.mark.parametrize("policy", list(REFUSALS), ids=["rejected", "denied layer"])
@pytest.mark.parametrize("named", ["by name", "by digest"])
async def test_g13_refused_before_a_start(
    policy: str, named: str, settings: Path, mesocosm: CommandLine, busybox_root: Path
) -> None:
    """It was pulled, and mounted, before the policy was made; policy is of the moment."""
    async with MaliciousRegistry() as registry:
        registry.add(DATA, "data/a", "latest")
        name = f"{registry.host}/data/a"
        assert (await mounting(mesocosm, busybox_root, name)).accepted() == "data\n"
        source = name if named == "by name" else DATA.digest
        registry.seen.clear()
        (settings / "policy.toml").write_text(policy)
        assert REFUSALS[policy] in (await mounting(mesocosm, busybox_root, source)).refused()
        assert leases(mesocosm) == [] and registry.seen == []
        assert mesocosm("ps", "-aq").accepted() == ""
        (settings / "policy.toml").unlink()
        assert (await mounting(mesocosm, busybox_root, source)).accepted() == "data\n"


async def test_g13_what_holds_for_the_root_holds_for_no_mount(
    settings: Path, mesocosm: CommandLine, busybox_root: Path
) -> None:
    """Each image of a container is judged by its own name."""
    accepting = f'default = "reject"\n[[rule]]\nmatch = "dir:{busybox_root}"\naction = "accept"\n'
    (settings / "policy.toml").write_text(accepting)
    assert mesocosm.run(busybox_root, "true").status == 0
    async with MaliciousRegistry() as registry:
        registry.add(DATA, "data/a", "latest")
        name = f"{registry.host}/data/a"
        (await mounting(mesocosm, busybox_root, name)).refused("rejected")
        (settings / "policy.toml").write_text(accepting.replace(f"dir:{busybox_root}", "127.0.0.1:*/data/*"))
        (await mounting(mesocosm, busybox_root, name)).refused("rejected")


async def test_each_mount_has_its_platform(mesocosm: CommandLine, busybox_root: Path, tmp_path: Path) -> None:
    """``platform=`` of the mount, else the container's, else the host's; a missing one is answered so."""
    images = {
        name: image_of([[file(b"data", name.encode() + b"\n")]], architecture=name)
        for name in ("amd64", "arm64")
    }
    write_index_layout(images, tmp_path / "layout")
    source = f"oci:{tmp_path / 'layout'}"

    async def shown(suffix: str, *options: str) -> Answer:
        return await mounting(mesocosm, busybox_root, f"{source}{suffix}", *options)

    assert (await shown("")).accepted() == "amd64\n"
    assert (await shown(",platform=linux/arm64")).accepted() == "arm64\n"
    assert (await shown(",platform=arm64")).accepted() == "arm64\n"
    assert (await shown("", "--platform", "linux/arm64")).accepted() == "arm64\n"
    assert (await shown(",platform=linux/amd64", "--platform", "linux/arm64")).accepted() == "amd64\n"
    (await shown(",platform=linux/s390x")).refused("s390x")
    (await shown(",platform=no/such/thing/at/all")).refused("platform")
    both = ("--mount", f"type=image,source={source},target=/y,platform=linux/arm64")
    words = ("run", "--rm", "-q", *both, "--mount", f"type=image,source={source},target=/x")
    answer = mesocosm(*words, f"dir:{busybox_root}", "cat", "/x/data", "/y/data")
    assert answer.accepted() == "amd64\narm64\n"
