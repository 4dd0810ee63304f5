"""The distillation loss: L = α·T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)) + β·CE(y, z_s) + γ·(1 − cos(e_s, e_t)).

Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network"; the last part, off by default, asks for the
direction of the teacher's embedding, through a linear map that is thrown away afterwards (Romero et al. 2015,
"FitNets").
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class LossParts:
    """A loss and what it is made of; each a scalar, averaged over the samples; `feature` is None where it is off."""

    total: Tensor
    kl: Tensor
    ce: Tensor
    feature: Tensor | None = None


def kl_divergence(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """Σ p·(log p − log q) over the last axis, averaged over the rest; p is the teacher's."""
    return (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(-1).mean()


def weigh(kl: Tensor, ce: Tensor, *, temperature: float, alpha: float, beta: float) -> LossParts:
    """α·T²·KL + β·CE; T² keeps the gradient's size when T changes."""
    return LossParts(total=alpha * temperature**2 * kl + beta * ce, kl=kl, ce=ce)


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, alpha: float, beta: float
) -> LossParts:
    """The loss of logits [..., C] against the teacher's [..., C] and labels int64 [...].

    T divides the logits before the softmax; the cross-entropy is of the student's plain logits.
    """
    kl = kl_divergence(
        functional.log_softmax(teacher / temperature, dim=-1), functional.log_softmax(student / temperature, dim=-1)
    )
    if beta == 0.0:
        return weigh(kl, kl.new_zeros(()), temperature=temperature, alpha=alpha, beta=beta)
    ce = functional.cross_entropy(student.flatten(0, -2), labels.flatten())
    return weigh(kl, ce, temperature=temperature, alpha=alpha, beta=beta)


def with_feature(parts: LossParts, student: Tensor, teacher: Tensor, *, weight: float) -> LossParts:
    """The loss with γ·(1 − cos) of embeddings [..., E] of one width added; 0 where both point the same way."""
    feature = (1.0 - functional.cosine_similarity(student, teacher, dim=-1)).mean()
    return LossParts(total=parts.total + weight * feature, kl=parts.kl, ce=parts.ce, feature=feature)
