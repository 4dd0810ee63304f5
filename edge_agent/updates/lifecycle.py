"""The life of one update as two tables: what follows what, and where to go on after a crash. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from shared.lifecycle import Table


class State(StrEnum):
    """Where an update stands; saved before the state acts."""

    IDLE = "idle"
    VERIFYING = "verifying"
    DOWNLOADING = "downloading"
    STAGING = "staging"
    ACTIVATING = "activating"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling_back"
    REPORTING = "reporting"


class Event(StrEnum):
    """What ended a state."""

    OFFERED = "offered"
    ADMITTED = "admitted"
    COMPLETE = "complete"
    PASSED = "passed"
    SWAPPED = "swapped"
    FAILED = "failed"
    DONE = "done"


TABLE: Table[State, Event] = {
    (State.IDLE, Event.OFFERED): State.VERIFYING,
    (State.VERIFYING, Event.ADMITTED): State.DOWNLOADING,
    (State.VERIFYING, Event.FAILED): State.REPORTING,
    (State.DOWNLOADING, Event.COMPLETE): State.STAGING,
    (State.DOWNLOADING, Event.FAILED): State.REPORTING,
    (State.STAGING, Event.PASSED): State.ACTIVATING,
    (State.STAGING, Event.FAILED): State.REPORTING,
    (State.ACTIVATING, Event.SWAPPED): State.COMMITTING,
    (State.ACTIVATING, Event.FAILED): State.ROLLING_BACK,
    (State.COMMITTING, Event.DONE): State.REPORTING,
    (State.COMMITTING, Event.FAILED): State.REPORTING,
    (State.ROLLING_BACK, Event.DONE): State.REPORTING,
    (State.REPORTING, Event.DONE): State.IDLE,
}

# The agent died in the left state; it goes on in the right one. A download goes on from the bytes on disk, staging
# starts over from the file, and activation reads the pointer, which names the old slot or the new one.
RESUME: Mapping[State, State] = {
    State.IDLE: State.IDLE,
    State.VERIFYING: State.VERIFYING,
    State.DOWNLOADING: State.DOWNLOADING,
    State.STAGING: State.STAGING,
    State.ACTIVATING: State.ACTIVATING,
    State.COMMITTING: State.COMMITTING,
    State.ROLLING_BACK: State.ROLLING_BACK,
    State.REPORTING: State.REPORTING,
}

# An update that the agent died in this often is given up: it may be what kills it.
MAX_STARTS = 3


def resume(name: str, starts: int) -> State:
    """The state to go on in after a restart.

    Args:
        name: the saved state's name; an unknown one (an older or newer agent's) is rolled back.
        starts: how often the agent was started with this update under way.
    """
    try:
        state = State(name)
    except ValueError:
        return State.ROLLING_BACK
    if starts > MAX_STARTS and state not in (State.IDLE, State.REPORTING, State.COMMITTING):
        return State.ROLLING_BACK
    return RESUME[state]
