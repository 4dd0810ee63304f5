"""Watches the device and does with less while it is short of something: sensors → pressure → measures → tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from edge_agent.deciding import policy
from edge_agent.deciding.policy import Circumstances
from edge_agent.deciding.pressure import Measure, Pressure, Readings
from edge_agent.deciding.settings import PressureSettings
from shared.messages import Conditions

log = logging.getLogger(__name__)

# In the order in which they are taken.
_WORDS = {
    Measure.FEWER_AUDITS: "fewer audits",
    Measure.DEFER_TRAINING: "what nobody waits for is sent later",
    Measure.SMALLER_MODEL: "a smaller model, where there is one",
    Measure.SLOWER_SAMPLING: "fewer samples of each source",
    Measure.DROP: "what nobody waits for is not kept",
}


class Adapts(Protocol):
    """A task that can do with less."""

    def under(self, circumstances: Circumstances) -> None:
        """Decide under these circumstances from now on; must not block."""

    def use_small_model(self, wanted: bool) -> None:  # noqa: FBT001  # reads as what it does
        """Let the smaller model answer, or the task's own again; may take seconds."""


class Monitor:
    """Looks every `interval_s`; the measures themselves are decided in `deciding.pressure`.

    Args:
        look: reads all sensors once; about 0.2 ms.
        unavailable: measures that no task can take.
        changed: told after other measures are taken than before; must not block.
    """

    def __init__(
        self,
        settings: PressureSettings,
        tasks: Iterable[Adapts],
        *,
        look: Callable[[], Readings],
        unavailable: frozenset[Measure] = frozenset(),
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._tasks, self._look, self._clock = settings, tuple(tasks), look, clock
        self._changed = changed
        self._pressure = Pressure(settings, unavailable=unavailable)
        self._readings: Readings | None = None
        self._small = False

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            if self.look():
                await asyncio.to_thread(self._choose_models)
            await asyncio.sleep(self._settings.interval_s)

    def look(self) -> bool:
        """Look once and tell the tasks; True: whether the smaller models are wanted has changed."""
        self._readings = self._look()
        if not self._pressure.observe(self._readings, self._clock()):
            return False
        measures = self._pressure.measures
        self._say()
        circumstances = policy.under(measures, audits_factor=self._settings.audits_factor)
        for task in self._tasks:
            task.under(circumstances)
        self._changed()
        return (Measure.SMALLER_MODEL in measures) is not self._small

    @property
    def sampling_factor(self) -> int:
        """One of so many samples of a source is taken."""
        return self._settings.sampling_factor if Measure.SLOWER_SAMPLING in self._pressure.measures else 1

    def sends_deferred(self) -> bool:
        """Whether what was deferred may go up now."""
        return Measure.DEFER_TRAINING not in self._pressure.measures

    def conditions(self) -> Conditions:
        """What the sensors said last, and what is done about it."""
        now = self._readings
        if now is None:
            return Conditions()
        return Conditions(
            battery=now.battery,
            charging=now.charging,
            temperature_c=now.temperature_c,
            cpu=now.cpu,
            memory=now.memory,
            disk=now.disk,
            round_trip_s=now.round_trip_s,
            metered=now.metered,
            measures=tuple(measure.value for measure in Measure if measure in self._pressure.measures),
        )

    def _choose_models(self) -> None:
        self._small = Measure.SMALLER_MODEL in self._pressure.measures
        for task in self._tasks:
            task.use_small_model(self._small)

    def _say(self) -> None:
        measures = [_WORDS[measure] for measure in Measure if measure in self._pressure.measures]
        if not measures:
            log.info("the device is under no pressure any more: everything as usual")
            return
        causes = ", ".join(sorted(cause.value for cause in self._pressure.causes)) or "it eases"
        log.warning("pressure (%s): %s", causes, "; ".join(measures))
