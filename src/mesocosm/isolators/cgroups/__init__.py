"""Isolators of what a container may use, one file a controller."""
