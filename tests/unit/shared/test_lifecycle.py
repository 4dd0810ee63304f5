from enum import StrEnum

import pytest

from shared.errors import InvalidTransition
from shared.lifecycle import Runner, next_state


class Door(StrEnum):
    SHUT = "shut"
    OPENING = "opening"
    OPEN = "open"


class Event(StrEnum):
    PUSHED = "pushed"
    SWUNG = "swung"
    STUCK = "stuck"


TABLE = {
    (Door.SHUT, Event.PUSHED): Door.OPENING,
    (Door.OPENING, Event.SWUNG): Door.OPEN,
    (Door.OPENING, Event.STUCK): Door.SHUT,
    (Door.OPENING, Event.PUSHED): Door.OPENING,
}


def walker(story, **events):
    """A runner that writes down what it saves and does; `events` are what each state's action returns."""

    def action(state, event):
        async def act():
            story.append(f"do {state.value}")
            return event

        return act

    actions = {state: action(state, event) for state in Door if (event := events.get(state.value))}
    return Runner(TABLE, actions, lambda state: story.append(f"save {state.value}"), max_steps=4)


def test_table_names_the_next_state():
    assert next_state(TABLE, Door.SHUT, Event.PUSHED) is Door.OPENING


@pytest.mark.parametrize(
    ("state", "event", "known"),
    [(Door.SHUT, Event.STUCK, "pushed"), (Door.OPENING, Event("pushed"), None), (Door.OPEN, Event.PUSHED, "none")],
)
def test_unknown_row_names_the_events_that_are_known(state, event, known):
    if known is None:
        assert next_state(TABLE, state, event) is Door.OPENING
        return
    with pytest.raises(InvalidTransition, match=rf"'{event.value}' in state '{state.value}'; it knows: {known}$"):
        next_state(TABLE, state, event)


async def test_walk_saves_each_state_before_it_acts_and_ends_at_rest():
    story = []
    assert await walker(story, shut=Event.PUSHED, opening=Event.SWUNG).run(Door.SHUT) is Door.OPEN
    assert story == ["do shut", "save opening", "do opening", "save open"]


async def test_walk_from_a_state_at_rest_does_nothing():
    story = []
    assert await walker(story).run(Door.SHUT) is Door.SHUT
    assert story == []


async def test_walk_resumes_where_a_crash_left_it():
    story = []
    assert await walker(story, opening=Event.STUCK).run(Door.OPENING) is Door.SHUT
    assert story == ["do opening", "save shut"]


async def test_walk_that_turns_in_a_circle_is_ended():
    story = []
    with pytest.raises(InvalidTransition, match="no rest after 4 steps; the last state was 'opening'"):
        await walker(story, opening=Event.PUSHED).run(Door.OPENING)
    assert len(story) == 8


async def test_event_that_the_table_does_not_know_saves_nothing():
    story = []
    with pytest.raises(InvalidTransition):
        await walker(story, shut=Event.SWUNG).run(Door.SHUT)
    assert story == ["do shut"]


async def test_failing_action_leaves_the_saved_state_as_it_was():
    saved = []

    async def fail():
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        await Runner(TABLE, {Door.SHUT: fail}, saved.append).run(Door.SHUT)
    assert saved == []
