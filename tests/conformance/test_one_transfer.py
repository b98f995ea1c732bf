"""A blob that several processes want at once comes once, whoever of them dies (Q-02, Q-16, Q-18)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from attacks.commandline import CommandLine
from crash import invariants
from fixtures.images import Layout
from fixtures.registry import Registry
from malicious_registry import Answer, Fault, MaliciousRegistry
from mesocosm.linux import inotify
from provisions import image_of, opened
from registry_fixtures import SmallImage, sha256, write_layout
from tarballs import file

SHARED = file(b"shared", os.urandom(6 << 20))
ONE = image_of([[SHARED], [file(b"one", b"1")]])
TWO = image_of([[SHARED], [file(b"two", b"2")]])
LAYER = sha256(ONE.layers[0])
HALF = len(ONE.layers[0]) // 2
PIECE = 1 << 20
"""Bytes that a client may have read and not written yet."""


def pushed(registry: Registry, folder: Path, image: SmallImage, name: str) -> str:
    return registry.push(Layout(write_layout(image, folder / name.replace("/", "-")), "latest"), f"{name}:1")


@pytest.mark.parametrize("images", [(ONE, ONE), (ONE, TWO)], ids=["one image", "two images"])
def test_q18_two_commands_that_pull_at_once(
    images: tuple[SmallImage, SmallImage], registry: Registry, tmp_path: Path
) -> None:
    """Each takes more than a second by its rate; of every blob the registry is asked once."""
    line = CommandLine(tmp_path)
    repository = f"once/{len(set(map(id, images)))}"
    names = [
        pushed(registry, tmp_path, image, f"{repository}/{number}") for number, image in enumerate(images)
    ]
    before = len(registry.requests())
    commands = [
        subprocess.Popen(
            line.words("pull", "-q", "--limit-rate", "4m", name),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=line.environment,
        )
        for name in names
    ]
    for command, image in zip(commands, images, strict=True):
        out, complaint = command.communicate(timeout=60)
        assert (command.returncode, out.strip()) == (0, image.digest), complaint
    asked = [request for request in registry.requests()[before:] if "/blobs/" in request]
    layers = Counter(request.rpartition("/")[2] for request in asked)
    wanted = {sha256(layer) for image in images for layer in image.layers}
    assert {digest: layers[digest] for digest in wanted} == dict.fromkeys(wanted, 1)
    assert invariants.broken(line.root / "images") == []


class Puller:
    """``mesocosm pull`` as a process that tells its progress."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, line: CommandLine, name: str) -> AsyncIterator[Puller]:
        """The command, under way; it is killed at the latest in the end."""
        words = line.words("pull", "--format", "json", name)
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=line.environment
        )
        try:
            yield cls(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    def kill(self) -> None:
        self._process.kill()

    async def has(self, layer: bytes) -> None:
        """Until it tells that a layer is there."""
        assert self._process.stdout is not None
        async for text in self._process.stdout:
            event = json.loads(text)
            if event.get("phase") == "download" and event["subject"] == sha256(layer) and event["finished"]:
                return
        raise AssertionError("it ended before")

    async def digest(self) -> str:
        """What it has pulled, once it has ended well."""
        out, complaint = await asyncio.wait_for(self._process.communicate(), 60)
        assert self._process.returncode == 0, complaint
        events = [json.loads(text) for text in out.splitlines()]
        [digest] = [str(event["digest"]) for event in events if event["event"] == "pulled"]
        return digest


async def grown(file: Path, size: int) -> None:
    """Until a file has so many bytes."""
    async with inotify.watch(str(file)) as changed:
        while file.stat().st_size < size:
            await changed()


def half(arrived: asyncio.Event, go_on: asyncio.Event) -> Fault:
    """Send one half of the body, and the other when it is told to."""

    async def fault(request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(answer.body[:HALF])
        arrived.set()
        await go_on.wait()
        await response.write(answer.body[HALF:])
        await response.write_eof()
        return response

    return fault


@pytest.mark.parametrize("other", ["a", "b"], ids=["the same image", "another image"])
@pytest.mark.parametrize("dies", [True, False])
async def test_q16_the_second_goes_on_where_the_first_was_killed(
    dies: bool, other: str, tmp_path: Path
) -> None:
    """While the first lives the second asks for nothing of the layer; when it dies, for the rest of it."""
    line = CommandLine(tmp_path)
    arrived, go_on = asyncio.Event(), asyncio.Event()
    image = ONE if other == "a" else TWO
    async with MaliciousRegistry() as registry:
        registry.add(ONE, "x/a", "latest")
        registry.add(TWO, "x/b", "latest")
        registry.on(f"/blobs/{LAYER}", half(arrived, go_on))
        async with Puller.of(line, f"{registry.host}/x/a") as first:
            await arrived.wait()
            await grown(line.root / "images/ingest" / LAYER.replace(":", "-"), HALF - PIECE)
            async with Puller.of(line, f"{registry.host}/x/{other}") as second:
                # layers are begun with in their order: when the upper one is there, it waits for the lower
                await second.has(image.layers[1])
                assert len(registry.paths(LAYER)) == 1
                if dies:
                    first.kill()
                else:
                    go_on.set()
                    assert await first.digest() == ONE.digest
                assert await second.digest() == image.digest
        ranges = [seen.headers.get("range", "") for seen in registry.seen if LAYER in seen.path]
    assert ranges[0] == "" and len(ranges) == (2 if dies else 1)
    for asked in ranges[1:]:
        assert HALF - PIECE <= int(asked.removeprefix("bytes=").removesuffix("-")) <= HALF
    assert invariants.broken(line.root / "images") == []
    async with opened(tmp_path) as provisioner:
        for one in await provisioner.images():
            assert (await provisioner.verify(one.digest)).sound
