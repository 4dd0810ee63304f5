import pytest

from edge_agent.deciding.settings import SteadinessSettings
from edge_agent.deciding.steadiness import Steadiness
from shared.errors import SettingsError
from shared.messages import Reason

LABELS = ("nothing", "cat", "dog")
FLICKER, EMPTY = Reason.FLICKER, Reason.EMPTY


def watched(answers, **options):
    steadiness = Steadiness(SteadinessSettings(**options), LABELS)
    return [steadiness.observe(answer) for answer in answers]


def test_steadiness_is_off_unless_asked_for():
    assert watched([0, 1, 0, 1, 2, 0, 1, 0] * 5) == [None] * 40


def test_answer_that_changes_often_enough_within_the_window_flickers():
    seen = watched([1, 1, 2, 1, 2, 2], flicker_changes=3, flicker_window=4)
    # Changes:       -  0  1  1  1  0 ; the window of four answers holds three of them.
    assert seen == [None, None, None, None, FLICKER, None]


def test_flicker_window_counts_this_answer_and_forgets_the_older_ones():
    answers = [1, 2] + [2] * 6 + [1]
    assert watched(answers, flicker_changes=2, flicker_window=8)[-1] is None
    assert watched(answers, flicker_changes=2, flicker_window=9)[-1] is FLICKER


def test_smallest_window_takes_every_change_for_a_flicker():
    assert watched([1, 2, 2, 1], flicker_changes=1, flicker_window=2) == [None, FLICKER, None, FLICKER]


def test_long_flicker_ends_with_the_window():
    seen = watched([1, 2] * 10 + [2] * 10, flicker_changes=3, flicker_window=5)
    assert [index for index, reason in enumerate(seen) if reason] == list(range(3, 21))


def test_nothing_right_after_something_is_doubted_once():
    assert watched([0, 0, 1, 0, 0, 2, 0], empty_label="nothing") == [None, None, None, EMPTY, None, None, EMPTY]


def test_something_right_after_nothing_is_not_doubted():
    assert watched([0, 1, 2, 1], empty_label="nothing") == [None] * 4


def test_flicker_says_more_than_empty():
    assert watched([0, 1, 0, 1, 0], empty_label="nothing", flicker_changes=2, flicker_window=3) == [
        None, None, FLICKER, FLICKER, FLICKER,
    ]  # fmt: skip


def test_empty_label_that_the_model_lacks_is_refused_with_those_it_has():
    with pytest.raises(SettingsError, match=r"empty_label 'none' is none of the model's labels \(nothing, cat, dog\)"):
        Steadiness(SteadinessSettings(empty_label="none"), LABELS)
    with pytest.raises(SettingsError, match=r"8, 9, …\)"):
        Steadiness(SteadinessSettings(empty_label="none"), [str(number) for number in range(20)])
