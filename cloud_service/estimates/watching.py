"""All watched streams of one task. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cloud_service.estimates.drift import Alarm, Closed, Detectors, Evidence, Opened, Watch
from cloud_service.estimates.stream import Scored


class Watching:
    """Attributes:
    position: number of the newest sample that was observed; None: nothing yet, not even what is stored.
    unwatched: devices beyond the limit.
    """

    def __init__(self, make: Callable[[], Detectors], *, goal: float, limit: int) -> None:
        self.position: int | None = None
        self.unwatched: set[str] = set()
        self._make, self._goal, self._limit = make, goal, limit
        self._watches: dict[str, Watch] = {}

    def observe(self, samples: Sequence[Scored]) -> list[tuple[str, Opened | Closed]]:
        """Take samples in the store's order; which incidents of which devices begin and end with them."""
        changes = []
        for sample in samples:
            watch = self._watches.get(sample.device)
            if watch is None:
                # Without an audit there is no stream.
                if not sample.audit:
                    continue
                if len(self._watches) >= self._limit:
                    self.unwatched.add(sample.device)
                    continue
                watch = self._watches[sample.device] = Watch(self._make, goal=self._goal)
            change = watch.observe(sample)
            if change is not None:
                changes.append((sample.device, change))
        return changes

    def standing(self) -> dict[str, Evidence]:
        """The devices of which detectors agree now, with what they saw when they began to."""
        return {device: watch.open for device, watch in self._watches.items() if watch.open is not None}

    def streams(self) -> Iterator[tuple[str, int, frozenset[Alarm], bool]]:
        """Of each device: samples in the stream, alarms, whether an incident is open."""
        for device, watch in self._watches.items():
            yield device, watch.stream, watch.alarms, watch.open is not None
