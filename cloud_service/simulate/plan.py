"""What a simulated fleet is told to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cloud_service.simulate.arrivals import Pattern
from shared.mqtt import BrokerSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """See `edgeloop simulate --help`.

    Attributes:
        prefix: devices are named `{prefix}-00000` and so on.
        rate: samples a second and device, on average; `period_s`: of the pattern.
        ramp: connections opened a second.
        labels: predictions are drawn from 0 to this, exclusive.
        audits: share of the samples that say they were drawn at random.
        churn: how often a device loses its connection, a minute; half of the times without a word.
        duplicates, malformed: share of transmissions that are sent twice, or followed by a spoilt frame.
        deadline_ms: how long somebody waits for each verdict; None: nobody.
        keep: samples that a device keeps without an answer; it drops more.
        resend_after_s: without an answer a sample is sent again after this, then after twice as long, and so on.
        drain_s: how long to wait in the end for what the devices still keep.
        journal: where each sample's fate is written, a line an event.
    """

    site: str = "default"
    prefix: str = "sim"
    task: str = "digits"
    labels: int = 10
    devices: int = 100
    rate: float = 1.0
    duration_s: float = 60.0
    pattern: Pattern = Pattern.STEADY
    period_s: float = 10.0
    ramp: float = 500.0
    audits: float = 0.05
    churn: float = 0.0
    duplicates: float = 0.0
    malformed: float = 0.0
    deadline_ms: int | None = None
    keep: int = 256
    resend_after_s: float = 30.0
    telemetry_s: float = 30.0
    drain_s: float = 30.0
    seed: int | None = None
    journal: Path | None = None
    broker: BrokerSettings = field(default_factory=BrokerSettings)
