"""The error tree.  Every failure a user can meet is one of these.

    MesocosmError
    ├── InvalidConfig     what was asked makes no sense            (code ``invalid``)
    │   └── PlanConflict  two isolators ask for contrary things    (``conflict``)
    ├── NotFound          no such container, image, file, user     (``not-found``)
    ├── AlreadyExists     the name or ID is taken                  (``exists``)
    ├── WrongState        not possible in the container's state    (``state``)
    ├── Busy              somebody else is at it, or still uses it (``busy``)
    ├── Unsupported       this host cannot                         (``unsupported``)
    ├── Denied            credentials or policy refuse             (``denied``)
    ├── Unavailable       a remote end does not answer             (``unavailable``)
    ├── Corrupt           bytes are not what they claim to be      (``corrupt``)
    ├── Exhausted         a bound on size, space or count is hit   (``exhausted``)
    ├── LaunchError       a step between fork and exec failed      (``launch``)
    └── CleanupError      something could not be given back        (``cleanup``)

An error is raised once, with what, where and what to do; logged once, at the edge; and translated once, in
the frontend's fault table.  ``code`` is stable and meant for programs; the text is meant for people.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence


class MesocosmError(Exception):
    """Base of all errors raised on purpose.

    ``message`` says what went wrong and where in one sentence without a final full stop, ``hint`` what to do.
    ``str(error)`` is one line with both: ``message (hint)``.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def require_name(self, name: str) -> None:
        """Have the message begin with ``name`` unless it has it already, as a word of its own."""
        if not re.search(rf"(?<![\w./@-]){re.escape(name)}(?![\w/@-]|[.:]\w)", self.message):
            self.message = f"{name}: {self.message}"


class InvalidConfig(MesocosmError):
    """A request, an option or a file says something that cannot be meant."""

    code = "invalid"


class PlanConflict(InvalidConfig):
    """Two isolators contribute contrary things to one launch plan; both are named."""

    code = "conflict"

    def __init__(self, what: str, left: str, right: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what}: isolators {left} and {right} contradict each other", hint=hint)
        self.what = what
        self.left = left
        self.right = right


class NotFound(MesocosmError):
    """A container, image, file, user or isolator that was named does not exist."""

    code = "not-found"


class AlreadyExists(MesocosmError):
    """The name or ID asked for is taken."""

    code = "exists"


class WrongState(MesocosmError):
    """The container's state does not allow this."""

    code = "state"


class Busy(MesocosmError):
    """Somebody else is working on it, or something still uses it."""

    code = "busy"


class Unsupported(MesocosmError):
    """This kernel, these privileges or this host cannot do what was asked."""

    code = "unsupported"


class Denied(MesocosmError):
    """A remote end or a policy refuses: wrong or missing credentials, a signature rule."""

    code = "denied"


class Unavailable(MesocosmError):
    """A remote end cannot be reached, answers with a fault of its own, or stalls."""

    code = "unavailable"


class Corrupt(MesocosmError):
    """Bytes do not match their digest, size or format."""

    code = "corrupt"


class Exhausted(MesocosmError):
    """A bound was hit: disk space, size, ratio, number of entries, file descriptors."""

    code = "exhausted"


class LaunchError(MesocosmError):
    """A step between fork and exec failed (parity GAP-44).

    ``step`` is the description of the plan operation that failed, ``errno`` the kernel's answer (0 when the
    failure is not a system call's), ``status`` the exit status a shell would give: 127 when the executable
    does not exist, 126 when it cannot be executed, 125 for everything before.
    """

    code = "launch"

    def __init__(
        self, message: str, *, step: str, errno: int = 0, status: int = 125, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.errno = errno
        self.status = status


class CleanupError(MesocosmError):
    """Some things could not be given back; each failure is in ``failures`` as a sentence."""

    code = "cleanup"

    def __init__(self, message: str, failures: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__(f"{message}: {'; '.join(failures)}", hint=hint)
        self.failures = tuple(failures)


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Have every error raised within say that it is about ``name``: one of several things asked for."""
    try:
        yield
    except MesocosmError as error:
        error.require_name(name)
        raise
