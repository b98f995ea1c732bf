"""Every example of docs/python.md runs as printed, on roots of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.command import run

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

PRELUDE = """
import os, pathlib, mesocosm.containerizer, mesocosm.scripting
roots = {"root": pathlib.Path(os.environ["ROOT"]), "runtime": pathlib.Path(os.environ["RUNTIME"])}
mesocosm.scripting.run.__kwdefaults__.update(roots)
mesocosm.containerizer.Containerizer.open.__func__.__wrapped__.__kwdefaults__.update(roots)
"""


def test_the_page_has_examples_of_both_ways() -> None:
    assert len(EXAMPLES) >= 6
    assert any("mesocosm.run(" in example for example in EXAMPLES)
    assert any("Containerizer.open" in example for example in EXAMPLES)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_as_printed(number: int, busybox_root: Path, tmp_path: Path) -> None:
    run("tar", "-C", busybox_root, "-cf", tmp_path / "root.tar", ".")
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + EXAMPLES[number]],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "ROOT": str(tmp_path / "root"),
            "RUNTIME": str(tmp_path / "run"),
        },
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert not list((tmp_path / "root" / "containers").iterdir())
