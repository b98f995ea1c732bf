"""Honest bytes, changed at random from a fixed seed: flipped, cut, spliced, repeated, with numbers and words
that readers stumble over.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from mesocosm.errors import MesocosmError

Dice = random.Random
Mutation = Callable[[Dice, bytes], bytes]

MANY = 50
"""How many times as many cases a thorough run takes."""

WORDS = [
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"../",
    b"/",
    b"//",
    b"\xff",
    b"\xed\xa0\x80",
    "\u0663".encode(),
    b"-1",
    b"0",
    b"00",
    b"1e999",
    b"9" * 19,
    b"9" * 40,
    b"18446744073709551616",
    b"NaN",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'""',
    b'"',
    b"\\ud800",
    b"[" * 64,
    b"]" * 64,
    b'{"a":' * 40,
    b"A" * 300,
    b"\x80" + b"\xff" * 11,
    b"@sha256:",
    b":",
    b",",
    b"=",
    b"<!--",
    b"-->",
    b"&#x110000;",
]


def changed(dice: Dice, sample: bytes) -> bytes:
    """The sample with one to six changes."""
    data = bytearray(sample)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        at = dice.randrange(len(data) + 1)
        until = min(len(data), at + dice.choice((1, 1, 2, 4, 8, 64, 512)))
        match dice.randrange(8):
            case 0:
                data[at:until] = dice.randbytes(until - at)
            case 1:
                del data[at:until]
            case 2:
                data[at:at] = data[at:until] * dice.choice((1, 2, 30))
            case 3:
                data[at:at] = dice.choice(WORDS)
            case 4:
                data[at:until] = dice.choice(WORDS)
            case 5:
                data[at:until] = data[(start := dice.randrange(len(data) + 1)) : start + until - at]
            case 6:
                data[at:until] = bytes(until - at)
            case 7 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
    return bytes(data)


def cases(samples: list[bytes], count: int, change: Mutation = changed) -> Iterator[bytes]:
    """That many changed samples, the same ones each time."""
    dice = Dice(f"{len(samples)} {len(samples[0])}")
    for _ in range(count):
        yield change(dice, dice.choice(samples))


def judged(call: Callable[[], object]) -> bool:
    """Whether it is taken; what is raised else is an error of ours, and fit for a line."""
    try:
        call()
    except MesocosmError as error:
        text = str(error)
        assert len(text) < 2000, text[:400]
        return False
    return True


def amount(count: int) -> list[object]:
    """A short run, and a long one for who asks for it (-m thorough)."""
    long = [pytest.mark.thorough, pytest.mark.timeout(1800)]
    return [pytest.param(count, id="some"), pytest.param(count * MANY, id="many", marks=long)]
