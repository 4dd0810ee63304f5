"""What may go up at most: the limits of a budget, as a share to aim at and as buckets that refuse. Pure."""

from __future__ import annotations

from edge_agent.deciding.averages import Average
from edge_agent.deciding.buckets import DAY_S, ByteBucket, RateBucket
from edge_agent.deciding.settings import BudgetSettings

_LONGEST_PAUSE_S = DAY_S / 10  # by then the bucket of bytes is full


class Limits:
    """A share of the samples, or bytes a day, or both, or none.

    Bytes a day are a share, too: of so many samples a second of such a size, both measured.

    Attributes:
        rate, bytes: the buckets; None where there is no such limit.
        interval_s: seconds between two samples, averaged.
        size_bytes: of a sample that was sent, averaged.
    """

    def __init__(self, settings: BudgetSettings) -> None:
        self.rate = None if settings.offload is None else RateBucket(settings.offload)
        self.bytes = None if settings.bytes_per_day is None else ByteBucket(settings.bytes_per_day)
        self.interval_s, self.size_bytes = Average(), Average()
        self._passed_s: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return self.rate is not None or self.bytes is not None

    def admits(self, size_bytes: int, now_s: float) -> bool:
        """Whether a sample of that size may go up now."""
        if self.rate is not None and not self.rate.admits():
            return False
        return self.bytes is None or self.bytes.admits(size_bytes, now_s)

    def passed(self, size_bytes: int, now_s: float, *, sent: bool) -> None:
        """A sample has passed, and was sent or not; only the size of one that was sent counts."""
        if self.rate is not None:
            self.rate.passed(sent=sent)
        if self.bytes is not None:
            if self._passed_s is not None:
                self.interval_s.observe(min(now_s - self._passed_s, _LONGEST_PAUSE_S))
            self._passed_s = now_s
            if sent:
                self.size_bytes.observe(size_bytes)
                self.bytes.sent(size_bytes, now_s)

    @property
    def share(self) -> float:
        """The share of the samples that the limits allow in the long run; 1: all."""
        share = 1.0 if self.rate is None else self.rate.share
        return share if self.bytes is None else min(share, self._affordable(self.bytes))

    @property
    def share_now(self) -> float:
        """The share to aim at: from half of the long run's, when the bucket is empty, to half more, when it is full."""
        share = 1.0 if self.rate is None else self.rate.share * (0.5 + self.rate.fullness)
        if self.bytes is not None:
            share = min(share, self._affordable(self.bytes) * (0.5 + max(self.bytes.fullness, 0.0)))
        return share

    def _affordable(self, bucket: ByteBucket) -> float:
        if not (self.interval_s.seen and self.size_bytes.seen):
            return 1.0
        return min(1.0, bucket.bytes_per_s * self.interval_s.value / max(self.size_bytes.value, 1.0))
