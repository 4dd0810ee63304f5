"""Ages by a clock that may be set: a device without a battery for it starts in the past."""

from __future__ import annotations

from collections.abc import Callable

_DRIFT_S = 60.0


class DeviceClock:
    """The date as the device has it, and by how much somebody set it meanwhile.

    Args:
        wall: seconds since 1970, may jump.
        monotonic: seconds since whenever, never jumps.
    """

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset_s = wall() - monotonic()

    def now_s(self) -> float:
        """Seconds since 1970."""
        return self._wall()

    def age_s(self, created_s: float) -> float:
        """Seconds since then, never negative."""
        return max(0.0, self._wall() - created_s)

    def was_set_by_s(self) -> float:
        """Seconds by which the date jumped since the last call; 0 for less than a minute."""
        jump = self._wall() - self._monotonic() - self._offset_s
        if abs(jump) <= _DRIFT_S:
            return 0.0
        self._offset_s += jump
        return jump
