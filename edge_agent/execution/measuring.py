"""Measures ways of running a model, one after the other: how fast, how true to the golden samples, how hot.

`python -m edge_agent.execution.measuring PARENT FOLDER SECONDS MAX_TEMPERATURE CHOICES` does it in a process of its own
and prints one JSON line for each: a provider may crash the process, and what a session keeps goes with it. `proving`
reads them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.execution import golden, runtime
from edge_agent.execution.child import end_with_parent
from edge_agent.execution.choice import Choice, Measurement
from edge_agent.execution.engine import Engine
from edge_agent.execution.runtime import Opener
from shared import bundle
from shared.errors import EdgeloopError

_WARM_UP_RUNS = 5
_LEAST_RUNS = 20
_MOST_RUNS = 20_000
_TEMPERATURE_EVERY_S = 0.5
_COOL_DOWN_S = 30.0


@dataclass(frozen=True, slots=True)
class Instruments:
    """What measuring measures with.

    Attributes:
        opener: loads a session.
        temperature: of the hottest sensor, °C; None: there is none.
        clock_s, cpu_s: time that passes, and this process's processor time.
        sleep: waits seconds.
    """

    opener: Opener = runtime.open_session
    temperature: Callable[[], float | None] = lambda: None
    clock_s: Callable[[], float] = time.perf_counter
    cpu_s: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


def measure(
    folder: Path, choice: Choice, *, seconds: float, max_temperature_c: float, instruments: Instruments
) -> Measurement:
    """Load an unpacked bundle in one way, run its golden samples for `seconds`, and say what was seen.

    What another candidate heated cools down first, for half a minute at most. A way that does not work is a
    measurement with a fault.
    """
    _cool_down(max_temperature_c, instruments)
    try:
        engine = Engine(folder, choice=choice, opener=instruments.opener)
        recorded = bundle.load_golden(folder, engine.manifest)
        closeness = golden.compare(engine.run, recorded, engine.manifest)
        if not np.isfinite(closeness.largest_difference):
            return Measurement(choice, fault="its answers are no numbers")
        runs = _timed(engine, recorded.inputs, seconds, instruments)
    except EdgeloopError as err:
        return Measurement(choice, fault=str(err)[:500])
    return Measurement(
        choice,
        p50_us=float(np.percentile(runs.times_us, 50)),
        p99_us=float(np.percentile(runs.times_us, 99)),
        cpu_us=runs.cpu_s / runs.count * 1e6,
        golden_difference=closeness.largest_difference,
        agreement=closeness.agreement,
        temperature_c=runs.temperature_c,
    )


@dataclass(slots=True)
class _Runs:
    times_us: list[float]
    count: int
    cpu_s: float
    temperature_c: float | None


def _timed(engine: Engine, inputs: Any, seconds: float, instruments: Instruments) -> _Runs:
    for index in range(_WARM_UP_RUNS):
        engine.run(inputs[index % len(inputs)])
    times: list[float] = []
    count, hottest = 0, instruments.temperature()
    cpu_began_s, now_s = instruments.cpu_s(), instruments.clock_s()
    until_s, look_s = now_s + seconds, now_s + _TEMPERATURE_EVERY_S
    while now_s < until_s or count < _LEAST_RUNS:
        before_s = instruments.clock_s()
        engine.run(inputs[count % len(inputs)])
        now_s = instruments.clock_s()
        count += 1
        if len(times) < _MOST_RUNS:
            times.append((now_s - before_s) * 1e6)
        if now_s >= look_s:
            hottest, look_s = _hotter(hottest, instruments.temperature()), now_s + _TEMPERATURE_EVERY_S
    return _Runs(times, count, instruments.cpu_s() - cpu_began_s, _hotter(hottest, instruments.temperature()))


def _cool_down(max_temperature_c: float, instruments: Instruments) -> None:
    until_s = instruments.clock_s() + _COOL_DOWN_S
    while (
        (now := instruments.temperature()) is not None and now > max_temperature_c and instruments.clock_s() < until_s
    ):
        instruments.sleep(1.0)


def _hotter(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def main(folder: Path, seconds: float, max_temperature_c: float, choices: Sequence[Choice]) -> None:
    """The child's work."""
    from edge_agent.deciding.settings import PressureSettings
    from edge_agent.host.resources import Sensors

    sensors = Sensors(PressureSettings(), folder)
    instruments = Instruments(temperature=lambda: sensors.read(link_up=False, round_trip_s=None).temperature_c)
    for choice in choices:
        measurement = measure(
            folder, choice, seconds=seconds, max_temperature_c=max_temperature_c, instruments=instruments
        )
        sys.stdout.write(json.dumps(asdict(measurement)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    main(Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), [Choice.parse(v) for v in json.loads(sys.argv[5])])
