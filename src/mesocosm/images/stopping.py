"""Ending what a thread does for somebody who has gone."""

from __future__ import annotations


class Stopped(Exception):
    """Nobody wants the result any more."""
