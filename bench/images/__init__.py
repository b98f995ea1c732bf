"""Images, beside the peers: one command, `make bench-images`, rewrites IMAGES.md and images.json."""

import sys

from bench import ROOT

# Registry, cache and Debian root are those of the tests.
sys.path.insert(0, str(ROOT / "tests"))
