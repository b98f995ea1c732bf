"""What a signal to this command does: the topmost of those who want it decides."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

Act = Callable[[int], bool | None]
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Handlers in layers, on the running event loop.

    A signal that was ignored when we were started stays ignored, as ``nohup`` and a shell's ``&`` want it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._layers: dict[int, list[Act]] = {}

    @contextlib.contextmanager
    def handling(self, numbers: Iterable[int], act: Act) -> Iterator[None]:
        """While inside, ``act`` is called with each of these signals that arrives.

        When it answers False the signal goes to the layer below.
        """
        taken = [number for number in numbers if self._take(number, act)]
        try:
            yield
        finally:
            for number in taken:
                self._layers[number].pop()
                if not self._layers[number]:
                    self._loop.remove_signal_handler(number)
                    signal.signal(number, signal.SIG_DFL)

    def _take(self, number: int, act: Act) -> bool:
        layers = self._layers.setdefault(number, [])
        if not layers:
            if signal.getsignal(number) is signal.SIG_IGN:
                return False
            self._loop.add_signal_handler(number, self._arrived, number)
        layers.append(act)
        return True

    def _arrived(self, number: int) -> None:
        for act in reversed(self._layers.get(number, ())):
            if act(number) is not False:
                return

    async def heard(self) -> None:
        """Have every signal acted upon that has arrived by now.

        The loop takes three turns from the interpreter's note of a signal to the call of its handler.
        """
        for _ in range(3):
            await asyncio.sleep(0)

    @contextlib.contextmanager
    def ending(self, task: asyncio.Future[Any]) -> Iterator[list[int]]:
        """The first of INT, TERM and HUP cancels ``task``; the yielded list tells which came.

        Giving back may take a moment: the second signal is answered with that, the third cancels again.
        """
        came: list[int] = []

        def arrived(number: int) -> None:
            came.append(number)
            if len(came) == 2:
                with contextlib.suppress(OSError):
                    click.echo(
                        "mesocosm: giving back what was begun, once more leaves it half done", err=True
                    )
            else:
                task.cancel()

        with self.handling(ENDING, arrived):
            yield came
