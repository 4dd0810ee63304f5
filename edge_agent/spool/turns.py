"""Whose turn it is to be sent: what is urgent first, and nobody waits for ever. Pure.

Three queues: **urgent** (somebody waits, or hard), **lesser** (audits, then what was put off) and **stubborn** (sent
several times without an answer, the longest silent first). Of eight turns six are the urgent ones', one each the
others'; a turn that its queue does not want goes to the first that does.

No more than `max_unanswered` samples were sent within the last `resend_after_s`. One that waits longer for its answer
leaves this window to others, and is sent again in its own time, so what the cloud never answers holds up nobody.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_agent.spool.catalogue import Rank, Table
from edge_agent.spool.settings import SpoolSettings
from shared.messages import Reason, SampleHeader

_PATIENCE = 3
_URGENT, _LESSER, _STUBBORN = range(3)
_TURNS = (_URGENT, _URGENT, _URGENT, _LESSER, _URGENT, _URGENT, _URGENT, _STUBBORN)
# Read and sent at once: more would hold the lock, the memory and a slow line for too long.
_DUE_BYTES = 1024**2
_LONGEST_WAITS = 60


class Turns:
    """See the module; the clock is an argument. Not thread-safe."""

    def __init__(self, settings: SpoolSettings) -> None:
        self._settings = settings
        steps = range(_LONGEST_WAITS)
        # By tries; before the first there is nothing to wait for.
        self._waits_s = np.array(
            [0.0, *(min(settings.resend_after_s * 2.0**step, settings.resend_cap_s) for step in steps)]
        )
        self._turn = 0

    def due(self, table: Table, now_s: float, limit: int, *, deferred: bool) -> list[int]:
        """The numbers of up to `limit` samples to send now, about 1 MiB at most but at least one.

        Args:
            deferred: False leaves lying all that nobody waits for.
        """
        room = min(limit, self._room(table, now_s))
        if room <= 0 or not len(table):
            return []
        ready = np.flatnonzero(self._waits(table, deferred=deferred) & (self._again_at_s(table) <= now_s))
        queues = [queue[:room].tolist() for queue in _queues(table, ready)]
        picked: list[int] = []
        size = 0
        while len(picked) < room and any(queues):
            queue = next(queue for queue in (queues[_TURNS[self._turn]], *queues) if queue)
            size += int(table["size"][queue[0]])
            if picked and size > _DUE_BYTES:
                break
            picked.append(queue.pop(0))
            self._turn = (self._turn + 1) % len(_TURNS)
        numbers: list[int] = table["number"][picked].tolist()
        return numbers

    def next_due_s(self, table: Table, now_s: float, *, deferred: bool) -> float | None:
        """Seconds until time alone makes something due; None when only something new can."""
        waiting = self._waits(table, deferred=deferred)
        again = self._again_at_s(table)[waiting & (table["tries"] > 0)].min(initial=math.inf)
        if self._room(table, now_s) <= 0:
            opens = table["sent_at_s"][self._in_window(table, now_s)].min() + self._settings.resend_after_s
            again = opens if (waiting & (table["tries"] == 0)).any() else max(again, opens)
        return None if again == math.inf else max(0.0, float(again) - now_s)

    def _room(self, table: Table, now_s: float) -> int:
        return self._settings.max_unanswered - int(np.count_nonzero(self._in_window(table, now_s)))

    def _in_window(self, table: Table, now_s: float) -> NDArray[np.bool_]:
        sent = (table["tries"] > 0) & (table["size"] > 0)
        within: NDArray[np.bool_] = sent & (table["sent_at_s"] + self._settings.resend_after_s > now_s)
        return within

    def _again_at_s(self, table: Table) -> NDArray[np.float64]:
        tries = np.minimum(table["tries"], _LONGEST_WAITS)
        again: NDArray[np.float64] = np.where(tries > 0, table["sent_at_s"] + self._waits_s[tries], -math.inf)
        return again

    @staticmethod
    def _waits(table: Table, *, deferred: bool) -> NDArray[np.bool_]:
        here: NDArray[np.bool_] = table["size"] > 0
        return here if deferred else here & (table["rank"] == Rank.WANTED)


def rank(header: SampleHeader, *, deferred: bool, wanted: bool) -> Rank:
    """A new sample's."""
    if wanted:
        return Rank.WANTED
    if deferred:
        return Rank.DEFERRED
    return Rank.AUDIT if header.reason is Reason.AUDIT else Rank.HARD


def _queues(table: Table, ready: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    rank, stubborn = table["rank"][ready], table["sendings"][ready] >= _PATIENCE
    tired = ready[stubborn]
    return [
        np.concatenate([ready[~stubborn & (rank == each)] for each in (Rank.WANTED, Rank.HARD)]),
        np.concatenate([ready[~stubborn & (rank == each)] for each in (Rank.AUDIT, Rank.DEFERRED)]),
        tired[np.argsort(table["sent_at_s"][tired], kind="stable")],
    ]
