"""Docker's small languages: whatever is typed is a value or one error that says what is wrong and where."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import InvalidConfig, NotFound
from mesocosm.frontends.cli import grammar
from mesocosm.model import HostPathMount, Rlimit, TmpfsMount, parse_idmap

PARSERS: dict[str, Callable[[str], Any]] = {
    "size": lambda text: grammar.size(text, "--memory"),
    "processors": lambda text: grammar.processors(text, "--cpus"),
    "seconds": lambda text: grammar.seconds(text, "--time"),
    "signal": grammar.signal_number,
    "volume": grammar.volume,
    "mount": grammar.mount,
    "tmpfs": grammar.tmpfs,
    "ulimit": grammar.ulimit,
    "label": grammar.label,
}

LETTERS = st.text(alphabet="0123456789.,:=/-_+kmgtKMGbiBrowsSIGTERMntypebindsource \n\0é٣²", max_size=40)


@pytest.mark.parametrize("name", PARSERS)
@given(text=LETTERS | st.text(max_size=30))
def test_any_text_is_a_value_or_one_clear_error(name: str, text: str) -> None:
    try:
        PARSERS[name](text)
    except InvalidConfig as error:
        assert error.message
        assert "Traceback" not in str(error)


@given(number=st.integers(0, 10**12), unit=st.sampled_from(["", "b", "k", "kb", "KiB", "m", "G", "t", "P"]))
def test_sizes_are_powers_of_1024(number: int, unit: str) -> None:
    shift = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}[unit.lower()[:1]]
    assert grammar.size(f"{number}{unit}", "--memory") == number << shift


@pytest.mark.parametrize(
    "text",
    ["", "m", "-1", "1e3", "12q", "1.5.5m", "1,5m", "\u0663m", "1_0m", "0x10", "1 0m", "nan", "inf", "m512"],
)
def test_bad_sizes_name_the_option(text: str) -> None:
    with pytest.raises(InvalidConfig, match="--memory: .* is not a size"):
        grammar.size(text, "--memory")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("RTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("RTMAX-1", signal.SIGRTMAX - 1),
    ],
)
def test_signals_by_name_and_by_number(text: str, number: int) -> None:
    assert grammar.signal_number(text) == number


@pytest.mark.parametrize("text", ["0", "65", "SIGSIGTERM", "-9", "", "RTMIN+99", "RTMAX+1", "\u0669"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidConfig, match="is not a signal"):
        grammar.signal_number(text)


def test_volumes() -> None:
    assert grammar.volume("/a/../b:/c:ro,rslave") == HostPathMount(
        source="/b", target="/c", read_only=True, create_source=True, propagation="slave"
    )
    relative = grammar.volume("./x:/y")
    assert relative.source == str(Path.cwd() / "x")
    assert grammar.mount("type=bind,src=./x,dst=/y") == HostPathMount(source=relative.source, target="/y")


def test_volumes_with_a_mapping() -> None:
    """podman's words: ``idmap`` alone is the mapping of the root."""
    whole, both = parse_idmap("0:100000:65536"), "uids=0-1-10#10-11-10;gids=0-100-10"
    asked = {"idmap=0:100000:65536": whole, f"idmap={both}": parse_idmap(both)}
    for text, mapping in asked.items():
        mount = HostPathMount(source="/a", target="/b", idmap=mapping)
        assert grammar.mount(f"src=/a,dst=/b,{text}") == mount
    assert grammar.mount("src=/a,dst=/b,idmap") == HostPathMount(source="/a", target="/b", idmap="root")
    assert grammar.volume("/a:/b:idmap").idmap == "root"
    assert grammar.volume("/a:/b:ro,idmap=0-100000-65536,noexec") == HostPathMount(
        source="/a", target="/b", read_only=True, create_source=True, options=("noexec",), idmap=whole
    )
    assert grammar.volume(f"/a:/b:idmap={both}").idmap == parse_idmap(both)
    assert grammar.volume("/a:/b").idmap is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/a:/b:idmap=0-1", "--volume: idmap: '0-1' is not a range"),
        ("/a:/b:idmap=0:1:1", "SOURCE:TARGET"),
        ("/a:/b:idmapped", "'idmapped' is not known"),
        ("/only", "SOURCE:TARGET"),
        ("/a:/b:ro:more", "SOURCE:TARGET"),
        ("named:/b", "named volumes"),
        ("/a:/b:rx", "'rx' is not known"),
        (":/b", "SOURCE:TARGET"),
    ],
)
def test_bad_volumes(text: str, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        grammar.volume(text)


def test_mounts_in_both_kinds() -> None:
    bind = grammar.mount("type=bind,src=/a,dst=/b,readonly,bind-nonrecursive")
    assert bind == HostPathMount(source="/a", target="/b", read_only=True, recursive=False)
    tmpfs = grammar.mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700")
    assert tmpfs == TmpfsMount(target="/t", size=1 << 20, mode=0o700)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("source=/a", "no target"),
        ("type=volume,target=/a", "not there yet"),
        ("source=/a,target=/b,idmap=1", "--mount: idmap: '1' is not a range"),
        ("type=tmpfs,target=/t,idmap", "idmap is not known here"),
        ("type=bind,source=a,target=/b", "not a path of the host"),
        ("type=bind,source=/a,target=/b,readonly=ture", "--mount: readonly: 'ture' is neither"),
        ("type=bind,source=/a,target=/b,bind-nonrecursive=x", "bind-nonrecursive: 'x' is neither"),
        ("type=bind,source=/a,target=/b,", "without a key"),
        ("type=tmpfs,source=/a,target=/t", "--mount: source is not known"),
        ("type=bind,source=/a,target=/b,colour=red", "colour is not known"),
        ("type=tmpfs,target=/t,tmpfs-mode=9", "octal"),
    ],
)
def test_bad_mounts(text: str, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        grammar.mount(text)


def test_tmpfs_with_options() -> None:
    made = grammar.tmpfs("/t:size=64k,mode=1770,ro,noexec")
    assert made == TmpfsMount(target="/t", size=1 << 16, mode=0o1770, read_only=True, options=("noexec",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/t:uid=5", "--tmpfs: option 'uid' is not known"),
        ("/t:ro=1", "--tmpfs: option 'ro' is not known"),
        ("/t:mode=9", "--tmpfs: mode '9'"),
        ("/t:size=q", "--tmpfs: size: 'q'"),
    ],
)
def test_bad_options_of_a_tmpfs_are_named_as_typed(text: str, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        grammar.tmpfs(text)


@pytest.mark.parametrize("word", ["readonly", "ro=1", "readonly=True", "readonly=t"])
def test_a_mount_is_read_only_by_every_word_for_it(word: str) -> None:
    """The benign twin of a misspelt one, which is refused and does not mean writable."""
    made = grammar.mount(f"type=bind,src=/a,dst=/b,{word}")
    assert made == HostPathMount(source="/a", target="/b", read_only=True)
    writable = grammar.mount("type=bind,src=/a,dst=/b,readonly=false")
    assert writable == HostPathMount(source="/a", target="/b", read_only=False)


@pytest.mark.parametrize(("text", "number"), [("1.5", 1.5), (".5", 0.5), ("2", 2.0)])
def test_processors(text: str, number: float) -> None:
    assert grammar.processors(text, "--cpus") == number


def test_limits_of_resources() -> None:
    assert grammar.ulimit("nofile=1024:2048") == Rlimit("nofile", 1024, 2048)
    assert grammar.ulimit("core=0") == Rlimit("core", 0, 0)
    assert grammar.ulimit("memlock=unlimited:-1") == Rlimit("memlock", None, None)


@pytest.mark.parametrize("text", ["nofile", "nofile=", "nofile=1:2:3", "nofile=x", "nofiles=1", "=1"])
def test_bad_limits_of_resources(text: str) -> None:
    with pytest.raises(InvalidConfig, match="--ulimit"):
        grammar.ulimit(text)


def test_the_environment_has_only_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P-02: a name alone takes the caller's value; a name the caller has not is left out."""
    monkeypatch.setenv("TAKEN", "from the caller")
    monkeypatch.delenv("ABSENT", raising=False)
    file = tmp_path / "env"
    file.write_text("# a comment\n\nA=1\n  B=2 # no comment\nTAKEN\n")
    assert grammar.environment(("C=x=y", "ABSENT"), (str(file),)) == (
        "A=1",
        "B=2 # no comment",
        "TAKEN=from the caller",
        "C=x=y",
    )


def test_lines_of_an_environment_file_end_at_line_feeds_alone(tmp_path: Path) -> None:
    """As docker has it: a value keeps every other separator; a mark of byte order is no part of a name."""
    file = tmp_path / "env"
    file.write_bytes("\ufeffA=1\r\nB=x\u2028y\x0cz \nC=\r=\n".encode())
    assert grammar.environment((), (str(file),)) == ("A=1", "B=x\u2028y\x0cz ", "C=\r=")


@pytest.mark.parametrize("line", ["=secret", "A B=secret", "A =secret", "NAME \t"])
def test_a_bad_line_of_an_environment_file_is_named_and_its_value_is_not(tmp_path: Path, line: str) -> None:
    file = tmp_path / "env"
    file.write_text(f"# first\nGOOD=1\n{line}\n")
    with pytest.raises(
        InvalidConfig, match="--env-file: .*env, line 3: .* is not a variable's name"
    ) as error:
        grammar.environment((), (str(file),))
    assert "secret" not in str(error.value)


def test_an_environment_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--env-file: .*nope cannot be read: No such file"):
        grammar.environment((), (str(tmp_path / "nope"),))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe=1")
    with pytest.raises(InvalidConfig, match="not text in UTF-8"):
        grammar.environment((), (str(tmp_path / "bytes"),))
