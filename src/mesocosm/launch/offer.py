"""What a spare waits with."""

from __future__ import annotations

import ctypes

from mesocosm.launch import bare, descriptors, entry
from mesocosm.launch.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mesocosm.launch.channel import Socket


class Offer:
    """What all spares share: descriptors, and memory laid out before they were forked.

    ``requests``  the socket that requests come by
    ``take``      a pipe to say by that one was taken, with the supervisor's pid
    ``null``      /dev/null
    ``ahead``     the kinds of namespaces that spares are made in, for their children
    ``request``   room for the request
    ``ended``     what to sleep on first: the end of a child
    """

    __slots__ = ("_kept", "ahead", "ended", "null", "request", "requests", "take")

    def __init__(self, requests: Socket, *, take: int, null: int) -> None:
        self.requests = requests.fileno()
        self.take = take
        self.null = null
        self.ahead = entry.AHEAD
        self.request = Request()
        self._kept = ctypes.create_string_buffer(bare.EPOLL_EVENT.pack(bare.EPOLLIN, descriptors.SIGNALS))
        self.ended = ctypes.addressof(self._kept)
