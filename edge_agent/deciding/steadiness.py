"""What the stream says that a single answer does not: pure, one answer after the other in, a reason to doubt it out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edge_agent.deciding.settings import SteadinessSettings
from shared.errors import SettingsError
from shared.messages import Reason


class Steadiness:
    """Watches the answers of one stream of a task that detects.

    Args:
        labels: of the model whose answers are watched.

    Raises:
        SettingsError: the empty label is none of the model's.
    """

    def __init__(self, settings: SteadinessSettings, labels: Sequence[str]) -> None:
        if settings.empty_label is not None and settings.empty_label not in labels:
            raise SettingsError(
                f"steadiness.empty_label {settings.empty_label!r} is none of the model's labels "
                f"({', '.join(labels[:10])}{', …' if len(labels) > 10 else ''}): correct it"
            )
        self._enough_changes = settings.flicker_changes
        self._empty = -1 if settings.empty_label is None else labels.index(settings.empty_label)
        self._changed: deque[bool] = deque(maxlen=settings.flicker_window - 1)
        self._changes = 0
        self._last: int | None = None

    def observe(self, prediction: int) -> Reason | None:
        """Take the next valid answer; why it is to be doubted, if it is.

        `FLICKER`: the answer changed as often as the settings say among the last ones. `EMPTY`: nothing is there, where
        something was just before.
        """
        last, self._last = self._last, prediction
        if last is None:
            return None
        changed = prediction != last
        if self._enough_changes:
            if len(self._changed) == self._changed.maxlen:
                self._changes -= self._changed[0]
            self._changed.append(changed)
            self._changes += changed
            if self._changes >= self._enough_changes:
                return Reason.FLICKER
        return Reason.EMPTY if changed and prediction == self._empty else None
