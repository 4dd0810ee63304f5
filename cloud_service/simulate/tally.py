"""What a run counted, and how long answers took: memory that does not grow with the run. Pure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

# Each bin of the times is 2 % wide: quantiles are that exact.
_GROWTH = math.log(1.02)
_SMALLEST_S = 1e-6


class Times:
    """Durations in seconds, in logarithmic bins."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0
        self.longest_s = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._bins[int(math.log(max(seconds, _SMALLEST_S) / _SMALLEST_S) / _GROWTH)] += 1
        self.count += 1
        self.longest_s = max(self.longest_s, seconds)

    def quantile_s(self, share: float) -> float | None:
        """The duration that this share does not exceed, within 2 %; None without any."""
        wanted = share * self.count
        seen = 0
        for number in sorted(self._bins):
            seen += self._bins[number]
            if seen >= wanted:
                return min(_SMALLEST_S * math.exp((number + 0.5) * _GROWTH), self.longest_s)
        return None

    def summary_ms(self) -> dict[str, float | None]:
        """p50, p95, p99 and the longest, in milliseconds."""
        found = {f"p{round(share * 100)}": self.quantile_s(share) for share in (0.5, 0.95, 0.99)}
        found["longest"] = self.longest_s if self.count else None
        return {name: None if value is None else round(value * 1e3, 3) for name, value in found.items()}


@dataclass(slots=True)
class Tally:
    """Counts of a whole fleet.

    Attributes:
        samples: made by the devices; each ends in `verdicts`, `receipted` or `refused`, or is `lost`.
        dropped: not made, because the device kept as many as it may.
        transmissions: sample frames sent; `resent`: of these, repeated for want of an answer or after a reconnect;
            `duplicates`: repeated on purpose.
        spoilt: malformed frames sent on purpose, by kind.
        verdicts: samples answered; `late`: of these, after their deadline.
        receipted: samples that a receipt named before their verdict.
        refused: samples that the service will never take.
        repeated: answers that named nothing which the device still waited for.
        unreadable: messages that came down and are not of the contract.
        connections, failed, disconnects: opened; tried in vain; lost or left.
        verdict, receipt: from the moment a sample was due to that word about it.
        late_start: from that moment to its first transmission: what the simulator or a lost connection adds.
    """

    samples: int = 0
    dropped: int = 0
    transmissions: int = 0
    resent: int = 0
    duplicates: int = 0
    spoilt: Counter[str] = field(default_factory=Counter)
    verdicts: int = 0
    late: int = 0
    receipted: int = 0
    refused: int = 0
    repeated: int = 0
    unreadable: int = 0
    connections: int = 0
    failed: int = 0
    disconnects: int = 0
    broker_refused: int = 0
    verdict: Times = field(default_factory=Times)
    receipt: Times = field(default_factory=Times)
    late_start: Times = field(default_factory=Times)
