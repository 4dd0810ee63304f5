"""Which verdict belongs to which sample, and whether somebody still waits for it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from shared.messages import SampleHeader, Verdict

MAX_REMEMBERED = 10_000
# Longer is as good as for ever, and what no timer of the system takes (an infinite one) must not stop the uplink.
_LONGEST_WAIT_S = 86_400.0


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True)
class Asked:
    """An offloaded sample of this process.

    Attributes:
        header: what went up with it.
        until_s: time until which the caller waits, on the correlation's clock; None: nobody waits.
        verdict: if it came in time.
        received: the cloud has it, so that the spool does not any more.
        delivered: `deliver` has told of it.
        answered: held until the verdict is there. A bare lock: an Event's condition costs the waiter 10 µs more.
    """

    header: SampleHeader
    reference: int | str | None
    until_s: float | None = None
    verdict: Verdict | None = None
    delivered: bool = False
    received: bool = False
    answered: threading.Lock = field(default_factory=_held)


class Correlation:
    """Remembers the last `MAX_REMEMBERED` offloaded samples; thread-safe.

    Args:
        clock: seconds; the one on which callers count their deadlines.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: OrderedDict[UUID, Asked] = OrderedDict()

    def ask(self, header: SampleHeader, *, reference: int | str | None, until_s: float | None) -> None:
        """Note a sample before it is spooled; `until_s`, a day at most: when its caller's wait is over."""
        if until_s is not None:
            until_s = min(until_s, self._clock() + _LONGEST_WAIT_S)
        with self._lock:
            self._asked[header.sample_id] = Asked(header, reference, until_s)
            while len(self._asked) > MAX_REMEMBERED:
                self._asked.popitem(last=False)

    def wait(self, sample_id: UUID) -> Verdict | None:
        """Block until the verdict, or until the deadline: None, and the verdict is a correction from then on."""
        with self._lock:
            asked = self._asked.get(sample_id)
        if asked is None or asked.until_s is None:
            return None
        asked.answered.acquire(timeout=max(0.0, asked.until_s - self._clock()))
        with self._lock:
            asked.until_s = None
            if asked.delivered:
                self._asked.pop(sample_id, None)
            return asked.verdict

    def wake(self, verdict: Verdict) -> bool:
        """Give the verdict to whoever waits for it, and do no more; False: nobody does. `deliver` is still to come."""
        with self._lock:
            asked = self._asked.get(verdict.sample_id)
            if asked is None or asked.until_s is None or asked.verdict is not None:
                return False
            # A fast cloud answers before the caller has come to wait: it finds the lock open.
            asked.verdict = verdict
        # Outside the lock, which the one that wakes up takes next.
        asked.answered.release()
        return True

    def deliver(self, verdict: Verdict) -> Asked | None:
        """What is known of the verdict's sample, once; whoever waits for it gets it (`asked.verdict` is set then)."""
        self.wake(verdict)
        with self._lock:
            asked = self._asked.get(verdict.sample_id)
            if asked is None or asked.delivered:
                return None
            asked.delivered = True
            if asked.until_s is None:
                del self._asked[verdict.sample_id]
            return asked

    def deadline_ms(self, sample_id: UUID) -> int | None:
        """How much longer somebody waits for this sample, in ms; None when nobody does."""
        with self._lock:
            asked = self._asked.get(sample_id)
            if asked is None or asked.until_s is None:
                return None
            return max(0, int((asked.until_s - self._clock()) * 1000))

    def received(self, ids: Iterable[UUID]) -> None:
        """The cloud has these, and may answer them yet; unknown ids are fine."""
        with self._lock:
            for sample_id in ids:
                if (asked := self._asked.get(sample_id)) is not None:
                    asked.received = True

    def unanswered(self) -> list[tuple[SampleHeader, int | str | None]]:
        """Header and reference of what the cloud has received and not answered, the oldest first."""
        with self._lock:
            waiting = [asked for asked in self._asked.values() if asked.received and not asked.delivered]
            return [(asked.header, asked.reference) for asked in waiting]

    def forget(self, sample_id: UUID) -> None:
        """The sample was not spooled after all."""
        with self._lock:
            self._asked.pop(sample_id, None)
