"""Go's templates, as docker has taught them; tables and JSON beside them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import InvalidConfig, MesocosmError
from mesocosm.frontends.cli.output import by_template
from mesocosm.frontends.cli.template import Template, fields

IMAGE = {
    "Repository": "debian",
    "tag": "12",
    "RepoTags": ["debian:12", "x:1"],
    "Config": {"Env": ["A=b"], "Labels": {"k.x": "v", "b": "c"}, "Cmd": None},
    "repo_digests": [],
    "Layers": 3,
    "Pinned": False,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Repository}}:{{.Tag}}", "debian:12"),
        ("plain", "plain"),
        ("{{.Config.Env}} {{.Layers}} {{.Pinned}}", "[A=b] 3 false"),
        ("{{.Config.Labels}}", "map[b:c k.x:v]"),
        ("{{.Config.Cmd}}{{.Config.Cmd.Deeper}}", "<no value><no value>"),
        ("{{json .RepoTags}} {{json .Config.Cmd}}", '["debian:12","x:1"] null'),
        ('{{join .RepoTags ", "}}', "debian:12, x:1"),
        ('{{index (split .Repository "b") 0}}', "de"),
        ('{{index .Config.Labels "k.x"}}{{index .Config.Labels "none"}}', "v"),
        ("{{.Repository | upper}} {{lower .Repository}} {{title .Repository}}", "DEBIAN debian Debian"),
        ("{{len .RepoTags}}", "2"),
        ("{{range .RepoTags}}[{{.}}]{{end}}", "[debian:12][x:1]"),
        ("{{range .RepoDigests}}x{{else}}none{{end}}", "none"),
        ("{{range $i, $t := .RepoTags}}{{$i}}={{$t}} {{$.Tag}};{{end}}", "0=debian:12 12;1=x:1 12;"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{println $v}}{{end}}", "b=c\nk.x=v\n"),
        ("{{if .Pinned}}a{{else if eq .Tag `12`}}b{{else}}c{{end}}", "b"),
        ("{{if .Pinned}}{{if .Tag}}x{{end}}{{else}}y{{end}}z", "yz"),
        ('{{if and .Tag (not .Pinned) (ne .Tag "13")}}yes{{end}}', "yes"),
        ("{{with .Config}}{{.Env}}{{end}}", "[A=b]"),
        ("a {{- .Tag -}} b{{/* nothing */}}", "a12b"),
    ],
)
def test_what_docker_users_write(template: str, text: str) -> None:
    assert Template(template).render(IMAGE) == text


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{", "without }}"),
        ("{{.Tag", "without }}"),
        ("{{}}", "empty action"),
        ("{{.Nope}}", "no Nope.*there are Repository"),
        ("{{.Tag.Deeper}}", "nothing has a member Deeper"),
        ("{{end}}", "without a beginning"),
        ("{{if .Tag}}", "without {{end}}"),
        ("{{range .Tag}}{{end}}", "no list"),
        ("{{nope .}}", "'nope' is not a function"),
        ("{{json}}", "json cannot do that"),
        ("{{index .RepoTags 9}}", "index cannot"),
        ("{{$x}}", "no variable"),
        ("{{(.Tag}}", "not closed"),
        ("{{.Tag ! }}", "not understood"),
        ("{{if .Tag}}" * 60 + "{{end}}" * 60, "too many blocks"),
    ],
)
def test_mistakes_are_told(template: str, why: str) -> None:
    with pytest.raises(InvalidConfig, match=why):
        Template(template).render(IMAGE)


def test_r26_what_images_say_does_not_move_the_cursor() -> None:
    """R-26: labels and names in a template's output hold no control characters; ours do their work."""
    hostile = {"Name": "\x1b[2J", "Labels": {"\x07": "\x1b]0;x\x07"}, "Tags": ["a\nb", "c"]}
    for template in (
        "{{.Name}}",
        "{{.Labels}}",
        "{{.Tags}}",
        '{{join .Tags ","}}',
        "{{range .Tags}}{{.}}{{end}}",
    ):
        assert Template(template).render(hostile).isprintable()
    assert Template('{{join .Tags "\\n"}}').render(hostile) == "a\\nb\nc"


@given(st.text(alphabet='{}. $|()"`abjson:=-/*\\', max_size=40))
def test_no_template_fails_otherwise(template: str) -> None:
    try:
        Template(template).render(IMAGE)
    except MesocosmError as error:
        assert "format" in str(error)


def test_tables() -> None:
    rows = [IMAGE, {**IMAGE, "Repository": "busybox", "tag": "a\tb"}]
    assert fields("{{.Repository}}\t{{.CreatedSince}}\t{{json .Tag}}") == [
        "REPOSITORY",
        "CREATED SINCE",
        "TAG",
    ]
    assert by_template(r"table {{.Repository}}\t{{.Tag}}", rows) == (
        "REPOSITORY   TAG\ndebian       12\nbusybox      a\\tb"
    )
    assert by_template("{{.Tag}}", []) == ""
    assert by_template("table {{.Tag}}", []) == "TAG"
    for word in ("table", "tabel", ""):
        with pytest.raises(InvalidConfig, match="shows nothing"):
            by_template(word, rows)
