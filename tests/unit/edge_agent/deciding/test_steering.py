import math
import random
import statistics

import pytest

from edge_agent.deciding.averages import LONG, Average
from edge_agent.deciding.steering import Scale, Spread, Steered
from shared.manifest import ScoreSpread
from shared.uncertainty import Score

GIVEN = ScoreSpread(mean=-4.0, deviation=2.0, low=-9.0, high=1.0)
BOUNDED = [score for score in Score if score is not Score.ENERGY]


def test_average_is_the_mean_of_the_first_values_then_forgets():
    average = Average()
    for value in range(LONG):
        average.observe(value)
    assert average.value == pytest.approx((LONG - 1) / 2)
    before = average.value
    average.observe(1000.0)
    assert average.value == pytest.approx(before + (1000.0 - before) / LONG)
    again = Average(*average.pair)
    assert again.pair == average.pair == (average.value, LONG)


def test_average_remembers_as_long_as_it_is_told_to():
    short, long = Average(long=2), Average(0.5, 9999, long=2000)
    for value in (0.0, 1.0, 1.0):
        short.observe(value)
    assert short.value == 0.75
    long.observe(1.0)
    assert long.value == pytest.approx(0.5 + 0.5 / 2000)


@pytest.mark.parametrize("score", BOUNDED)
def test_scale_of_a_bounded_score_is_its_log_odds(score):
    scale = Scale(score)
    assert scale.units(0.5) == 0.0
    assert scale.units(0.9) == pytest.approx(math.log(9.0))
    for value in (0.0001, 0.3, 0.999):
        assert scale.score(scale.units(value)) == pytest.approx(value)


@pytest.mark.parametrize("score", BOUNDED)
def test_scale_of_a_saturated_score_is_finite(score):
    scale = Scale(score)
    assert -17 < scale.units(0.0) < -16
    assert 16 < scale.units(1.0) < 17
    assert (scale.score(-5000.0), scale.score(math.inf)) == (pytest.approx(0.0), 1.0)


def test_scale_of_energy_is_energy():
    scale = Scale(Score.ENERGY)
    assert (scale.units(-7.5), scale.score(-7.5)) == (-7.5, -7.5)


def test_spread_of_the_manifest_is_taken_at_its_word():
    spread = Spread(GIVEN)
    assert (spread.known, spread.learning, spread.learnt) == (True, False, None)
    assert (spread.mean, spread.deviation, spread.low, spread.high) == (-4.0, 2.0, -9.0, 1.0)
    spread.learnt = (30, 0.0, 0.0, 0.0, 0.0)
    assert spread.mean == -4.0


def test_spread_is_learnt_from_the_first_samples():
    rng = random.Random(1)
    values = [rng.gauss(-3.0, 2.0) for _ in range(500)]
    spread = Spread(None)
    assert (spread.known, spread.learnt) == (False, None)
    for count, value in enumerate(values, start=1):
        assert spread.learning
        spread.observe(value)
        assert spread.known == (count >= 30)
    assert not spread.learning
    assert spread.mean == pytest.approx(statistics.fmean(values))
    assert spread.deviation == pytest.approx(statistics.pstdev(values))
    assert (spread.low, spread.high) == (min(values), max(values))


def test_spread_goes_on_from_what_it_had_learnt():
    spread, again = Spread(None), Spread(None)
    for value in range(40):
        spread.observe(value)
    again.learnt = spread.learnt
    for each in (spread, again):
        each.observe(7.0)
    assert again.learnt == spread.learnt
    assert (again.known, again.deviation) == (True, spread.deviation)


def test_spread_of_equal_scores_is_not_zero():
    spread = Spread(None)
    for _ in range(50):
        spread.observe(-3.0)
    assert 0.0 < spread.deviation < 0.01


def test_threshold_moves_in_deviations_of_the_score():
    steered = Steered(Scale(Score.MARGIN), Spread(GIVEN), 0.5)
    steered.move(0.5)
    assert steered.units == pytest.approx(1.0)
    assert steered.threshold == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_threshold_goes_no_farther_than_four_deviations_beyond_calibration():
    steered = Steered(Scale(Score.ENERGY), Spread(GIVEN), 0.0)
    steered.move(100.0)
    assert steered.threshold == 1.0 + 4 * 2.0
    steered.move(-100.0)
    assert steered.threshold == -9.0 - 4 * 2.0
    steered.move(100.0, beyond=0.0)
    assert steered.threshold == 1.0


def test_threshold_of_which_nothing_is_known_takes_nothing_for_hard():
    steered = Steered(Scale(Score.ENTROPY), Spread(None), None)
    assert (steered.units, steered.threshold) == (math.inf, 1.0)
