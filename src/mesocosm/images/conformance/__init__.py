"""What stores and backends must hold to, as tests: shipped, so that yours can be held to it too."""

from mesocosm.images.conformance.backends import BackendConformance
from mesocosm.images.conformance.stores import StoreConformance

__all__ = ["BackendConformance", "StoreConformance"]
