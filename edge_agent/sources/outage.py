"""A device, file or server that may go away and come back: waited for, and each turn said once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from random import Random
from threading import Event

from edge_agent.sources.context import SourceContext
from edge_agent.sources.settings import RetryOptions
from shared.backoff import exponential, full_jitter

log = logging.getLogger(__name__)


class Outage:
    """One source's. The waits grow, with full jitter, and start anew after it was there longer than the last one."""

    def __init__(
        self,
        options: RetryOptions,
        context: SourceContext,
        stop: Event,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: Random | None = None,
    ) -> None:
        self._options, self._stop, self._clock = options, stop, clock
        self._who = f"task {context.task}: {context.name}"
        self._rng = rng or Random()  # noqa: S311  # no secrets
        self._waits = exponential(options.retry_first_s, options.retry_cap_s)
        self._bound_s = 0.0
        self._there_s: float | None = None
        self._out = False

    def there(self) -> None:
        """It gives something."""
        if self._out:
            log.info("%s is there again", self._who)
        self._out = False
        if self._there_s is None:
            self._there_s = self._clock()

    def wait(self, why: object) -> bool:
        """It is away; wait before the next try. False: `stop` is set."""
        if not self._out:
            log.error("%s: %s; trying again until it is there", self._who, why)
        self._out = True
        if self._there_s is not None and self._clock() - self._there_s > self._bound_s:
            self._waits = exponential(self._options.retry_first_s, self._options.retry_cap_s)
        self._there_s = None
        self._bound_s = next(self._waits)
        return not self._stop.wait(full_jitter(self._bound_s, self._rng))
