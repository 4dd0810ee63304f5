"""One agent's life within a service: it opens, plays its sources and closes in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from queue import SimpleQueue
from typing import Protocol

from edge_agent.settings import AgentSettings

log = logging.getLogger(__name__)

CLOSE_S = 10.0
# Measuring execution providers happens while an agent opens, and takes its time on a slow device.
OPEN_S = 300.0
_DELIVER_S = 30.0


class Served(Protocol):
    """The agent, as far as its service knows it."""

    @property
    def settings(self) -> AgentSettings: ...

    def run(self, stop: threading.Event) -> None: ...

    def unwell(self) -> str | None: ...

    def wait_until_delivered(self, timeout: float) -> bool: ...

    def close(self) -> None: ...


class Event(Enum):
    """What a service hears of."""

    OPENED = auto()
    ENDED = auto()
    RELOAD = auto()
    STOP = auto()
    TOO_LONG = auto()


class Session:
    """One agent's life in a thread of its own; begins at once.

    Attributes:
        agent: None until it is open.
        failure: what ended it too early.
    """

    def __init__(
        self,
        open_agent: Callable[[AgentSettings], Served],
        settings: AgentSettings,
        events: SimpleQueue[Event],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_agent, self._settings, self._events = open_agent, settings, events
        self._clock = clock
        self._stop, self._opening = threading.Event(), threading.Lock()
        self._began_s = self._clock()
        self._opened_s: float | None = None
        self._end_at_s: float | None = None
        self._retires_within_s: float | None = None
        self.agent: Served | None = None
        self.failure: Exception | None = None
        threading.Thread(target=self._live, name="agent", daemon=True).start()

    def end(self, *, within_s: float) -> None:
        """Ask it to end; asked again, the first time counts."""
        if self._end_at_s is None:
            self._end_at_s = self._clock() + within_s
        self._stop.set()

    def retire(self, *, within_s: float) -> None:
        """Ask it to end; the time counts from when it is open: measuring a model in there is no hang."""
        with self._opening:
            self._retires_within_s = within_s
            if self._opened_s is not None:
                self.end(within_s=within_s)
        self._stop.set()

    def left_s(self) -> float:
        """Seconds that it may still take to end."""
        return float("inf") if self._end_at_s is None else self._end_at_s - self._clock()

    def answers_for_s(self) -> float:
        """Seconds since it was open; 0 before."""
        return 0.0 if self._opened_s is None else self._clock() - self._opened_s

    @property
    def proved(self) -> bool:
        """Whether its settings gave an agent that opened and did not fail."""
        return self._opened_s is not None and self.failure is None

    def ailment(self) -> str | None:
        """What is wrong with it, in words."""
        if self.agent is not None:
            return self.agent.unwell()
        opening_s = self._clock() - self._began_s
        return f"it has been opening for {opening_s:.0f} s" if opening_s > OPEN_S else None

    def abandon(self, *, within_s: float) -> None:
        """Save and say goodbye without waiting for the source that hangs; it dies with the process."""
        log.warning("a source did not end in time: the agent is closed without it")
        if self.agent is not None:
            closing = threading.Thread(target=self.agent.close, name="closing", daemon=True)
            closing.start()
            closing.join(within_s)

    def _live(self) -> None:
        try:
            self.agent = agent = self._open_agent(self._settings)
            self._opened()
            try:
                if not self._stop.is_set():
                    self._events.put(Event.OPENED)
                    agent.run(self._stop)
                    self._deliver(agent)
            finally:
                if self._end_at_s is not None:
                    # The sources have ended; closing has a limit of its own.
                    self._end_at_s = self._clock() + CLOSE_S
                agent.close()
        except Exception as err:  # noqa: BLE001  # raised in the main thread: one that dies alone would look like the end
            self.failure = err
            if self._stop.is_set():
                log.warning("the agent did not end in order: %s", err)
        finally:
            self._events.put(Event.ENDED)

    def _opened(self) -> None:
        with self._opening:
            self._opened_s = self._clock()
            if self._retires_within_s is not None:
                self.end(within_s=self._retires_within_s)

    def _deliver(self, agent: Served) -> None:
        """The sources have ended by themselves: give what they gave a while to arrive."""
        if self._stop.is_set() or not any(task.sources for task in agent.settings.tasks.values()):
            return
        until = self._clock() + _DELIVER_S
        delivered = False
        while not (delivered or self._stop.is_set()) and self._clock() < until:
            delivered = agent.wait_until_delivered(0.5)
        log.info(
            "the sources have ended; %s", "all is delivered" if delivered else "what is not delivered stays spooled"
        )
