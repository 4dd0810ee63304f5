"""What a user may say of decisions: budgets, duplicates, steadiness, and what counts as pressure on the device."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.settings import Section

Share = Annotated[float, Field(ge=0, le=1)]


class BudgetSettings(Section):
    """What matters to the user; the threshold is steered to hold it. Nothing set: the manifest's threshold is kept.

    Attributes:
        offload: largest share of the samples that goes up, audits included.
        agreement: smallest share of answers that the teacher would give too; never at the cost of the limits.
        bytes_per_day: largest number of payload bytes of this task's samples in any 24 hours. It is spread over them: a
            device that runs for part of the day uses about that part.
        speed: how fast the threshold follows a drift, in standard deviations of the score a sample.
    """

    offload: Annotated[float, Field(gt=0, le=1)] | None = None
    agreement: Annotated[float, Field(gt=0, lt=1)] | None = None
    bytes_per_day: Annotated[int, Field(gt=0)] | None = None
    speed: Annotated[float, Field(gt=0, le=1)] = 0.05

    @property
    def is_set(self) -> bool:
        """Whether anything is to be held."""
        return not self.offload is self.agreement is self.bytes_per_day is None


class DuplicateSettings(Section):
    """Samples that look like one that went up lately are not sent again, where the model gives an embedding.

    Attributes:
        distance: cosine distance of the embeddings up to which two samples are the same; 0: off.
        remember: how many offloaded samples are compared with.
        for_s: how long one is remembered.
    """

    distance: Annotated[float, Field(ge=0, le=2)] = 0.005
    remember: Annotated[int, Field(ge=1, le=4096)] = 128
    for_s: Annotated[float, Field(gt=0)] = 3600.0


class SteadinessSettings(Section):
    """For tasks that detect in a stream: an answer that flickers or falls away is hard, however sure it is.

    Attributes:
        flicker_changes: hard when the answer changed this often within the window; 0: off.
        flicker_window: answers looked at, this one included.
        empty_label: the label that says nothing is there; right after something was there it is hard. None: off.
    """

    flicker_changes: Annotated[int, Field(ge=0)] = 0
    flicker_window: Annotated[int, Field(ge=2, le=1000)] = 8
    empty_label: str | None = None

    @model_validator(mode="after")
    def _can_happen(self) -> Self:
        if self.flicker_changes >= self.flicker_window:
            raise ValueError(f"{self.flicker_window} answers change {self.flicker_window - 1} times at most")
        return self


class Gauge(Section):
    """Two thresholds of one resource: the pressure begins at the first and ends at the second.

    Attributes:
        begin: at this reading the pressure begins.
        end: at this one it ends; between the two everything stays as it is.
    """

    begin: float
    end: float


class BatteryGauge(Gauge):
    """Charge in [0, 1], while not charging."""

    begin: Share = 0.3
    end: Share = 0.4


class TemperatureGauge(Gauge):
    """The hottest sensor, in °C."""

    begin: float = 80.0
    end: float = 70.0


class CpuGauge(Gauge):
    """Share of all cores in use by everybody, in [0, 1]."""

    begin: Share = 0.95
    end: Share = 0.8


class MemoryGauge(Gauge):
    """Share of the memory in use by everybody, in [0, 1]."""

    begin: Share = 0.95
    end: Share = 0.9


class DiskGauge(Gauge):
    """Share of the state folder's disk in use, in [0, 1]."""

    begin: Share = 0.95
    end: Share = 0.9


class RoundTripGauge(Gauge):
    """From a publish to the broker's acknowledgement, smoothed, in seconds."""

    begin: Annotated[float, Field(ge=0)] = 2.0
    end: Annotated[float, Field(ge=0)] = 1.0


class PressureSettings(Section):
    """When the device is short of something, and how fast it does with less.

    Attributes:
        interval_s: seconds between two readings of the sensors.
        climb_s: while a pressure lasts, one more measure is taken after each of these.
        relax_s: once it has ended, one measure fewer after each of these.
        audits_factor: what is left of the audits under the first measure.
        sampling_factor: under the measure of slower sampling, one of so many samples of a source is taken.
        metered_interfaces: a link whose default route goes through one of these (patterns) is metered: samples that
            nobody waits for lie on the device until another is there. Where there is no other link, name none and set a
            budget.
        metered_at_once: on such a link they do so from the first moment, and not only after `climb_s`.
    """

    interval_s: Annotated[float, Field(gt=0)] = 1.0
    climb_s: Annotated[float, Field(ge=0)] = 60.0
    relax_s: Annotated[float, Field(ge=0)] = 120.0
    audits_factor: Share = 0.1
    sampling_factor: Annotated[int, Field(ge=2, le=1000)] = 4
    metered_interfaces: tuple[str, ...] = ("wwan*", "ppp*", "rmnet*")
    metered_at_once: bool = True
    battery: BatteryGauge = BatteryGauge()
    temperature_c: TemperatureGauge = TemperatureGauge()
    cpu: CpuGauge = CpuGauge()
    memory: MemoryGauge = MemoryGauge()
    disk: DiskGauge = DiskGauge()
    round_trip_s: RoundTripGauge = RoundTripGauge()

    @model_validator(mode="after")
    def _ends_are_milder(self) -> Self:
        if self.battery.end < self.battery.begin:
            raise ValueError("battery: 'end' must be at least 'begin', or the pressure would flap")
        for name in ("temperature_c", "cpu", "memory", "disk", "round_trip_s"):
            gauge: Gauge = getattr(self, name)
            if gauge.end > gauge.begin:
                raise ValueError(f"{name}: 'end' must be at most 'begin', or the pressure would flap")
        return self
