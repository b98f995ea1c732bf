"""Digests: grammar (G-01) and the verification of streams."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesocosm.errors import Corrupt, InvalidConfig
from mesocosm.images.digest import Digest, Verifier, digest_of, verify

GRAMMAR = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)
NEARLY = st.from_regex(r"\A(sha256|sha512|md5|SHA256)[:.]?[0-9a-fA-F]{62,66}\n?\Z", fullmatch=False)


@given(st.one_of(st.text(), NEARLY, st.from_regex(GRAMMAR, fullmatch=True)))
def test_G01_accepted_means_the_grammar_and_round_trips(text: str) -> None:
    if GRAMMAR.fullmatch(text):
        assert str(Digest.parse(text)) == text
    else:
        with pytest.raises(InvalidConfig):
            Digest.parse(text)


@pytest.mark.parametrize(
    "algorithm, value",
    [("sha256", "../../x"), ("sha256", "A" * 64), ("sha512", "a" * 64), ("md5", "a" * 32), ("", "")],
)
def test_G01_a_digest_cannot_be_built_around_its_grammar(algorithm: str, value: str) -> None:
    with pytest.raises(InvalidConfig):
        Digest(algorithm, value)


@given(st.binary(max_size=5000), st.sampled_from(["sha256", "sha512"]), st.integers(1, 700))
def test_a_stream_in_any_pieces_has_the_digest_of_the_whole(data: bytes, algorithm: str, step: int) -> None:
    digest = Digest.of(data, algorithm)
    assert digest.hex == hashlib.new(algorithm, data).hexdigest()
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    verifier = Verifier(digest, len(data))
    for piece in pieces:
        verifier.update(piece)
    verifier.finish()
    assert digest_of(pieces, algorithm) == digest


@given(st.binary(min_size=1, max_size=100), st.integers(0, 799))
def test_any_flipped_bit_is_found(data: bytes, bit: int) -> None:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    with pytest.raises(Corrupt):
        verify(bytes(changed), Digest.of(data), len(data))


def test_too_long_is_refused_before_it_is_whole() -> None:
    verifier = Verifier(Digest.of(b"abc"), 3)
    verifier.update(b"ab")
    with pytest.raises(Corrupt, match="longer"):
        verifier.update(b"cd")


def test_too_short_says_how_short() -> None:
    verifier = Verifier(Digest.of(b"abc"), 3)
    verifier.update(b"ab")
    with pytest.raises(Corrupt, match="2 of 3"):
        verifier.finish()
