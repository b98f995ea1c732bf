"""Isolators of files from outside the image."""
