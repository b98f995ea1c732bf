"""Isolators of what a container sees as its file system."""
