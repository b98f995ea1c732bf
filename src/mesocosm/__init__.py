"""Mesocosm, a universal containerizer."""
