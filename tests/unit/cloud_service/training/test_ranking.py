import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_service.training.ranking import aurc, auroc, expected_error, rank, reliability

SCORES = np.array([0.1, 0.4, 0.35, 0.8], dtype=np.float32)
WRONG = np.array([False, False, True, True])
ONES = np.ones(4)


def test_auroc_of_four_rows_by_hand():
    # Pairs (wrong, right): 0.35 beats 0.1 and loses to 0.4; 0.8 beats both: 3 of 4.
    assert auroc(SCORES, WRONG, ONES) == 0.75


def test_auroc_counts_a_pair_with_the_product_of_its_weights():
    # (0.35, 0.1) 2·1 won, (0.35, 0.4) 2·3 lost, (0.8, 0.1) 1·1 and (0.8, 0.4) 1·3 won: 6 of 12.
    assert auroc(SCORES, WRONG, np.array([1.0, 3.0, 2.0, 1.0])) == pytest.approx(0.5)


def test_auroc_of_equal_scores_is_chance():
    assert auroc(np.zeros(4), WRONG, ONES) == 0.5


@pytest.mark.parametrize("wrong", [[True] * 4, [False] * 4])
def test_auroc_of_one_kind_is_none(wrong):
    assert auroc(SCORES, np.array(wrong), ONES) is None


def test_aurc_of_four_rows_by_hand():
    # From the easiest: right (risk 0), wrong (1/2), right (1/3), wrong (2/4); the mean is 4/3 / 4.
    assert aurc(SCORES, WRONG, ONES) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)


def test_aurc_of_equal_scores_is_the_risk():
    assert aurc(np.zeros(4), np.array([True, False, False, False]), ONES) == pytest.approx(0.25)


def test_aurc_of_a_tie_is_the_mean_over_its_orders():
    # One wrong and one right of equal score first, then a right one: orders give (1, 1/2, 1/3) and (0, 1/2, 1/3).
    got = aurc(np.array([0.0, 0.0, 1.0]), np.array([True, False, False]), np.ones(3))
    assert got == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)


def test_aurc_counts_weights():
    # The wrong row stands for 3 of 4: risks 0 at weight 1, 3/4 at weight 4.
    assert aurc(np.array([0.0, 1.0]), np.array([False, True]), np.array([1.0, 3.0])) == pytest.approx(3 * 0.75 / 4)


def test_aurc_of_nothing_is_a_mistake():
    with pytest.raises(ValueError, match="needs rows"):
        aurc(SCORES[:0], WRONG[:0], ONES[:0])


def test_rank_has_both_numbers():
    found = rank(SCORES, WRONG, ONES)
    assert (found.auroc, found.aurc) == (auroc(SCORES, WRONG, ONES), aurc(SCORES, WRONG, ONES))


def test_reliability_of_five_answers_by_hand():
    # 15 bins: 0.62 and 0.66 are in bin 9, [0.6, 0.667); 0.95, 0.97 and 1.0 in bin 14.
    top = np.array([0.62, 0.66, 0.95, 0.97, 1.0])
    bins = reliability(top, np.array([True, False, True, True, False]), np.ones(5))
    assert [(part.rows, part.share) for part in bins] == [(2, 0.4), (3, 0.6)]
    assert [part.low for part in bins] == pytest.approx([9 / 15, 14 / 15])
    assert [part.confidence for part in bins] == pytest.approx([0.64, (0.95 + 0.97 + 1.0) / 3])
    assert [part.right for part in bins] == pytest.approx([0.5, 2 / 3])
    assert expected_error(bins) == pytest.approx(0.4 * 0.14 + 0.6 * (2.92 / 3 - 2 / 3))


def test_reliability_counts_weights():
    (only,) = reliability(np.array([0.9, 0.9]), np.array([True, False]), np.array([3.0, 1.0]))
    assert only.right == pytest.approx(0.75)
    assert expected_error((only,)) == pytest.approx(0.15)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 60), digits=st.integers(0, 2))
def test_auroc_is_that_of_scikit_learn(seed, count, digits):
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    scores, weight = rng.random(count).round(digits), rng.uniform(0.5, 20.0, count)
    wrong = rng.random(count) < 0.4
    wrong[:2] = True, False
    expected = roc_auc_score(wrong, scores, sample_weight=weight)
    assert auroc(scores, wrong, weight) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40))
def test_order_of_the_rows_does_not_matter(seed, count):
    rng = np.random.default_rng(seed)
    scores, weight, wrong = rng.random(count).round(1), rng.choice([1.0, 20.0], count), rng.random(count) < 0.5
    mixed = rng.permutation(count)
    assert aurc(scores[mixed], wrong[mixed], weight[mixed]) == pytest.approx(aurc(scores, wrong, weight))
