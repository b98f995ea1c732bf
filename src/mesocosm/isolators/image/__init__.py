"""Isolators of what an image says about its process."""
