import numpy as np
import pytest
import torch

from cloud_service.training.temperature import choose_temperature, fit_temperature


def drawn(count=300, *, sharpness=1.0, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, (count, 5))
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    answers = np.array([rng.choice(5, p=row) for row in p])
    return (true * sharpness).astype(np.float32), answers, rng.choice([1.0, 20.0], count)


def by_lbfgs(logits, answers, weight):
    z, y, w = torch.from_numpy(logits).double(), torch.from_numpy(answers), torch.from_numpy(weight)
    log_t = torch.zeros((), dtype=torch.double, requires_grad=True)
    search = torch.optim.LBFGS([log_t], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss():
        search.zero_grad()
        losses = torch.nn.functional.cross_entropy(z * torch.exp(-log_t), y, reduction="none")
        total = (losses * w).sum() / w.sum()
        total.backward()
        return total.detach()

    search.step(loss)
    return float(log_t.detach().exp())


@pytest.mark.parametrize("sharpness", [0.25, 1.0, 6.0])
def test_golden_section_finds_what_lbfgs_finds(sharpness):
    rows = drawn(sharpness=sharpness)
    assert fit_temperature(*rows) == pytest.approx(by_lbfgs(*rows), rel=1e-3)


def test_enough_rows_are_fitted_without_a_word():
    found = choose_temperature(*drawn(sharpness=2.0))
    assert found.note is None
    assert found.temperature == pytest.approx(2.0, rel=0.3)


def test_few_rows_leave_the_logits_as_they_are():
    logits, answers, weight = drawn(29, sharpness=4.0)
    found = choose_temperature(logits, answers, weight)
    assert found.temperature == 1.0
    assert "29 samples are too few" in found.note


def test_answers_of_one_class_tell_no_temperature():
    logits, _, weight = drawn(100)
    found = choose_temperature(logits, np.full(100, 3), weight)
    assert found.temperature == 1.0
    assert "alike" in found.note


@pytest.mark.parametrize(("shift", "said"), [(0, "every answer is right"), (1, "nothing to do with the logits")])
def test_likelihood_without_a_floor_leaves_the_logits_as_they_are(shift, said):
    logits = np.tile(np.eye(4, dtype=np.float32) * 5, (10, 1))
    found = choose_temperature(logits, (logits.argmax(1) + shift) % 4, np.ones(40))
    assert found.temperature == 1.0
    assert said in found.note
