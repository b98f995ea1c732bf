"""Isolators of kernel namespaces, one file a kind."""
