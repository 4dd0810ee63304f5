import numpy as np
import pytest

from cloud_service.teacher.composition import Member, compose, load_views, shared_temperature
from cloud_service.teacher.model import Outputs
from cloud_service.teacher.settings import TeacherSettings
from shared.errors import SettingsError
from shared.uncertainty import softmax


def says(probability, *, embedding=None):
    """Answers every sample with [p, 1 − p]."""

    def network(samples):
        logits = np.tile(np.log(np.array([probability, 1 - probability], np.float32)), (len(samples), 1))
        return Outputs(logits, None if embedding is None else np.full((len(samples), 1), embedding, np.float32))

    return network


def brightness(samples):
    return Outputs(np.stack([samples.mean(axis=1), np.zeros(len(samples))], axis=1).astype(np.float32))


X = np.array([[4, 4], [8, 8]], np.uint8)


def test_lone_member_answers_with_its_own_logits_over_its_temperature():
    given = compose([Member(brightness, temperature=2.0)])(X)
    assert given.logits.tolist() == [[2.0, 0.0], [4.0, 0.0]]
    assert given.disagreement is None


def test_ensemble_averages_probabilities_by_share_and_keeps_the_first_embedding():
    members = [Member(says(0.9), share=3.0), Member(says(0.5, embedding=7.0)), Member(says(0.5, embedding=8.0))]
    given = compose(members)(X)
    assert softmax(given.logits)[0] == pytest.approx([0.74, 0.26], abs=1e-6)
    assert given.embedding.tolist() == [[7.0], [7.0]]
    assert (given.disagreement > 0).all()


def test_each_member_has_its_own_temperature():
    given = compose([Member(brightness, temperature=4.0), Member(brightness, temperature=4.0)])(X)
    assert softmax(given.logits) == pytest.approx(softmax(np.array([[1.0, 0.0], [2.0, 0.0]])))


def test_views_share_their_members_weight():
    looked = []

    def network(samples):
        looked.append(samples.tolist())
        return brightness(samples)

    given = compose([Member(network, views=lambda x: np.stack([x, x // 2])), Member(says(0.5))])(X)
    assert looked == [X.tolist(), (X // 2).tolist()]
    expected = (softmax(brightness(X).logits) + softmax(brightness(X // 2).logits)) / 4 + 0.25
    assert softmax(given.logits) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("views", [lambda x: x, lambda x: x[None].astype(np.float32), lambda x: x[None][:0]])
def test_views_of_another_shape_or_dtype_are_refused(views):
    with pytest.raises(ValueError, match="augmentations gave"):
        compose([Member(brightness, views=views)])(X)


def test_views_are_found_by_their_setting():
    teacher = TeacherSettings(model="t.onnx", augmentations="tests.sim.teachers:mirrored")
    assert load_views(teacher, task="t")(X).shape == (2, 2, 2)
    assert load_views(TeacherSettings(model="t.onnx"), task="t") is None
    with pytest.raises(SettingsError, match=r"tasks\.t\.teacher\.augmentations"):
        load_views(TeacherSettings(model="t.onnx", augmentations="tests.sim.teachers:none"), task="t")


def test_temperature_of_several_is_theirs_where_they_share_it():
    two, three = (TeacherSettings(model="t.onnx", temperature=value) for value in (2.0, 3.0))
    assert shared_temperature([two, two]) == 2.0
    assert shared_temperature([two, three]) == 1.0
