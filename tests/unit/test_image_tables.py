"""What image history, du, tree and diff print, without colour; what Tab offers."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from listed_images import APP, NOW, OTHER, TOP, USAGE
from mesocosm.frontends.cli import completion
from mesocosm.frontends.cli.commands import cli
from mesocosm.frontends.cli.verbs.image import diff, du, history, ls, tree
from mesocosm.images.catalogue import Catalogue
from mesocosm.images.comparison import Change
from mesocosm.images.image import RefRecord
from mesocosm.images.inspection import Step, Usage


def test_history() -> None:
    steps = [
        Step(
            created="2024-01-01T00:00:00Z", created_by="RUN\t x\x1b[2J", comment="c", layer=TOP, size=1 << 20
        ),
        Step(created="no date", created_by="ADD " + "y" * 80, comment="", layer=None, size=0),
    ]
    assert history.table(steps, now=NOW).splitlines() == [
        "LAYER          CREATED      CREATED BY" + " " * 53 + "SIZE      COMMENT",
        "222222222222   3 days ago   RUN x\\x1b[2J" + " " * 51 + "1 MiB     c",
        "<none>         -            ADD " + "y" * 55 + "…   0 bytes",
    ]
    assert TOP in history.table(steps, now=NOW, whole=True)


def test_du() -> None:
    assert du.render(USAGE, True).splitlines() == [
        "IMAGE    DIGEST         LAYERS   SIZE    SHARED   OWN       HELD BY",
        "app:1    aaaaaaaaaaaa   2        3 MiB   2 MiB    1 MiB     pin, 0123456789ab",
        "<none>   cccccccccccc   2        2 MiB   2 MiB    0 bytes   -",
        "",
        "LAYER          FORM          SIZE    IMAGES                       MOUNTED",
        "111111111111   erofs         2 MiB   aaaaaaaaaaaa, cccccccccccc   yes",
        "222222222222   erofs, tree   1 MiB   aaaaaaaaaaaa                 no",
        "",
        "layers   3.5 MiB   2 MiB of it in more than one image",
        "blobs    1 MiB     as published: what saving and pushing need",
        "in all   4.5 MiB   0 bytes of it nobody needs",
    ]
    empty = Usage(layers=0, blobs=0, shared=0, reclaimable=0, images=(), by_layer=())
    assert du.render(empty, True).startswith("layers")


PINNED = msgspec.structs.replace(
    APP, references=(f"oci-archive:/i.tar@{APP.digest}",), checked_at=NOW - 2 * 86400, pulled_at=NOW - 60
)


def test_digests_in_names_are_cut_in_tables_alone() -> None:
    """Whoever reads a table has 12 digits, whoever asks for all has a name that can be given back."""
    usage = msgspec.structs.replace(USAGE, images=(PINNED,))
    for cut in (ls.table([PINNED], now=NOW), du.render(usage, True)):
        assert "oci-archive:/i.tar@sha256:aaaaaaaaaaaa  " in cut
        assert max(map(len, cut.splitlines())) < 150
    for whole in (ls.table([PINNED], now=NOW, whole=True), du.render(usage, True, whole=True)):
        assert f"oci-archive:/i.tar@{APP.digest}  " in whole
    assert TOP in du.render(usage, True, whole=True)
    assert ls.rows([PINNED], now=NOW)[0]["Name"] == f"oci-archive:/i.tar@{APP.digest}"


def test_the_age_of_what_a_name_was_found_to_mean() -> None:
    row, here = ls.rows([PINNED, msgspec.structs.replace(PINNED, checked_at=None)], now=NOW)
    assert (row["Checked"], row["Pulled"], here["Checked"]) == ("2 days ago", "1 minute ago", "-")


def test_tree() -> None:
    assert tree.render([APP, OTHER], USAGE).splitlines() == [
        "app:1  aaaaaaaaaaaa  linux/amd64  3 MiB  held by pin, 0123456789ab",
        "├─ 222222222222  1 MiB  erofs, tree",
        "└─ 111111111111  2 MiB  erofs        mounted  shared with cccccccccccc",
        "<none>  cccccccccccc  linux/amd64  2 MiB",
        "├─ 333333333333  not here",
        "└─ 111111111111  2 MiB     erofs  mounted  shared with app:1",
    ]


def test_diff() -> None:
    changes = [
        Change(path="/new", kind="added", after=1),
        Change(path="/etc/\udcff\x1b", kind="changed", what=("content", "mode")),
        Change(path="/old", kind="removed"),
    ]
    assert diff.render(changes, verbose=False).splitlines() == ["A /new", "C /etc/\\xff\\x1b", "D /old"]
    assert "(content, mode)" in diff.render(changes, verbose=True)
    assert diff.render([], verbose=True) == ""


def test_completion_offers_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    catalogue = Catalogue(tmp_path / "images")
    catalogue.prepare()
    for name in ("docker://docker.io/library/debian:12", "docker://localhost:5000/x:y"):
        catalogue.name(RefRecord(reference=name, digest=APP.digest))
    context = click.Context(cli)
    context.params["root"] = str(tmp_path)
    offered = [completion.images(context, click.Argument(["x"]), text) for text in ("", "deb", "zz")]
    assert offered == [["debian:12", "localhost:5000/x:y"], ["debian:12"], []]
    context.params["root"] = str(tmp_path / "none")
    assert completion.images(context, click.Argument(["x"]), "") == []
