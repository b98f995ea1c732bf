"""Backends: how an image's layers become a root.  One file each; the names are those of the files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mesocosm.errors import InvalidConfig, Unsupported
from mesocosm.images.backends.base import Backend, BackendContext
from mesocosm.images.backends.bind import BindBackend
from mesocosm.images.backends.copy import CopyBackend
from mesocosm.images.backends.erofs import ErofsBackend
from mesocosm.images.backends.overlay import OverlayBackend
from mesocosm.images.foreign import shown

GROUP: Final = "mesocosm.backends"
OURS: dict[str, type[Backend]] = {
    backend.name: backend for backend in (ErofsBackend, OverlayBackend, CopyBackend, BindBackend)
}
PREFERENCE: Final = ("erofs", "overlay", "copy")
"""Tried in this order where nobody chose."""


def backend_class(name: str) -> type[Backend]:
    """Return the backend called ``name``, ours or an entry point's; raises InvalidConfig."""
    if name in OURS:
        return OURS[name]
    from mesocosm.images import installed  # importlib.metadata is slow to import, and rarely needed

    found = installed.load(GROUP, name, Backend)
    if found is None:
        known = ", ".join(sorted({*OURS, *installed.names(GROUP)}))
        raise InvalidConfig(f"there is no backend {shown(name, 60)!r}", hint=f"known are {known}")
    if found.name != name:
        raise InvalidConfig(f"backend {name}: {found.__name__} calls itself {shown(found.name, 60)}")
    return found


def choose(context: BackendContext, names: Iterable[str] = PREFERENCE) -> Backend:
    """Return the first of ``names`` that this host can; blocking.  Unsupported with every reason."""
    reasons = []
    for name in names:
        backend = backend_class(name)(context)
        try:
            backend.probe()
        except Unsupported as error:
            reasons.append(f"{name}: {error}")
            continue
        return backend
    raise Unsupported(f"no backend works on this host: {'; '.join(reasons)}")
