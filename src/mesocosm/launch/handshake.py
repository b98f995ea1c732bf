"""What launcher, zygote, supervisor and child say to each other.  No I/O here.

Every message is one datagram of a SOCK_SEQPACKET socket: a JSON object of at most `LIMIT` bytes whose
``kind`` decides its other fields (`FIELDS`).  Descriptors travel beside it (SCM_RIGHTS), named by the
message.

    launcher                 spare supervisor            child (held in its namespaces)
       │  launch + descriptors    │
       ├─────────────────────────►│  clone3
       │                          ├──────────────────────────►│
       │                          │                 runs the plan's steps
       │◄──── forked ─────────────┤                           │
       │                          │◄──── ready ───────────────┤   or failed
       │◄──── created ────────────┤                           │   waits
       │                          │                           │
    any process, any time later   │                           │
       │  start (session socket)  │                           │
       ├─────────────────────────►├──── go ──────────────────►│
       │                          │                        execve
       │                          │◄─── end of file ─ ─ ─ ─ ─ ┘   or failed
       │◄──── done, failed ───────┤
       │  signal                  │
       ├─────────────────────────►│
       │◄──── done, refused ──────┤
       │  wait                    │
       ├─────────────────────────►│
       │◄──── ended ──────────────┤

With an init the child answers ``started`` once the payload runs and ``ended`` when it is over, because then
the socket stays open.  In an ``exec`` the child that ran the steps stays outside the container's PID
namespace; ``pid`` in ``ready`` is the one inside that goes on, else 0.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT = 1 << 16
"""Bytes in one message.  Plans travel as a descriptor, so nothing comes near."""

DESCRIPTORS = ("channel", "plan", "session", "stdout", "stderr", "index", "stdin", "cgroup")
"""Names that a ``launch`` message may give its descriptors, in this order; the first six are always there."""

FIELDS: dict[str, dict[str, type]] = {
    "launch": {"descriptors": list, "namespaces": list, "timing": bool},
    "forked": {"supervisor": list, "payload": list},
    "created": {"payload": list, "warnings": list, "timing": list},
    "failed": {"step": int, "errno": int, "detail": str, "status": int},
    "ready": {"pid": int, "warnings": list, "timing": list},
    "go": {},
    "started": {},
    "start": {},
    "signal": {"signal": int},
    "wait": {},
    "done": {},
    "refused": {"reason": str},
    "ended": {"code": int, "signal": int, "core": bool, "at": int},
}
"""Kind to fields and their types.

Identities are ``[pid, start time]``; ``step`` is an index into the plan's steps, -1 for what is no step; in
``ended`` the code is -1 after a signal, the signal 0 otherwise, ``at`` nanoseconds since the epoch.
"""


class Garbled(Exception):
    """A message that does not have the form it must have."""


def encode(kind: str, **fields: Any) -> bytes:
    """One message.  Raises Garbled when it is not of the form that `decode` accepts."""
    message = json.dumps({"kind": kind, **fields}).encode()
    _check(kind, fields)
    if len(message) > LIMIT:
        raise Garbled(f"message {kind} has {len(message)} bytes")
    return message


def decode(data: bytes, *expected: str) -> dict[str, Any]:
    """The fields of one message, ``kind`` among them.  Raises Garbled unless it is one of ``expected``."""
    if len(data) > LIMIT:
        raise Garbled("message too long")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise Garbled("message is not JSON") from None
    if not isinstance(message, dict):
        raise Garbled("message is not an object")
    kind = message.get("kind")
    if not isinstance(kind, str) or kind not in expected:
        raise Garbled(f"message is {kind!r}, not one of {', '.join(expected)}")
    _check(kind, {name: value for name, value in message.items() if name != "kind"})
    return message


def _check(kind: str, fields: dict[str, Any]) -> None:
    wanted = FIELDS.get(kind)
    if wanted is None or wanted.keys() != fields.keys():
        raise Garbled(f"message {kind} has fields {', '.join(fields)}")
    for name, value in fields.items():
        if type(value) is not wanted[name]:
            raise Garbled(f"field {name} of message {kind} is a {type(value).__name__}")


def identity(pair: list[Any]) -> tuple[int, int]:
    """``[pid, start time]`` as a pair of integers.  Raises Garbled."""
    if len(pair) != 2 or any(type(number) is not int or number < 0 for number in pair):
        raise Garbled("not a process identity")
    return pair[0], pair[1]
