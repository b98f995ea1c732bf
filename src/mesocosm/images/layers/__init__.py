"""Layers: from a stream to something that can be mounted, kept by diff ID."""
