"""Devices in the field of which the truth is known: what they answer, what goes up, and what a cloud could count of it.

`Period` is a device's period as numbers alone, quick enough for thousands of them. `Device` is one sample after the
other, with scores that can drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from cloud_service.estimates.composition import Basis, Composition
from cloud_service.estimates.evidence import Tally
from cloud_service.estimates.stream import Scored


def tally(
    count,
    *,
    audit,
    agreed=True,
    weight=1.0,
    in_time=True,
    edge_right=None,
    teacher_right=None,
    device="cam-1",
) -> Tally:
    """Samples of equal weight."""
    return Tally(
        device, audit, agreed, in_time, edge_right, teacher_right, int(count), count * weight, count * weight**2
    )


@dataclass(frozen=True)
class Period:
    """What happened on one device, known to the last sample.

    Attributes:
        confident, hard, left: samples that the device was sure of, that went up because they were hard, and that were
            hard and stayed.
        audits: of the confident, those that were drawn, each with the chance `fraction`.
        *_differing: how many of these the teacher would answer otherwise.
    """

    name: str
    confident: int
    hard: int
    left: int
    audits: int
    fraction: float
    kept_differing: int
    audits_differing: int
    hard_differing: int
    left_differing: int

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        name: str = "cam-1",
        confident: int,
        fraction: float,
        differ: float,
        hard: int = 0,
        left: int = 0,
        hard_differ: float = 0.4,
    ) -> Period:
        audits = int(rng.binomial(confident, fraction))
        return cls(
            name,
            confident,
            hard,
            left,
            audits,
            fraction,
            int(rng.binomial(confident - audits, differ)),
            int(rng.binomial(audits, differ)),
            int(rng.binomial(hard, hard_differ)),
            int(rng.binomial(left, hard_differ)),
        )

    @property
    def samples(self) -> int:
        return self.confident + self.hard + self.left

    @property
    def own_differing(self) -> int:
        return self.kept_differing + self.audits_differing + self.hard_differing + self.left_differing

    @property
    def final_differing(self) -> int:
        return self.kept_differing + self.left_differing

    @property
    def tallies(self) -> list[Tally]:
        weight = 1.0 / self.fraction
        return [
            tally(self.audits - self.audits_differing, audit=True, weight=weight, device=self.name),
            tally(self.audits_differing, audit=True, agreed=False, weight=weight, device=self.name),
            tally(self.hard - self.hard_differing, audit=False, device=self.name),
            tally(self.hard_differing, audit=False, agreed=False, device=self.name),
        ]

    @property
    def composition(self) -> Composition:
        """As telemetry counts it."""
        return Composition(self.confident - self.audits, self.audits, self.hard, self.left, Basis.TELEMETRY)


@dataclass
class Device:
    """Samples one by one; the log-odds of their scores are normal around `centre`.

    Attributes:
        threshold: score from which a sample is hard and goes up.
        fraction: chance of a confident one to be an audit.
        differ: log-odds at which the teacher would say something else in half of the cases.
        memory: how much of a sample's deviation stays in the next one's, as in a video.
    """

    rng: np.random.Generator
    name: str = "cam-1"
    version: str = "v1"
    threshold: float = 0.2
    fraction: float = 0.05
    centre: float = -3.0
    spread: float = 1.5
    differ: float = 3.0
    memory: float = 0.0
    seen: int = 0
    _deviation: float = 0.0

    def uploads(self, samples: int, *, shift: float = 0.0) -> Iterator[Scored]:
        """What of the next samples goes up; `shift`: of the mean, in standard deviations of the log-odds."""
        for _ in range(samples):
            self.seen += 1
            fresh = math.sqrt(1 - self.memory**2) * self.rng.normal()
            self._deviation = self.memory * self._deviation + fresh
            odds = self.centre + self.spread * (self._deviation + shift)
            score = 1 / (1 + math.exp(-odds))
            hard = score >= self.threshold
            if hard or self.rng.random() < self.fraction:
                yield Scored(
                    number=self.seen,
                    id=UUID(bytes=self.rng.bytes(16)),
                    device=self.name,
                    task="digits",
                    bundle_version=self.version,
                    score=score,
                    audit=not hard,
                    inclusion_probability=1.0 if hard else self.fraction,
                    agreed=bool(self.rng.random() > 1 / (1 + math.exp(self.differ - odds))),
                )
