"""The distillation loss against hand-computed values and against plain torch's autograd."""

import math

import pytest
import torch

from cloud_service.training import loss

TEACHER = torch.tensor([[0.5, 0.3, 0.2]])
STUDENT = torch.tensor([[0.6, 0.3, 0.1]])


def logits(*, seed, shape=(6, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_loss_of_the_textbook_example_is_0_938():
    # The source material says 2.42; with α = β = 1, T² = 9 it is 9·0.04747 + 0.51083.
    kl = loss.kl_divergence(TEACHER.log(), STUDENT.log())
    ce = -STUDENT[0, 0].log()
    parts = loss.weigh(kl, ce, temperature=3.0, alpha=1.0, beta=1.0)
    assert parts.kl.item() == pytest.approx(0.04747, abs=1e-5)
    assert parts.ce.item() == pytest.approx(0.51083, abs=1e-5)
    assert parts.total.item() == pytest.approx(0.938, abs=5e-4)


def test_temperature_divides_logits_before_the_softmax():
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    parts = loss.distillation_loss(student, teacher, torch.tensor([1]), temperature=2.0, alpha=1.0, beta=0.5)
    p, q = torch.softmax(torch.tensor([0.0, 2.0]), 0), torch.softmax(torch.tensor([1.0, 0.0]), 0)
    kl = float((p * (p.log() - q.log())).sum())
    ce = math.log(1 + math.exp(2.0))
    assert parts.kl.item() == pytest.approx(kl, rel=1e-5)
    assert parts.ce.item() == pytest.approx(ce, rel=1e-5)
    assert parts.total.item() == pytest.approx(4 * kl + 0.5 * ce, rel=1e-5)


def test_loss_is_zero_where_student_and_teacher_agree():
    same = torch.randn((2, 5, 3), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros((2, 5), dtype=torch.int64)
    parts = loss.distillation_loss(same, same, labels, temperature=2.0, alpha=1.0, beta=0.0)
    assert parts.total.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient_is_that_of_the_definition_in_plain_torch(temperature):
    teacher, labels = logits(seed=1) * 3.0, torch.tensor([0, 3, 1, 1, 2, 0])
    ours, plain = (logits(seed=2).requires_grad_() for _ in range(2))
    loss.distillation_loss(ours, teacher, labels, temperature=temperature, alpha=0.7, beta=0.3).total.backward()

    p = torch.exp(teacher / temperature) / torch.exp(teacher / temperature).sum(1, keepdim=True)
    q = torch.exp(plain / temperature) / torch.exp(plain / temperature).sum(1, keepdim=True)
    hard = torch.exp(plain) / torch.exp(plain).sum(1, keepdim=True)
    kl = (p * torch.log(p / q)).sum() / len(labels)
    ce = -torch.log(hard[torch.arange(len(labels)), labels]).mean()
    (0.7 * temperature**2 * kl + 0.3 * ce).backward()
    assert torch.allclose(ours.grad, plain.grad, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_gradient_is_the_one_on_paper(temperature):
    # d/dz of α·T²·KL is α·T·(q_T − p_T), of β·CE it is β·(q − y); each over the number of samples.
    teacher, labels = logits(seed=3), torch.tensor([0, 3, 1, 1, 2, 0])
    student = logits(seed=4).requires_grad_()
    loss.distillation_loss(student, teacher, labels, temperature=temperature, alpha=0.9, beta=0.2).total.backward()
    z = student.detach()
    soft = torch.softmax(z / temperature, 1) - torch.softmax(teacher / temperature, 1)
    hard = torch.softmax(z, 1) - torch.nn.functional.one_hot(labels, 4)
    assert torch.allclose(student.grad, (0.9 * temperature * soft + 0.2 * hard) / len(labels), atol=1e-12)


def test_feature_part_is_zero_for_equal_directions_and_two_for_opposite_ones():
    parts = loss.weigh(torch.tensor(0.5), torch.tensor(0.25), temperature=1.0, alpha=1.0, beta=1.0)
    one = torch.tensor([[3.0, 4.0]])
    assert loss.with_feature(parts, one * 7.0, one, weight=2.0).total.item() == pytest.approx(0.75)
    opposite = loss.with_feature(parts, -one, one, weight=2.0)
    assert opposite.feature.item() == pytest.approx(2.0)
    assert opposite.total.item() == pytest.approx(0.75 + 4.0)
