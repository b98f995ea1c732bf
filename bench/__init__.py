"""Side by side with the peers: one command, `make bench`, rewrites RESULTS.md and results.json."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The repository."""
