"""What a spare waits with."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesocosm.launch.channel import Socket


class Offer:
    """The ways to and from one kind of spare; the descriptors are shared by all of them.

    ``requests``  the socket that requests come by
    ``take``      a pipe to say by that one was taken, with the supervisor's pid
    ``null``      /dev/null
    ``alive``     a pipe that ends with the zygote
    ``memory``    the private writable memory of all, as ``(address, length)``
    ``foresight`` the file with the last lesson, `foresight.Foresight`
    ``lessons``   the socket to teach by
    ``fresh``     whether the child is made in namespaces of its own
    """

    __slots__ = ("alive", "foresight", "fresh", "lessons", "memory", "null", "requests", "take")

    def __init__(
        self,
        requests: Socket,
        *,
        take: int,
        null: int,
        alive: int,
        memory: list[tuple[int, int]],
        foresight: int,
        lessons: Socket,
        fresh: bool,
    ) -> None:
        self.requests = requests
        self.take = take
        self.null = null
        self.alive = alive
        self.memory = memory
        self.foresight = foresight
        self.lessons = lessons
        self.fresh = fresh
