"""Which verdict belongs to which sample, and whether somebody still waits for it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from shared.messages import SampleHeader, Verdict

MAX_REMEMBERED = 10_000
# Longer is as good as for ever, and what no timer of the system takes (an infinite one) must not stop the uplink.
_LONGEST_WAIT_S = 86_400.0


@dataclass(slots=True)
class Asked:
    """An offloaded sample of this process.

    Attributes:
        header: what went up with it.
        deadline_s: monotonic time until which the caller waits; None: nobody waits.
    """

    header: SampleHeader
    reference: int | str | None
    deadline_s: float | None = None
    verdict: Verdict | None = None
    answered: threading.Event = field(default_factory=threading.Event)


class Correlation:
    """Remembers the last `MAX_REMEMBERED` offloaded samples; thread-safe."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._asked: OrderedDict[UUID, Asked] = OrderedDict()

    def ask(self, header: SampleHeader, *, reference: int | str | None, deadline_s: float) -> None:
        """Note a sample before it is spooled; `deadline_s` from now, a day at most, 0: nobody will wait."""
        until = self._monotonic() + min(deadline_s, _LONGEST_WAIT_S) if deadline_s > 0 else None
        with self._lock:
            self._asked[header.sample_id] = Asked(header, reference, until)
            while len(self._asked) > MAX_REMEMBERED:
                self._asked.popitem(last=False)

    def wait(self, sample_id: UUID) -> Verdict | None:
        """Block until the verdict, or until the deadline: None, and the verdict is a correction from then on."""
        with self._lock:
            asked = self._asked.get(sample_id)
        if asked is None or asked.deadline_s is None:
            return None
        asked.answered.wait(max(0.0, asked.deadline_s - self._monotonic()))
        with self._lock:
            asked.deadline_s = None
            if asked.verdict is not None:
                self._asked.pop(sample_id, None)
            return asked.verdict

    def deliver(self, verdict: Verdict) -> Asked | None:
        """What is known of the verdict's sample, once; whoever waits for it gets it (`asked.verdict` is set then)."""
        with self._lock:
            asked = self._asked.get(verdict.sample_id)
            if asked is None or asked.verdict is not None:
                return None
            if asked.deadline_s is None:
                del self._asked[verdict.sample_id]
            else:
                # It stays until `wait` takes it: a fast cloud answers before the caller has come to wait.
                asked.verdict = verdict
                asked.answered.set()
            return asked

    def deadline_ms(self, sample_id: UUID) -> int | None:
        """How much longer somebody waits for this sample, in ms; None when nobody does."""
        with self._lock:
            asked = self._asked.get(sample_id)
            if asked is None or asked.deadline_s is None:
                return None
            return max(0, int((asked.deadline_s - self._monotonic()) * 1000))

    def forget(self, sample_id: UUID) -> None:
        """The sample was not spooled after all."""
        with self._lock:
            self._asked.pop(sample_id, None)
