"""What an image says of itself, used against the host: volumes that lead out of it (I-17, I-18)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attacks.commandline import CommandLine
from provisions import pack

SECRET = "only for the host"


def test_i18_an_images_volume_leads_nowhere_but_into_the_image(
    mesocosm: CommandLine, image: Callable[..., Path], tmp_path: Path
) -> None:
    """CVE-2022-23648, CVE-2020-1726: copy-up through a link that the image put at its volume's place."""
    host = tmp_path / "HOST"
    host.mkdir()
    (host / "secret").write_text(SECRET)
    root = image()
    (root / "v").symlink_to(host)
    (root / "w").mkdir()
    (root / "w/link").symlink_to(host / "secret")
    (root / "honest").mkdir()
    (root / "honest/data").write_text("the image's own\n")
    volumes = 'VOLUME ["/v", "/w", "/honest"]'
    mesocosm("import", "-c", volumes, pack(root, tmp_path / "root.tar"), "example.org/v:1").accepted()
    script = "cat /v/secret /w/link; echo planted > /v/planted; echo planted > /w/link; cat /honest/data"
    answer = mesocosm("run", "--rm", "--pull", "never", "example.org/v:1", "sh", "-c", script)
    assert SECRET not in answer.out + answer.err
    assert answer.out == "the image's own\n"
    assert sorted(path.name for path in host.iterdir()) == ["secret"]
    assert (host / "secret").read_text() == SECRET
