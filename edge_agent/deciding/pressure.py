"""What a device that is short of something does with less of: pure, readings and the time in, measures out.

Each cause has its own ladder of measures, the mildest first. While a cause presses, the first measure is taken at once
and one more after each `climb_s`; once it has ended, one is given up after each `relax_s`; between its two thresholds,
or without a reading, everything stays as it is. That a link is metered is no measurement that comes and goes: there all
measures may be taken at once. A cause that comes and goes faster than `relax_s` therefore changes
nothing: that and the two thresholds are what keeps models from being swapped back and forth.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from types import MappingProxyType

from edge_agent.deciding.settings import Gauge, PressureSettings


class Measure(StrEnum):
    """A way to use less, in the order in which a person would give things up."""

    FEWER_AUDITS = "fewer_audits"
    DEFER_TRAINING = "defer_training"
    SMALLER_MODEL = "smaller_model"
    SLOWER_SAMPLING = "slower_sampling"
    DROP = "drop"


class Cause(StrEnum):
    """What the device is short of."""

    BATTERY = "battery"
    TEMPERATURE = "temperature"
    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    LINK_METERED = "link_metered"
    LINK_SLOW = "link_slow"


_AUDITS, _DEFER, _MODEL, _SAMPLING, _DROP = Measure

# The measures that help against each cause. What is deferred lies on the disk until it goes up, so that nothing is
# lost; so a full disk must not be answered by deferring, and only where the spool's own work or room hurts is anything
# dropped: on a disk that is full, or in a device that nothing else has cooled. Memory is eaten by the model and by what
# waits for it. The link's troubles are no reason to compute less.
LADDERS = MappingProxyType(
    {
        Cause.BATTERY: (_AUDITS, _DEFER, _MODEL, _SAMPLING),
        Cause.TEMPERATURE: (_AUDITS, _DEFER, _MODEL, _SAMPLING, _DROP),
        Cause.CPU: (_AUDITS, _DEFER, _MODEL, _SAMPLING),
        Cause.MEMORY: (_MODEL, _SAMPLING),
        Cause.DISK: (_AUDITS, _DROP),
        Cause.LINK_METERED: (_AUDITS, _DEFER),
        Cause.LINK_SLOW: (_AUDITS, _DEFER),
    }
)


@dataclass(frozen=True, slots=True)
class Readings:
    """What the sensors say at one moment; None: there is no such sensor, or it does not answer.

    Attributes:
        battery: charge in [0, 1]; `charging`: on mains.
        temperature_c: of the hottest sensor.
        cpu, memory, disk: share in use by everybody, in [0, 1].
        round_trip_s: from a publish to the broker's acknowledgement, smoothed.
        metered: bytes on the present link cost money.
        link_up: the broker is there; without it no more is known of the link than that.
    """

    battery: float | None = None
    charging: bool | None = None
    temperature_c: float | None = None
    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None
    round_trip_s: float | None = None
    metered: bool = False
    link_up: bool = True


class Pressure:
    """Which causes press and which measures are taken; remembers how far each cause has climbed.

    Args:
        unavailable: measures that this device cannot take (it has no smaller model, say): they cost no time on the way.
    """

    def __init__(self, settings: PressureSettings, *, unavailable: frozenset[Measure] = frozenset()) -> None:
        self._settings = settings
        self._ladders = {
            cause: _Ladder(tuple(measure for measure in ladder if measure not in unavailable))
            for cause, ladder in LADDERS.items()
        }
        self._measures: frozenset[Measure] = frozenset()

    @property
    def measures(self) -> frozenset[Measure]:
        """What is done to use less, for whatever cause."""
        return self._measures

    @property
    def causes(self) -> frozenset[Cause]:
        """What the device is short of now; measures outlast their causes a little."""
        return frozenset(cause for cause, ladder in self._ladders.items() if ladder.pressed)

    def observe(self, readings: Readings, now_s: float) -> bool:
        """Take one reading of everything, at a time that never goes back; True: `measures` has changed."""
        settings = self._settings
        for cause, level in _levels(readings, settings).items():
            ladder = self._ladders[cause]
            if cause is Cause.LINK_METERED and settings.metered_at_once and level is _Level.PRESSING:
                ladder.climb_all(now_s)
            else:
                ladder.observe(level, now_s, climb_s=settings.climb_s, relax_s=settings.relax_s)
        before = self._measures
        self._measures = frozenset(measure for ladder in self._ladders.values() for measure in ladder.taken)
        return self._measures != before


class _Level(Enum):
    PRESSING = auto()
    BETWEEN = auto()  # or unknown
    EASY = auto()


class _Ladder:
    """One cause's measures and how many of them are taken."""

    def __init__(self, measures: tuple[Measure, ...]) -> None:
        self.pressed = False
        self._measures = measures
        self._height = 0
        self._changed_s = 0.0

    @property
    def taken(self) -> tuple[Measure, ...]:
        return self._measures[: self._height]

    def observe(self, level: _Level, now_s: float, *, climb_s: float, relax_s: float) -> None:
        waited_s = now_s - self._changed_s
        if level is _Level.PRESSING and not self.pressed:
            # One that comes back while its measures last keeps them, and has to last anew for the next.
            self.pressed = True
            self._move(max(self._height, 1), now_s)
        elif level is _Level.PRESSING and waited_s >= climb_s:
            self._move(self._height + 1, now_s)
        elif level is _Level.EASY and self.pressed:
            self.pressed = False
            self._changed_s = now_s
        elif level is _Level.EASY and waited_s >= relax_s:
            self._move(self._height - 1, now_s)

    def climb_all(self, now_s: float) -> None:
        """It presses, and that is certain: every measure at once."""
        self.pressed = True
        self._move(len(self._measures), now_s)

    def _move(self, height: int, now_s: float) -> None:
        self._height = min(max(height, 0), len(self._measures))
        self._changed_s = now_s


def _levels(readings: Readings, settings: PressureSettings) -> dict[Cause, _Level]:
    link_up = readings.link_up
    return {
        Cause.BATTERY: _battery_level(readings, settings.battery),
        Cause.TEMPERATURE: _level(readings.temperature_c, settings.temperature_c),
        Cause.CPU: _level(readings.cpu, settings.cpu),
        Cause.MEMORY: _level(readings.memory, settings.memory),
        Cause.DISK: _level(readings.disk, settings.disk),
        Cause.LINK_METERED: _metered_level(readings),
        Cause.LINK_SLOW: _level(readings.round_trip_s if link_up else None, settings.round_trip_s),
    }


def _level(value: float | None, gauge: Gauge) -> _Level:
    if value is None:
        return _Level.BETWEEN
    if value >= gauge.begin:
        return _Level.PRESSING
    return _Level.EASY if value <= gauge.end else _Level.BETWEEN


def _metered_level(readings: Readings) -> _Level:
    if readings.metered:  # before the broker is there, too: what waits for it would go up in its first moment
        return _Level.PRESSING
    return _Level.EASY if readings.link_up else _Level.BETWEEN


def _battery_level(readings: Readings, gauge: Gauge) -> _Level:
    if readings.charging:  # whatever the charge: mains power is there to be used
        return _Level.EASY
    if readings.battery is None:
        return _Level.BETWEEN
    if readings.battery <= gauge.begin:
        return _Level.PRESSING
    return _Level.EASY if readings.battery >= gauge.end else _Level.BETWEEN
