"""Collection that happens by itself: after a pull, between two water marks that the host's settings say.

    # /etc/mesocosm/images.toml
    collect-above = "85%"      # of the file system, or "20G" that images take: above this it begins
    collect-down-to = "75%"    # here it ends; 80 %, or nine tenths of the amount, where it is not said
    collect-older = "720h"     # images that nobody used for so long go in any case
    collect-spare = "1h"       # images used, or pulled, within this time stay; this is the default

Without the file, or without ``collect-above`` and ``collect-older``, nothing is collected by itself.  One
process at a time collects in a store (the lock ``collecting``); the lock that launches and pulls wait for is
held for one image at a time.  What is named, and not held, goes by last use; what has no name before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from mesocosm import durable
from mesocosm.errors import InvalidConfig, MesocosmError
from mesocosm.images.collect import Collector, Limits, Plan
from mesocosm.images.foreign import shown
from mesocosm.images.image_store import ImageStore
from mesocosm.images.progress import Phase, Progress, Report
from mesocosm.images.store_faults import store_faults
from mesocosm.images.transfer import in_thread
from mesocosm.images.water_marks import between
from mesocosm.model.size import parse_seconds

PATH: Final = Path("/etc/mesocosm/images.toml")
SIZE_LIMIT: Final = 1 << 20


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The file's content."""

    collect_above: str | None = None
    collect_down_to: str | None = None
    collect_older: str | None = None
    collect_spare: str = "1h"

    def limits(self) -> Limits | None:
        """The limits they set; None where nothing is to be collected.  Raises InvalidConfig."""
        spare = parse_seconds(self.collect_spare, "collect-spare")
        age = parse_seconds(self.collect_older, "collect-older") if self.collect_older else None
        marks = between(self.collect_above, self.collect_down_to, "collect-above", "collect-down-to")
        if marks is None and age is None:
            return None
        return msgspec.structs.replace(marks or Limits(), age=age, spare=spare)


def load(path: Path) -> Limits | None:
    """Return what a settings file says of collection; None when there is none.  Blocking; InvalidConfig."""
    try:
        with open(path, "rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidConfig(f"settings {path} cannot be read: {error.strerror}") from error
    if len(data) > SIZE_LIMIT:
        raise InvalidConfig(f"settings {path} are larger than {SIZE_LIMIT} bytes")
    try:
        return msgspec.convert(tomllib.loads(data.decode("utf-8")), type=Settings).limits()
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(Settings))
        raise InvalidConfig(f"settings {path}: {shown(error, 160)}", hint=f"known are {known}") from None
    except InvalidConfig as error:
        raise InvalidConfig(f"settings {path}: {error.message}", hint=error.hint) from None


class Automatic:
    """Collects in one store by a settings file.  Belongs to one event loop.

    ``trim`` unmounts layers that nobody holds; ``report`` is told of what went, and why.
    """

    def __init__(self, store: ImageStore, path: Path, trim: Callable[[], None], report: Report) -> None:
        self._store = store
        self._path = path
        self._trim = trim
        self._report = report
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def limits(self) -> Limits | None:
        """What the settings say now; None where nothing is collected by itself.  Blocking; InvalidConfig."""
        return load(self._path)

    def begin(self) -> None:
        """Collect meanwhile, unless that is under way.  What fails is told, and fails nothing else."""
        under_way = self._task is not None and not self._task.done()
        if self._path.exists() and not under_way:
            self._task = asyncio.ensure_future(self._in_background())

    async def settle(self) -> None:
        """Wait for what is under way; when that is cancelled, it ends with the image that it is at."""
        if self._task is None:
            return
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self._stopped = True
            await asyncio.wait([self._task])
            raise

    async def make_room(self) -> bool:
        """On a full disk: remove what nobody needs, and what the settings give up; tell of that.

        Answers whether it freed anything.
        """
        plan: Plan = await in_thread(self._make_room)
        self._tell(plan)
        return plan.size > 0

    def _make_room(self) -> Plan:
        self._trim()
        plan = Collector(self._store).collect()
        with contextlib.suppress(InvalidConfig):  # it is the disk that the pull fails for
            plan = plan.joined(self.collect(wait=True))
        return plan

    def plan(self) -> Plan:
        """Return what `collect` would remove now; blocking."""
        limits = self.limits()
        return Collector(self._store).room(limits) if limits else Plan()

    def collect(self, *, wait: bool) -> Plan:
        """Collect now; blocking.  Nothing where another process is at it, unless asked to ``wait`` for that.

        Raises InvalidConfig for settings that make no sense, and as `Collector.collect`.
        """
        limits = self.limits()
        if limits is None:
            return Plan()
        with (
            store_faults(self._store.root),
            durable.locked(self._store.root / "collecting", wait=wait) as held,
        ):
            if not held:
                return Plan()
            return self._collect(limits)

    def _collect(self, limits: Limits) -> Plan:
        collector = Collector(self._store)
        if not collector.is_due(limits):
            return Plan()
        self._trim()
        return collector.make_room(limits, lambda: self._stopped)

    async def _in_background(self) -> None:
        try:
            plan: Plan = await in_thread(lambda: self.collect(wait=False))
        except MesocosmError as error:
            self._report(Progress(Phase.COLLECT, f"nothing: {error}", finished=True))
            return
        self._tell(plan)

    def _tell(self, plan: Plan) -> None:
        for reason in plan.reasons:
            words = f"{reason.image}: {reason.why}"
            self._report(Progress(Phase.COLLECT, words, reason.size, reason.size, finished=True))
