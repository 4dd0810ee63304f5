import dataclasses

import numpy as np
import pytest

from cloud_service.training.deferring import Rows, fit, learn, logistic
from shared.deferral import NAMES, features, score
from shared.manifest import Deferral
from shared.uncertainty import max_probability


def rows(logits, answers, *, weight=None, group=None):
    count = len(answers)
    return Rows(
        np.asarray(logits, dtype=np.float32),
        np.asarray(answers),
        np.ones(count) if weight is None else weight,
        np.arange(count) if group is None else group,
    )


def field(count=240, *, seed=0, telling=True):
    """A student that errs by class (told by nothing but the learned score), or as often as it says itself."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (count, 4)).astype(np.float32)
    predicted = logits.argmax(1)
    chance = np.where(predicted < 2, 0.85, 0.05) if telling else max_probability(logits)
    answers = np.where(rng.random(count) < chance, (predicted + 1) % 4, predicted)
    return rows(logits, answers)


def test_regression_of_two_points_by_hand():
    # One feature at ±1, one row each: symmetric, so no intercept, and where the slope is 0, w = 2·σ(−w).
    intercept, weights = logistic(np.array([[-1.0], [1.0]]), np.array([False, True]))
    assert intercept == pytest.approx(0.0, abs=1e-9)
    assert weights[0] == pytest.approx(2 / (1 + np.exp(weights[0])))
    assert weights[0] == pytest.approx(0.67483, abs=1e-5)


@pytest.mark.parametrize("separable", [True, False])
def test_regression_is_that_of_scikit_learn(separable):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    y = x[:, 0] > 0 if separable else rng.random(300) < 1 / (1 + np.exp(1 - 2 * x[:, 0]))
    expected = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x, y)
    intercept, weights = logistic(x, y)
    assert intercept == pytest.approx(expected.intercept_[0], abs=1e-6)
    assert weights == pytest.approx(expected.coef_[0], abs=1e-6)


def test_coefficients_undo_the_standardisation():
    """What the device computes from the manifest is what the fitted regression says."""
    from sklearn.linear_model import LogisticRegression

    part = field()
    fitted = fit([part], temperature=1.5)
    table = np.stack(list(features(part.logits, 1.5).values()), axis=1).astype(float)
    design = np.hstack([(table - table.mean(0)) / table.std(0), np.eye(4)[part.logits.argmax(1)]])
    expected = LogisticRegression(C=1.0, tol=1e-10, max_iter=50_000).fit(design, part.wrong)
    assert score(part.logits, 1.5, fitted) == pytest.approx(expected.predict_proba(design)[:, 1], abs=1e-4)
    assert tuple(fitted.coefficients) == NAMES
    assert len(fitted.classes) == 4


def test_feature_that_never_moves_weighs_nothing():
    logits = np.tile(np.array([[2.0, 1.0]], dtype=np.float32), (40, 1))
    fitted = fit([rows(logits, [0] * 20 + [1] * 20)], temperature=1.0)
    assert set(fitted.coefficients.values()) == {0.0}
    assert score(logits[:1], 1.0, fitted)[0] == pytest.approx(0.5, abs=1e-6)


def test_fit_counts_every_row_the_same():
    part = field()
    heavy = dataclasses.replace(part, weight=np.where(part.wrong, 50.0, 1.0))
    assert fit([part], temperature=1.0) == fit([heavy], temperature=1.0)


def test_rows_that_are_not_finite_are_not_learnt_from():
    part = field()
    spoilt = part.logits.copy()
    spoilt[0, 0] = np.nan
    without = Rows(part.logits[1:], part.answers[1:], part.weight[1:], part.group[1:])
    assert fit([dataclasses.replace(part, logits=spoilt)], temperature=1.0) == fit([without], temperature=1.0)


def test_score_that_wins_is_taken_and_judged_by_rows_it_did_not_see():
    part = field()
    found = learn(part, None, temperature=1.0)
    assert isinstance(found.deferral, Deferral)
    assert found.auroc > found.baseline + 0.04
    seen = score(part.logits, 1.0, found.deferral)
    assert not np.allclose(found.scores, seen)
    assert f"{found.auroc:.3f} against {found.baseline:.3f}" in found.reason


def test_score_that_does_not_win_stays_out_of_the_manifest():
    found = learn(field(telling=False), None, temperature=1.0)
    assert found.deferral is None
    assert found.auroc is not None
    assert "0.04 more are asked" in found.reason


def test_margin_decides():
    part = field()
    won = learn(part, None, temperature=1.0)
    gap = won.auroc - won.baseline
    assert learn(part, None, temperature=1.0, margin=gap).deferral is not None
    assert learn(part, None, temperature=1.0, margin=gap + 1e-6).deferral is None


def test_judgement_is_weighted_to_the_stream():
    part = field()
    weight = np.where(part.logits.argmax(1) < 2, 1.0, 20.0)
    plain, weighted = (
        learn(part, None, temperature=1.0),
        learn(dataclasses.replace(part, weight=weight), None, temperature=1.0),
    )
    assert np.array_equal(plain.scores, weighted.scores)
    assert plain.auroc != weighted.auroc


def test_source_rows_are_learnt_from_and_never_judged():
    part = field()
    other = field(80, seed=9, telling=False)
    with_source = learn(part, other, temperature=1.0)
    assert len(with_source.scores) == len(part.answers)
    assert with_source.baseline == learn(part, None, temperature=1.0).baseline
    assert not np.array_equal(with_source.scores, learn(part, None, temperature=1.0).scores)


def test_twins_share_a_fold():
    part = field(120)
    double = rows(np.repeat(part.logits, 2, axis=0), np.repeat(part.answers, 2), group=np.repeat(np.arange(120), 2))
    found = learn(double, None, temperature=1.0)
    assert np.array_equal(found.scores[0::2], found.scores[1::2])
    # Were each judged by a fit that saw its twin, one fold of the two would differ.
    apart = learn(dataclasses.replace(double, group=np.arange(240)), None, temperature=1.0)
    assert not np.array_equal(apart.scores[0::2], apart.scores[1::2])


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (field(99), "99 different uploads"),
        (rows(np.eye(4).repeat(50, 0), np.arange(4).repeat(50)), "0 wrong and 200 right"),
        (rows(np.eye(4).repeat(50, 0), (np.arange(4).repeat(50) + 1) % 4), "200 wrong and 0 right"),
        (dataclasses.replace(field(240), group=np.arange(240) // 3), "80 different uploads"),
    ],
)
def test_too_little_to_learn_from_is_said(part, said):
    found = learn(part, None, temperature=1.0)
    assert (found.deferral, found.scores, found.auroc) == (None, None, None)
    assert said in found.reason


def test_baseline_is_maximum_probability():
    from cloud_service.training.ranking import auroc

    part = field()
    expected = auroc(max_probability(part.logits, 2.0), part.wrong, part.weight)
    assert learn(part, None, temperature=2.0).baseline == expected
