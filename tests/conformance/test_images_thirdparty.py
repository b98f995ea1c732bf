"""The example of docs/stores.md and its tests, as the page shows them, run without our fixtures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from mesocosm.images.conformance import BackendConformance, StoreConformance

PAGE = Path(__file__).parents[2] / "docs/stores.md"
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def count_of(suite: type) -> int:
    """How many tests a suite has."""
    return sum(name.startswith("test_") for name in vars(suite))


def test_the_page_s_example_passes_the_page_s_tests(tmp_path: Path) -> None:
    module, tests = _PYTHON.findall(PAGE.read_text())
    (tmp_path / "acme_images.py").write_text(module)
    (tmp_path / "test_acme_images.py").write_text(tests)
    words = (
        "-m",
        "pytest",
        "-q",
        "--rootdir",
        tmp_path,
        "-c",
        "/dev/null",
        "-p",
        "no:cacheprovider",
        tmp_path,
    )
    done = subprocess.run(
        [sys.executable, "-B", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    count = count_of(StoreConformance) + count_of(BackendConformance)
    assert (done.returncode, f"{count} passed" in done.stdout) == (0, True), done.stdout + done.stderr
