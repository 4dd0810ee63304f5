import numpy as np
import pytest

from cloud_service.teacher.model import Outputs, as_rows, mix, normalised, tempered
from shared.uncertainty import softmax


def logs(*rows):
    return np.log(np.array(rows, dtype=np.float32))


def test_mix_is_the_mean_of_the_probabilities():
    logits, _ = mix([logs([0.8, 0.2]), logs([0.4, 0.6])], [1.0, 1.0])
    assert softmax(logits)[0] == pytest.approx([0.6, 0.4], abs=1e-6)
    logits, _ = mix([logs([0.8, 0.2]), logs([0.4, 0.6])], [3.0, 1.0])
    assert softmax(logits)[0] == pytest.approx([0.7, 0.3], abs=1e-6)


def test_mix_does_not_let_the_largest_logits_outvote_the_rest():
    loud, quiet = np.array([[100.0, 0.0]], np.float32), logs([0.1, 0.9])
    logits, _ = mix([loud, quiet, quiet], [1, 1, 1])
    assert softmax(logits)[0].argmax() == 1


def test_disagreement_is_zero_where_all_agree_and_ln_m_where_each_is_sure_of_another():
    same = logs([0.7, 0.3])
    assert mix([same, same], [1, 1])[1] == pytest.approx([0.0], abs=1e-6)
    sure = np.array([[200.0, 0.0]], np.float32)
    logits, disagreement = mix([sure, sure[:, ::-1]], [1, 1])
    assert disagreement == pytest.approx([np.log(2)], abs=1e-6)
    assert softmax(logits)[0] == pytest.approx([0.5, 0.5])


def test_mix_spreads_what_is_not_finite_to_that_row_alone():
    spoilt = np.array([[np.nan, 0.0], [1.0, 0.0]], np.float32)
    logits, disagreement = mix([spoilt, np.zeros((2, 2), np.float32)], [1, 1])
    assert np.isnan(softmax(logits)[0]).all()
    assert np.isfinite(softmax(logits)[1]).all()
    assert np.isnan(disagreement[0])
    assert np.isfinite(disagreement[1])


def test_class_that_nobody_thinks_possible_stays_impossible():
    logits, _ = mix([np.array([[300.0, 0.0]], np.float32)] * 2, [1, 1])
    assert softmax(logits)[0].tolist() == [1.0, 0.0]


def test_embedding_is_normalised_and_a_zero_stays():
    rows = normalised(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]


def test_rows_carry_what_there_is():
    plain = as_rows(np.eye(2, dtype=np.float32))
    assert [(row.logits.tolist(), row.embedding, row.disagreement) for row in plain] == [
        ([1.0, 0.0], None, None),
        ([0.0, 1.0], None, None),
    ]
    full = as_rows(Outputs(np.eye(2), np.array([[2.0], [5.0]]), np.array([0.1, 0.2], np.float32)))
    assert [row.embedding.tolist() for row in full] == [[1.0], [1.0]]
    assert full[1].disagreement == pytest.approx(0.2)


def test_rows_of_an_embedding_for_other_samples_are_refused():
    with pytest.raises(ValueError, match="zip"):
        as_rows(Outputs(np.eye(2), np.ones((3, 4))))


def test_temperature_divides_logits():
    given = tempered(Outputs(np.array([[4.0, 0.0]], np.float32), np.ones((1, 1))), 2.0)
    assert given.logits.tolist() == [[2.0, 0.0]]
    assert given.embedding is not None
