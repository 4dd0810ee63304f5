"""How often the device and the teacher are right, where people gave labels; agreement is not accuracy. Pure.

Whoever labels chooses, and chooses what looks wrong. Labels of audits alone are of samples that nobody chose, as long
as people label the audits as they come; every other label tells of what was labelled, no more. Weighted by the inverse
of their chance to be sent (Horvitz and Thompson 1952), with Wilson's interval over Kish's effective number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cloud_service.estimates.agreement import UNKNOWN, Interval
from cloud_service.estimates.evidence import Tally, total
from shared.intervals import wilson


class Labelled(StrEnum):
    """Which labels an accuracy rests on."""

    AUDITS = "audits"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of right answers, of the device's own and of the teacher's, on the same samples.

    Attributes:
        labelled: `audits`: samples that the device was sure of, drawn at random; `all`: whatever people labelled.
        count: labels that this rests on, of samples that the teacher answered.
        teacher_better: of the samples on which one of both was right, the share on which it was the teacher; its
            interval tells which of them is better (McNemar 1947).
    """

    labelled: Labelled
    count: int
    edge: Interval
    teacher: Interval
    teacher_better: Interval


def accuracy(tallies: Iterable[Tally], labelled: Labelled) -> Accuracy | None:
    """The accuracy over some tallies; None without a label."""
    judged = [
        tally
        for tally in tallies
        if tally.edge_right is not None
        and tally.teacher_right is not None
        and (tally.audit or labelled is Labelled.ALL)
    ]
    if not judged:
        return None
    one_right = [tally for tally in judged if tally.edge_right != tally.teacher_right]
    return Accuracy(
        labelled,
        sum(tally.count for tally in judged),
        edge=_interval(judged, lambda tally: tally.edge_right is True),
        teacher=_interval(judged, lambda tally: tally.teacher_right is True),
        teacher_better=_interval(one_right, lambda tally: tally.teacher_right is True),
    )


def _interval(tallies: Sequence[Tally], counts: Callable[[Tally], bool]) -> Interval:
    all_ = total(tallies)
    if not all_.count:
        return UNKNOWN
    share = min(1.0, total(tally for tally in tallies if counts(tally)).weight / all_.weight)
    low, high = wilson(share * all_.effective, all_.effective)
    return Interval(share, low, high)
