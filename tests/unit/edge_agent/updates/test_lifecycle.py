import pytest

from edge_agent.updates.lifecycle import MAX_STARTS, RESUME, TABLE, Event, State, resume
from shared.errors import InvalidTransition
from shared.lifecycle import next_state

EXPECTED = {
    ("idle", "offered"): "verifying",
    ("verifying", "admitted"): "downloading",
    ("verifying", "failed"): "reporting",
    ("downloading", "complete"): "staging",
    ("downloading", "failed"): "reporting",
    ("staging", "passed"): "activating",
    ("staging", "failed"): "reporting",
    ("activating", "swapped"): "committing",
    ("activating", "failed"): "rolling_back",
    ("committing", "done"): "reporting",
    ("committing", "failed"): "reporting",
    ("rolling_back", "done"): "reporting",
    ("reporting", "done"): "idle",
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_state_and_event_is_in_the_table_or_refused(state, event):
    expected = EXPECTED.get((state.value, event.value))
    if expected is None:
        with pytest.raises(InvalidTransition, match=state.value):
            next_state(TABLE, state, event)
    else:
        assert next_state(TABLE, state, event).value == expected


def test_every_state_comes_to_rest():
    for start in State:
        reached, frontier = set(), {start}
        while frontier:
            reached |= frontier
            frontier = {TABLE[key] for key in TABLE if key[0] in frontier} - reached
        assert State.IDLE in reached


def test_every_way_from_an_offer_to_rest_passes_the_report():
    without = {key: value for key, value in TABLE.items() if State.REPORTING not in (key[0], value)}
    reached, frontier = set(), {State.VERIFYING}
    while frontier:
        reached |= frontier
        frontier = {without[key] for key in without if key[0] in frontier} - reached
    assert State.IDLE not in reached


def test_every_state_has_a_row_for_a_crash():
    assert set(RESUME) == set(State)


@pytest.mark.parametrize("state", State)
def test_resume_goes_on_where_it_was(state):
    assert resume(state.value, starts=1) is RESUME[state]
    assert resume(state.value, starts=MAX_STARTS) is RESUME[state]


@pytest.mark.parametrize("name", ["", "probation", "IDLE", "sTaging", "verify"])
def test_resume_in_an_unknown_state_rolls_back(name):
    assert resume(name, starts=1) is State.ROLLING_BACK


@pytest.mark.parametrize("state", [State.VERIFYING, State.DOWNLOADING, State.STAGING, State.ACTIVATING])
def test_resume_too_often_rolls_back(state):
    assert resume(state.value, starts=MAX_STARTS + 1) is State.ROLLING_BACK


@pytest.mark.parametrize("state", [State.IDLE, State.COMMITTING, State.REPORTING])
def test_resume_of_what_is_decided_is_never_given_up(state):
    assert resume(state.value, starts=100) is state
