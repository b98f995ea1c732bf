"""``run --rm`` of what ends, and is forgotten, before anybody has looked: the status is told all the same."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from mesocosm.errors import NotFound
from mesocosm.frontends.cli import edge
from mesocosm.frontends.cli.verbs import run
from mesocosm.logs import Chunk
from mesocosm.model import ContainerConfig, ContainerID, Exit, Termination


class Hasty:
    """A containerizer whose container is forgotten while somebody asks how it is."""

    def __init__(self) -> None:
        self.forgotten = False
        self.removed = False

    async def create(self, config: ContainerConfig, *, container: ContainerID, stdin: int | None) -> None:
        assert config.auto_remove

    async def start(self, container: ContainerID) -> None:
        pass

    def plan(self, container: ContainerID) -> None:
        pass

    async def status(self, container: ContainerID) -> None:
        if self.forgotten:
            raise NotFound(f"no container {container}")
        self.forgotten = hasattr(self, "asked")
        self.asked = True

    async def wait(self, container: ContainerID) -> Termination:
        if self.forgotten:
            raise NotFound(f"no container {container}")
        return Termination(reason="exited", exit=Exit(code=7, finished_at=1.0))

    async def remove(self, container: ContainerID, *, force: bool) -> None:
        self.removed = True

    async def logs(self, container: ContainerID, *, follow: bool) -> AsyncIterator[Chunk]:
        nothing: tuple[Chunk, ...] = ()
        for chunk in nothing:
            yield chunk


def test_what_is_forgotten_at_once_has_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hasty = Hasty()

    @contextlib.asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[Hasty]:
        yield hasty

    monkeypatch.setattr(run, "opened", opened)
    assert edge.run(["run", "--rm", "host", "true"]) == 7
    assert capsys.readouterr().err == ""
    assert hasty.forgotten and not hasty.removed
