"""What a simulated fleet is told to do; see `edgeloop simulate --help`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cloud_service.simulate.arrivals import Pattern
from shared.mqtt import BrokerSettings

_BURST_PERIOD_S = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """How much comes, and when.

    Attributes:
        rate: samples a second and device, on average.
        period_s: of the pattern; None: of bursts ten seconds, of the day all of the time.
        ramp: connections opened a second.
    """

    rate: float = 1.0
    duration_s: float = 60.0
    pattern: Pattern = Pattern.STEADY
    period_s: float | None = None
    ramp: float = 500.0

    @property
    def swing_s(self) -> float:
        """The pattern's period."""
        return self.period_s or (self.duration_s if self.pattern is Pattern.DAY else _BURST_PERIOD_S)


@dataclass(frozen=True, slots=True)
class Faults:
    """What devices and links get wrong.

    Attributes:
        churn: how often a device loses its connection, a minute; half of the times without a word.
        duplicates, malformed: share of transmissions that are sent twice, or followed by a spoilt frame.
    """

    churn: float = 0.0
    duplicates: float = 0.0
    malformed: float = 0.0


@dataclass(frozen=True, slots=True)
class Samples:
    """What the samples say of themselves.

    Attributes:
        labels: predictions are drawn from 0 to this, exclusive.
        audits: share of the samples that say they were drawn at random.
        deadline_ms: how long somebody waits for each verdict; None: nobody.
    """

    task: str = "digits"
    labels: int = 10
    audits: float = 0.05
    deadline_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a device keeps what has no answer.

    Attributes:
        most: samples; it drops more.
        resend_after_s: a sample is sent again after this, then after twice as long, and so on.
        drain_s: how long to wait in the end for what the devices still keep.
    """

    most: int = 256
    resend_after_s: float = 30.0
    drain_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it.

    Attributes:
        prefix: devices are named `{prefix}-00000` and so on.
        journal: where each sample's fate is written, a line an event.
    """

    site: str = "default"
    prefix: str = "sim"
    devices: int = 100
    load: Load = field(default_factory=Load)
    faults: Faults = field(default_factory=Faults)
    samples: Samples = field(default_factory=Samples)
    keeping: Keeping = field(default_factory=Keeping)
    telemetry_s: float = 30.0
    seed: int | None = None
    journal: Path | None = None
    broker: BrokerSettings = field(default_factory=BrokerSettings)
