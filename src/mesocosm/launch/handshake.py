"""What launcher, child and supervisor say to each other.  No I/O here.

    launcher                                                     supervisor (spare, waiting)
       │  launch + descriptors                                        │
       ├─────────────────────────────────────────────────────────────►│
       │                            child ◄──── clone3 ───────────────┤
       │                              │  lock, sockets, pipes         │
       │                              │  the plan's steps             │
       │◄──── created, or failed ─────┤                               │
       │                              ├── HELD pid ──────────────────►│
       │                              │  waits at the gate            │  closes what is not its own
    any process, any time later       │                               │
       │  start (socket ``gate``)     │                               │
       ├─────────────────────────────►│                               │
       │◄──── failed ─────────────────┤── FAILED ────────────────────►│
       │◄──── or end of file ─ ─ ─ ─  execve                          │
       │                              │                               │
       │  a connection to ``socket``, never answered                  │
       ├─────────────────────────────────────────────────────────────►│
       │◄──── end of file ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┤  exit.json is written

Messages with the launcher are datagrams of SOCK_SEQPACKET sockets: a JSON object of at most `LIMIT` bytes
whose ``kind`` decides its other fields (`FIELDS`).  Descriptors travel beside it (SCM_RIGHTS), named by the
message.  Before a ``launch`` stand the arguments of clone3(2) for the supervisor.

Notes to the supervisor, which keeps no more of the language in memory than it must, are a letter and bytes.
"""

from __future__ import annotations

from mesocosm.launch import documents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT = 1 << 16
"""Bytes in one message.  Plans travel as a descriptor, so nothing comes near."""

DESCRIPTORS = ("cgroup", "channel", "plan", "session", "stdout", "stderr", "index", "stdin")
"""Names that a ``launch`` message may give its descriptors, in this order."""
OPTIONAL = ("cgroup", "stdin")
"""Those of them that may be missing."""

FIELDS: dict[str, dict[str, type]] = {
    "launch": {"descriptors": list, "timing": bool},
    "created": {"supervisor": list, "payload": list, "warnings": list, "timing": list},
    "failed": {"supervisor": list, "step": int, "errno": int, "detail": str, "status": int},
    "start": {},
}
"""Kind to fields and their types.

Identities are ``[pid, start time]``, with 0 for a time that process.json says; ``step`` is an index into the
plan's steps, -1 for what is no step.
"""

HELD = b"H"
"""All is set up.  The pid to watch follows, in decimal; when it is another one than before, the supervisor
writes it down and answers the same."""
FAILED = b"F"
"""A step after the gate failed.  The fields of ``failed`` follow, as JSON."""
ENDED = b"E"
"""An init's payload has ended.  Code, signal, core dumped and time follow, in decimal, with spaces."""


class Garbled(Exception):
    """A message that does not have the form it must have."""


def encode(kind: str, **fields: Any) -> bytes:
    """One message.  Raises Garbled when it is not of the form that `decode` accepts."""
    _check(kind, fields)
    message = documents.dumps({"kind": kind, **fields})
    if len(message) > LIMIT:
        raise Garbled(f"message {kind} has {len(message)} bytes")
    return message


def decode(data: bytes, *expected: str) -> dict[str, Any]:
    """The fields of one message, ``kind`` among them.  Raises Garbled unless it is one of ``expected``."""
    if len(data) > LIMIT:
        raise Garbled("message too long")
    try:
        message = documents.loads(data)
    except (ValueError, TypeError, RecursionError):
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
