"""The stores of one provisioner: made when a reference first asks for one, closed together."""

from __future__ import annotations

from mesocosm.images.reference import Reference
from mesocosm.images.stores import store_class
from mesocosm.images.stores.base import Store, StoreContext


class Families:
    """Stores by the transports they serve; ``context`` is what they all work with."""

    def __init__(self, context: StoreContext) -> None:
        self.context = context
        self._kinds: dict[str, type[Store]] = {}
        self._stores: dict[type[Store], Store] = {}

    def store(self, reference: Reference) -> Store:
        """Return the store that serves the reference; raises InvalidConfig when none does."""
        transport = reference.transport
        kind = self._kinds[transport] = self._kinds.get(transport) or store_class(transport)
        if kind not in self._stores:
            self._stores[kind] = kind(self.context)
        return self._stores[kind]

    async def close(self) -> None:
        """Close every store that was made."""
        while self._stores:
            _, store = self._stores.popitem()
            await store.close()
