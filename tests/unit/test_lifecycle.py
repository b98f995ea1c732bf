"""The table of states."""

from __future__ import annotations

import itertools

import pytest

from mesocosm.errors import WrongState
from mesocosm.lifecycle import TRANSITIONS, Event, State, step


@pytest.mark.parametrize(("state", "event"), [*itertools.product(State, Event)])
def test_every_pair_is_a_row_or_a_refusal_that_names_the_state(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert step(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(WrongState, match=state):
            step(state, event)


def test_every_state_but_the_last_can_be_destroyed() -> None:
    """DES-1 … DES-8: destroy is legal whatever came before."""
    for state in State:
        assert (Event.DESTROY in TRANSITIONS[state]) == (state is not State.DESTROYED)


def test_the_last_state_is_reached_from_every_other() -> None:
    for start in State:
        reached, frontier = {start}, {start}
        while frontier:
            frontier = {after for state in frontier for after in TRANSITIONS[state].values()} - reached
            reached |= frontier
        assert State.DESTROYED in reached
