"""A container's states, the events that change them, and nothing else.

    PROVISIONING ──provisioned──► PREPARED ──forked──► CREATED ──started──► RUNNING
         │                           │                    │                    │
         └────────────destroy────────┴───────destroy──────┴──────destroy───────┘
                                              ▼
                                         DESTROYING ──cleaned──► DESTROYED

Two rules: every change of state goes through ``step``; ``step`` knows nothing of processes or disks.
"""

from __future__ import annotations

from enum import StrEnum

from mesocosm.errors import WrongState


class State(StrEnum):
    """Where a container stands in the table."""

    PROVISIONING = "provisioning"
    PREPARED = "prepared"
    CREATED = "created"
    RUNNING = "running"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"

    @property
    def words(self) -> str:
        """As a sentence about the container goes on: ``is running``, ``has ended``."""
        if self is State.DESTROYED:
            return "has ended"
        return "is being cleaned up" if self is State.DESTROYING else f"is {self}"


class Event(StrEnum):
    """What happened to a container."""

    PROVISIONED = "provisioned"
    FORKED = "forked"
    STARTED = "started"
    DESTROY = "destroy"
    CLEANED = "cleaned"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.PROVISIONING: {Event.PROVISIONED: State.PREPARED, Event.DESTROY: State.DESTROYING},
    State.PREPARED: {Event.FORKED: State.CREATED, Event.DESTROY: State.DESTROYING},
    State.CREATED: {Event.STARTED: State.RUNNING, Event.DESTROY: State.DESTROYING},
    State.RUNNING: {Event.DESTROY: State.DESTROYING},
    State.DESTROYING: {Event.CLEANED: State.DESTROYED, Event.DESTROY: State.DESTROYING},
    State.DESTROYED: {},
}


def step(state: State, event: Event) -> State:
    """The state after ``event``.  Raises WrongState, naming both, when the table has no such row."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise WrongState(f"a container that is {state} cannot be {_PARTICIPLE[event]}") from None


_PARTICIPLE = {
    Event.PROVISIONED: "provisioned",
    Event.FORKED: "created",
    Event.STARTED: "started",
    Event.DESTROY: "destroyed",
    Event.CLEANED: "cleaned up",
}
