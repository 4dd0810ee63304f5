"""The way of a sample that goes up: redact → spool → send at once, where somebody waits for the verdict."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.deciding.policy import Decision
from edge_agent.judge import Judgement
from edge_agent.redaction import Departing, Redaction
from edge_agent.request import Request
from edge_agent.sinks.order import InOrder
from edge_agent.spool.spool import Spool
from edge_agent.uplink.correlation import Correlation
from shared.codec import Array
from shared.errors import StorageFull
from shared.messages import Action, Reason, SampleHeader

_WITHHELD = Decision(Action.KEEP, Reason.WITHHELD)
_NO_ROOM = Decision(Action.DROP, Reason.SPOOL_FULL)


class Departure:
    """One task's. Thread-safe.

    Args:
        redaction: sees what is about to be spooled; gives what may leave the device, or None.
        send_now: sends a spooled sample in this thread; False: it could not, the uplink will.
        wake: tells the uplink that something was spooled; must not block.
    """

    def __init__(
        self,
        *,
        redaction: Redaction | None,
        spool: Spool,
        correlation: Correlation,
        sink: InOrder,
        send_now: Callable[[SampleHeader, Array], bool],
        wake: Callable[[], None],
    ) -> None:
        self._redaction, self._spool, self._correlation, self._sink = redaction, spool, correlation, sink
        self._send_now, self._wake = send_now, wake

    def leave(
        self, request: Request, header: SampleHeader, judgement: Judgement, *, label: str, until_s: float | None
    ) -> Decision:
        """Spool a sample, and send it at once if somebody waits; what became of it in the end.

        Args:
            label: the device's answer, for the redaction hook.
            until_s: until when somebody waits for the verdict, by `time.perf_counter`; None: nobody does.
        """
        tensor = request.tensor
        if self._redaction is not None:
            departing = Departing(header.task, tensor, label, judgement.hardness.confidence, header.reason)
            redacted = self._redaction(departing)
            if redacted is None:
                return _WITHHELD
            tensor = redacted
        self._sink.expect(header.sample_id)
        self._correlation.ask(header, reference=request.reference, until_s=until_s)
        hurries = until_s is not None
        deferred = judgement.decision.action is Action.DEFER
        try:
            self._spool.put(header, tensor, deferred=deferred, rarity=judgement.rarity, sent=hurries)
        except StorageFull:
            self._correlation.forget(header.sample_id)
            return _NO_ROOM
        if hurries and self._send_now(header, tensor):
            return judgement.decision
        if hurries:
            self._spool.not_sent(header.sample_id)
        self._wake()
        return judgement.decision
