"""Everything that is estimated for one device or a fleet, with what an operator should be told of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloud_service.estimates import agreement as agreeing
from cloud_service.estimates.accuracy import Accuracy, Labelled, accuracy
from cloud_service.estimates.agreement import Agreement
from cloud_service.estimates.composition import Basis, Composition, from_audits
from cloud_service.estimates.evidence import Tally, by_device

# Fewer audits leave an interval that is too wide to act on.
FEW_AUDITS = 30


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is warned about.

    Attributes:
        agreement: of the answers in the end; the task's goal.
        teacher_accuracy: a teacher that is surely below it is wrong often.
    """

    agreement: float
    teacher_accuracy: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of one task on one device; `device` None: on the whole fleet."""

    task: str
    device: str | None
    agreement: Agreement
    accuracy: tuple[Accuracy, ...]
    warnings: tuple[str, ...]


def estimates(
    task: str, tallies: Sequence[Tally], compositions: Mapping[str, Composition], expected: Expectations
) -> list[Estimate]:
    """The fleet first, then each device by name.

    Args:
        tallies: of the period's uploads.
        compositions: of the devices whose telemetry tells theirs; the others' is told from their audits.
    """
    own = by_device(tallies)
    devices = {
        name: agreeing.device(compositions.get(name) or from_audits(own.get(name, ())), own.get(name, ()))
        for name in sorted({*own, *compositions})
    }
    fleet = _estimate(task, None, agreeing.agreement(devices), tallies, expected)
    each = [
        _estimate(task, name, agreeing.agreement({name: device}), own.get(name, ()), expected)
        for name, device in devices.items()
    ]
    return [fleet, *each]


def _estimate(
    task: str, device: str | None, agreement: Agreement, tallies: Sequence[Tally], expected: Expectations
) -> Estimate:
    accuracies = tuple(found for labelled in Labelled if (found := accuracy(tallies, labelled)) is not None)
    warnings = [*_of_agreement(agreement, expected)]
    for found in accuracies:
        warnings += _of_accuracy(found, expected)
    return Estimate(task, device, agreement, accuracies, tuple(warnings))


def _of_agreement(found: Agreement, expected: Expectations) -> list[str]:
    warnings = []
    if found.samples and found.audits < FEW_AUDITS:
        warnings.append(
            f"{found.audits} audits say little about what stayed on the device: "
            'give the task offload = "hard+audit" and a larger audit_fraction, or wait; '
            "a device under pressure sends fewer"
        )
    if 0 < found.represented < 1:
        warnings.append(f"{1 - found.represented:.0%} of the samples are on devices without audits and not in this")
    if found.samples and found.represented and found.basis is Basis.AUDITS:
        warnings.append("without two telemetry reports of every device, hard samples that stayed there are not counted")
    if found.final.high < expected.agreement:
        warnings.append(
            f"at most {found.final.high:.1%} of the answers are the teacher's, the goal is {expected.agreement:.1%}"
        )
    return warnings


def _of_accuracy(found: Accuracy, expected: Expectations) -> list[str]:
    where = {
        Labelled.AUDITS: f"on {found.count} labelled audits",
        Labelled.ALL: f"on the {found.count} samples that people chose to label",
    }[found.labelled]
    warnings = []
    if found.teacher_better.high < 0.5:
        warnings.append(
            f"{where} the teacher is right less often ({found.teacher.value:.1%}) than the device itself "
            f"({found.edge.value:.1%}): corrections and training make it worse; the task needs another teacher"
        )
    if found.teacher.high < expected.teacher_accuracy:
        warnings.append(
            f"{where} the teacher is right in at most {found.teacher.high:.1%}: "
            "agreement with it says little about being right"
        )
    return warnings
