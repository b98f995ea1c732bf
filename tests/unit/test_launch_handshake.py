"""Messages between launcher and child, and the JSON they are made of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.launch import documents, handshake

_SAMPLES: dict[type, st.SearchStrategy[Any]] = {
    list: st.lists(st.integers() | st.text(max_size=5), max_size=4),
    bool: st.booleans(),
    int: st.integers(-(1 << 63), 1 << 63),
    str: st.text(max_size=200),
}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    kind = draw(st.sampled_from(sorted(handshake.FIELDS)))
    return kind, {name: draw(_SAMPLES[of]) for name, of in handshake.FIELDS[kind].items()}


@given(messages())
def test_messages_survive_the_way(message: tuple[str, dict[str, Any]]) -> None:
    kind, fields = message
    data = handshake.encode(kind, **fields)
    assert handshake.decode(data, kind) == {"kind": kind, **fields}


@given(messages(), st.data())
def test_a_torn_message_is_refused(message: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    kind, fields = message
    whole = handshake.encode(kind, **fields)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(handshake.Garbled):
        handshake.decode(part, *handshake.FIELDS)


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_has_the_right_form(data: bytes) -> None:
    try:
        message = handshake.decode(data, *handshake.FIELDS)
    except handshake.Garbled:
        return
    assert message.keys() - {"kind"} == handshake.FIELDS[message["kind"]].keys()


@given(values)
def test_any_document_is_refused_or_has_the_right_form(value: Any) -> None:
    data = json.dumps(value).encode()
    with pytest.raises(handshake.Garbled):
        handshake.decode(data, *handshake.FIELDS)


@pytest.mark.parametrize(
    "data",
    [
        b'{"kind":"failed","step":true,"errno":0,"detail":"","status":1}',
        b'{"kind":"failed","step":1.0,"errno":0,"detail":"","status":1}',
        b'{"kind":"failed","step":1,"errno":0,"detail":""}',
        b'{"kind":"start","more":1}',
        b'{"kind":"nonsense"}',
        b'{"kind":["start"]}',
        b"[" * 30000,
        b"\xff\xfe",
        b"",
    ],
)
def test_what_is_almost_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(handshake.Garbled):
        handshake.decode(data, *handshake.FIELDS)


def test_a_message_of_another_kind_than_expected_is_refused() -> None:
    with pytest.raises(handshake.Garbled, match="not one of failed"):
        handshake.decode(handshake.encode("start"), "failed")


def test_a_message_too_long_is_neither_sent_nor_read() -> None:
    with pytest.raises(handshake.Garbled):
        handshake.encode("failed", step=0, errno=0, detail="x" * handshake.LIMIT, status=1)
    with pytest.raises(handshake.Garbled):
        handshake.decode(b" " * handshake.LIMIT + b'{"kind":"start"}', "start")


def test_identities_are_two_numbers() -> None:
    assert handshake.identity([12, 34]) == (12, 34)
    for wrong in ([1], [1, 2, 3], [1, "2"], [True, 1], [-1, 2]):
        with pytest.raises(handshake.Garbled):
            handshake.identity(wrong)


@given(values)
def test_documents_are_json(value: Any) -> None:
    assert json.loads(documents.dumps(value)) == value
    assert documents.loads(json.dumps(value).encode()) == value
    assert documents.loads(json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n") == value


@pytest.mark.parametrize("text", [b"", b"nul", b"{", b'{"a"}', b"[1,]", b"1 2", b'"\x01"', b"'a'", b"\xff"])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        documents.loads(text)


def test_other_values_have_no_json_form() -> None:
    with pytest.raises(TypeError):
        documents.dumps({"a": object()})
