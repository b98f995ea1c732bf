"""Layers unpacked into directory trees."""
