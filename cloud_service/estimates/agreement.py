"""How often devices answer as the teacher does, with intervals that cover. Pure.

Two shares of the samples that were answered in a period:

* `own`: the device's own answer was the teacher's, corrections aside: how good the student is.
* `final`: the answer in the end was the teacher's: the verdict where one came in time, else the device's own.

Only what stayed on the device is not known. Of samples that stayed because the device was sure, the audits are a random
draw: their rate of disagreement has Wilson's interval (1927) over (1 − p)·n audits, where p is the share that was drawn
(the finite population's correction) and n Kish's effective number (1965) where the chances differed. Samples that were
hard and stayed are taken to be like the hard ones that went up.

A fleet's rate is the sum over its devices, each weighted by its samples, and Wilson's interval once more over an
effective number of audits: the one that would give the stratified estimate's variance (Korn and Graubard 1998), and
never more than if all devices differed alike, since a device without disagreements among ten audits is not one without
variance. Adding up Wilson's bounds device by device, or by MOVER (Zou and Donner 2008), covers 85 to 100 % of the time
where devices have ten audits each (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloud_service.estimates.composition import Basis, Composition
from cloud_service.estimates.evidence import Tally, total
from shared.intervals import wilson

_Z = 1.959964  # of the normal distribution's middle 95 %


@dataclass(frozen=True, slots=True)
class Interval:
    """A share with its 95 % interval; without a value nothing is known."""

    value: float | None
    low: float
    high: float


UNKNOWN = Interval(None, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of a device, or of a fleet, with the teacher.

    Attributes:
        audits: with a verdict.
        samples: that were answered, about.
        kept, left: shares of them that the device was sure of and kept, and that were hard and stayed.
        represented: share of the fleet's samples on devices with audits; what the others did is not in it.
    """

    own: Interval
    final: Interval
    audits: int
    samples: float
    kept: float
    left: float
    basis: Basis
    represented: float = 1.0


@dataclass(frozen=True, slots=True)
class Device:
    """One device's samples, ready to be added to others'.

    Attributes:
        kept, left: how many the two unknown parts are; `kept_error` as in `Composition`.
        kept_rate, left_rate: share of them that differs, estimated.
        kept_audits, left_audits: effective numbers that the two rates rest on.
        own_known, final_known: how many of those that went up are known to differ.
    """

    samples: float
    kept: float
    left: float
    kept_error: float
    kept_rate: float
    left_rate: float
    kept_audits: float
    left_audits: float
    own_known: float
    final_known: float
    audits: int
    basis: Basis

    @property
    def known(self) -> bool:
        """There is an audit, or nothing that one would have to tell."""
        return self.samples > 0 and (self.kept_audits > 0 or self.kept == 0)


def device(composition: Composition, tallies: Sequence[Tally]) -> Device:
    """What the uploads of one device say about all of its samples."""
    judged = [tally for tally in tallies if tally.agreed is not None]
    audits = [tally for tally in judged if tally.audit]
    hard = [tally for tally in judged if not tally.audit]
    unseen = total(audits).unseen
    differing = total(tally for tally in audits if not tally.agreed).unseen
    answered, sent = _count(hard), _count(tally for tally in tallies if not tally.audit)
    # Hard ones without a verdict are as little known as those that stayed.
    unanswered = composition.hard * (1 - answered / sent) if sent else composition.hard
    left = composition.left + unanswered
    drawn = composition.audits / max(composition.audits + composition.kept, 1.0)
    seen = composition.hard - unanswered
    return Device(
        samples=composition.samples,
        kept=composition.kept,
        left=left,
        kept_error=composition.kept_error,
        kept_rate=differing.weight / unseen.weight if unseen.weight > 0 else 0.0,
        left_rate=_share(hard, answered),
        kept_audits=unseen.effective * (1 - drawn),
        left_audits=1 / (1 / answered + 1 / left) if answered and left else 0.0,
        own_known=composition.audits * _share(audits, _count(audits)) + seen * _share(hard, answered),
        final_known=composition.audits * _share(audits, _count(audits), late=True)
        + seen * _share(hard, answered, late=True),
        audits=_count(audits),
        basis=composition.basis,
    )


def agreement(devices: Mapping[str, Device]) -> Agreement:
    """The agreement of one device, or of several together; devices of which nothing is known are left out."""
    known = [each for each in devices.values() if each.known]
    everything = sum(each.samples for each in devices.values())
    if not known:
        return Agreement(UNKNOWN, UNKNOWN, 0, everything, 0.0, 0.0, Basis.AUDITS, 0.0)
    samples = sum(each.samples for each in known)
    return Agreement(
        own=_interval(known, samples, sum(each.own_known for each in known)),
        final=_interval(known, samples, sum(each.final_known for each in known)),
        audits=sum(each.audits for each in known),
        samples=everything,
        kept=sum(each.kept for each in known) / samples,
        left=sum(each.left for each in known) / samples,
        basis=Basis.TELEMETRY if all(each.basis is Basis.TELEMETRY for each in known) else Basis.AUDITS,
        represented=samples / everything,
    )


def _interval(devices: Sequence[Device], samples: float, known: float) -> Interval:
    """1 − (known + kept · rate + left · rate) / samples; the parts' errors are independent and add up in squares."""
    kept = _pooled([_Part(each.kept, each.kept_rate, each.kept_audits) for each in devices])
    left = _pooled([_Part(each.left, each.left_rate, each.left_audits) for each in devices])
    differing = (known + kept.number * kept.rate + left.number * left.rate) / samples
    # ∂(differing)/∂(kept) = (rate − differing) / samples, of each device.
    miscounted = _Z * math.hypot(*(each.kept_error * (each.kept_rate - differing) for each in devices))
    more = math.hypot(kept.number * (kept.high - kept.rate), left.number * (left.high - left.rate), miscounted)
    fewer = math.hypot(kept.number * (kept.rate - kept.low), left.number * (left.rate - left.low), miscounted)
    value = 1 - differing
    return Interval(_bounded(value), _bounded(value - more / samples), _bounded(value + fewer / samples))


@dataclass(frozen=True, slots=True)
class _Part:
    """Samples of one device with a rate that is estimated from so many."""

    number: float
    rate: float
    estimated_from: float


@dataclass(frozen=True, slots=True)
class _Pool:
    number: float
    rate: float
    low: float
    high: float


def _pooled(parts: Sequence[_Part]) -> _Pool:
    """The rate over all parts; one that nothing is known of is taken to be like the others."""
    number = sum(part.number for part in parts)
    known = [part for part in parts if part.number > 0 and part.estimated_from > 0]
    if not known:
        return _Pool(number, 0.5, 0.0, 1.0)
    whole = sum(part.number for part in known)
    rate = sum(part.number * part.rate for part in known) / whole
    alike, differing = 0.0, 0.0
    for part in known:
        share = (part.number / whole) ** 2 / part.estimated_from
        alike += share
        differing += share * part.rate * (1 - part.rate)
    effective = min(1 / alike, rate * (1 - rate) / differing) if differing > 0 else 1 / alike
    low, high = wilson(rate * effective, effective)
    return _Pool(number, rate, low, high)


def _share(tallies: Iterable[Tally], answered: int, *, late: bool = False) -> float:
    """Share of the answered that differ; late: that differ and were corrected too late to be the answer."""
    return _count(t for t in tallies if not t.agreed and not (late and t.in_time)) / answered if answered else 0.0


def _count(tallies: Iterable[Tally]) -> int:
    return sum(tally.count for tally in tallies)


def _bounded(share: float) -> float:
    return min(1.0, max(0.0, share))
