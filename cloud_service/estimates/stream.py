"""Thins a device's uploads to a stream in which each of its samples is as likely as any other. Pure.

Hard samples go up always, confident ones with the audits' probability: together they are a biased picture of what the
device sees. Here every audit stays, and a hard one stays with the probability that the newest audit was drawn with. A
hash of the sample's id decides, so that every replica, and a service that starts again, keeps the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Scored:
    """An uploaded sample as the detectors see it.

    Attributes:
        number: the cloud's own order.
        score: the device's raw score, its `hardness`.
        audit: drawn at random, with `inclusion_probability`; False: it was hard.
        agreed: the device said what the teacher said; None: no verdict (yet).
    """

    number: int
    id: UUID
    device: str
    task: str
    bundle_version: str
    score: float
    audit: bool
    inclusion_probability: float
    agreed: bool | None


class Thinning:
    """One device's; before its first audit nothing passes, since nobody knows which share should."""

    def __init__(self) -> None:
        self.fraction: float | None = None

    def keeps(self, sample: Scored) -> bool:
        """Whether the sample is in the stream; remembers an audit's probability."""
        if sample.audit:
            self.fraction = sample.inclusion_probability
            return True
        return self.fraction is not None and drawn(sample.id) < self.fraction


def drawn(sample: UUID) -> float:
    """A number in [0, 1) that is the sample's own, evenly spread over samples."""
    return int.from_bytes(blake2b(sample.bytes, digest_size=7).digest(), "big") / 2**56
