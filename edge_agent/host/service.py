"""What `edge-agent run` does around the agent: ready, reload, watchdog, an end in bounded time.

    start ──► opening ──opened──► answering ──SIGHUP, good settings──► draining ──► opening (the new ones)
                 │ failed             │ SIGHUP, bad settings: goes on as it was          │ failed, or failed
                 ▼                    │ SIGTERM ──► draining ──► end                     ▼ soon after: the old ones
                end                   └ sources end ──► delivering ──► end             opening

The agent opens, plays its sources and closes in a thread of its own. The main thread only takes events, so that signals
are heard and the watchdog is fed whatever a model or a driver does.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from edge_agent.errors import AgentHangs
from edge_agent.host.notify import Notifier
from edge_agent.host.session import CLOSE_S, Event, Served, Session
from edge_agent.settings import AgentSettings
from shared.errors import EdgeloopError, SettingsError

log = logging.getLogger(__name__)

DRAIN_S = 10.0
# An agent of new settings that ends this soon after it is open ends because of them: a source that is not there, say.
TRIAL_S = 30.0
_LOOK_S = 5.0


class Service:
    """See the module; `reload` and `stop` may be called from a signal handler and from any thread.

    Args:
        read: the settings as they are in the file now.
        open_agent: an agent that answers.
        drain_s: how long sources may take to end before the agent is closed without them.
    """

    def __init__(
        self,
        read: Callable[[], AgentSettings],
        open_agent: Callable[[AgentSettings], Served],
        *,
        notifier: Notifier,
        drain_s: float = DRAIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._open_agent = read, open_agent
        self._notifier = notifier
        self._drain_s, self._clock = drain_s, clock
        # Not a threading.Event or a Queue: a signal handler that meets the main thread inside one of their locks would
        # wait for ever; a SimpleQueue is reentrant.
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._ailing = False

    def reload(self) -> None:
        """Read the settings anew and go on with them, if they are good."""
        self._events.put(Event.RELOAD)

    def stop(self) -> None:
        """End in order."""
        self._events.put(Event.STOP)

    def run(self) -> None:
        """Serve until the sources end or `stop` is called.

        Raises:
            EdgeloopError: what ended the agent; also when the very first settings are bad.
            AgentHangs: after a reload, a source did not end: start the process again.
        """
        settings: AgentSettings | None = self._read()
        fallback: AgentSettings | None = None
        while settings is not None:
            settings, fallback = self._serve(settings, fallback)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop, SIGHUP reloads; or stops, when it says that the terminal is gone."""
        had_terminal = _has_terminal()

        def hangup() -> None:
            (self.stop if had_terminal and not _has_terminal() else self.reload)()

        actions = {signal.SIGTERM: self.stop, signal.SIGINT: self.stop, signal.SIGHUP: hangup}
        before = {
            number: signal.signal(number, lambda *_, action=action: action()) for number, action in actions.items()
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _serve(
        self, settings: AgentSettings, fallback: AgentSettings | None
    ) -> tuple[AgentSettings | None, AgentSettings | None]:
        """One agent from open to close; returns the settings to go on with (None: it is the end), and a fallback."""
        session = Session(self._open_agent, settings, self._events, clock=self._clock)
        following: AgentSettings | None = None
        stopping = False
        while True:
            match self._next(session):
                case Event.OPENED:
                    self._notifier.ready(f"answering: {', '.join(settings.tasks)}")
                    _say_lost_bundles(settings)
                case Event.STOP if not stopping:
                    log.info("stopping: what is not delivered stays spooled")
                    following, fallback, stopping = None, None, True
                    self._notifier.stopping("draining: what is not delivered stays spooled")
                    session.end(within_s=self._drain_s)
                case Event.RELOAD if not stopping:
                    following = self._reread() or following
                    if following is not None:
                        session.retire(within_s=self._drain_s)
                case Event.TOO_LONG:
                    session.abandon(within_s=CLOSE_S)
                    if following is not None:
                        raise AgentHangs("a source did not end for the reload: start the agent again, as systemd does")
                    return None, None
                case Event.ENDED if following is None:
                    return self._after(session, fallback), None
                case Event.ENDED:
                    return following, settings if session.proved else fallback

    def _after(self, session: Session, fallback: AgentSettings | None) -> AgentSettings | None:
        """The settings to go on with after an agent that nobody told to end for others."""
        failure = session.failure
        if failure is None:
            return None
        if fallback is None or session.answers_for_s() > TRIAL_S or not isinstance(failure, EdgeloopError):
            raise failure
        log.error("the new settings give no agent that runs (%s): back to the old; correct them and reload", failure)
        return fallback

    def _reread(self) -> AgentSettings | None:
        """The settings as they are in the file now; None, and said: they cannot be used."""
        self._notifier.reloading("reading the settings")
        try:
            settings = self._read()
        except SettingsError as err:
            log.error("the settings are not reloaded, the old ones stay: %s", err)
            self._notifier.ready(f"answering with the old settings; the new ones are wrong: {err}")
            return None
        log.info("settings reloaded: the sources end and begin anew")
        return settings

    def _next(self, session: Session) -> Event:
        """What happens next; the watchdog is fed while nothing does."""
        look_s = _LOOK_S if self._notifier.watchdog_s is None else self._notifier.watchdog_s / 3
        while True:
            left_s = session.left_s()
            if left_s <= 0:
                return Event.TOO_LONG
            try:
                return self._events.get(timeout=min(look_s, left_s))
            except Empty:
                self._look_after(session)

    def _look_after(self, session: Session) -> None:
        """Feed the watchdog of an agent that is well; say once that one hangs, and once that it does no longer."""
        ailment = session.ailment()
        if ailment is None:
            if self._ailing:
                log.info("the agent is well again")
            self._notifier.alive()
        elif not self._ailing:
            log.error("the agent hangs: %s; where systemd watches, it is started again soon", ailment)
        self._ailing = ailment is not None


def _say_lost_bundles(settings: AgentSettings) -> None:
    """A model in a slot needs the factory's bundle no more, until both slots fail: then it is missed too late."""
    for name, task in settings.tasks.items():
        if not task.bundle.exists():
            log.warning("task %s: the factory bundle %s is gone; it is the last resort: put it back", name, task.bundle)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
