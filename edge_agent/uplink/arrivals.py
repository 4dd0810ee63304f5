"""What comes down to the device: booked, decoded and handed to whom it concerns."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from edge_agent.ledger import Contact, Ledger, Purpose
from edge_agent.spool.spool import Spool
from edge_agent.uplink.correlation import Correlation
from edge_agent.uplink.outbox import Outbox
from shared import messages
from shared.errors import FrameError
from shared.messages import Desired, Receipt, Verdict
from shared.mqtt import Received
from shared.topics import Channel

log = logging.getLogger(__name__)

_SAY_AGAIN_S = 60.0
_A_MOMENT_S = 0.02


class Addressee(Protocol):
    """Who is told what came down."""

    def verdict(self, verdict: Verdict) -> None: ...

    def desired(self, desired: Desired) -> None: ...


class Arrivals:
    """Takes one message at a time, in the uplink's thread.

    Args:
        channels: what comes down to this device, by topic.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        *,
        spool: Spool,
        outbox: Outbox,
        ledger: Ledger,
        correlation: Correlation,
        addressee: Addressee,
    ) -> None:
        self._channels, self._correlation = channels, correlation
        self._spool, self._outbox, self._ledger, self._addressee = spool, outbox, ledger, addressee
        self._given: deque[tuple[Verdict, int]] = deque()
        self._news = asyncio.Event()
        self._said_s: dict[str, float] = {}

    def glance(self, message: Received) -> bool:
        """Take it at once if it is a verdict that somebody waits for: they wait by the millisecond."""
        if self._channels.get(message.topic) is not Channel.VERDICT:
            return False
        try:
            verdict = messages.decode(Verdict, message.payload)
        except FrameError:
            return False  # `take` says it
        if not self._correlation.wake(verdict):
            return False
        self._given.append((verdict, len(message.payload)))
        self._news.set()
        return True

    def take(self, message: Received) -> None:
        """A message came; what is wrong with it is said, at most once a minute and kind, and changes nothing."""
        try:
            self._take(message)
        except FrameError as err:
            self._complain(type(err).__name__, f"a message on {message.topic} was not understood and is ignored: {err}")

    async def keep_books(self) -> None:
        """Tell the addressee of each verdict that somebody waited for, a moment after whoever that was has it.

        Not at once: what there is to note would keep the interpreter from the one who has just woken up.
        """
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await asyncio.sleep(_A_MOMENT_S)
                while self._given:
                    self._tell()
                    await asyncio.sleep(0)
        finally:
            while self._given:
                self._tell()

    def _tell(self) -> None:
        verdict, size = self._given.popleft()
        self._answered(size)
        self._addressee.verdict(verdict)

    def _answered(self, size: int) -> None:
        self._ledger.add_bytes(Purpose.VERDICTS, size)
        self._ledger.reached(Contact.DELIVERED)

    def _take(self, message: Received) -> None:
        match self._channels.get(message.topic):
            case Channel.VERDICT:
                self._answered(len(message.payload))
                self._addressee.verdict(messages.decode(Verdict, message.payload))
            case Channel.RECEIPT:
                self._answered(len(message.payload))
                self._take_receipt(messages.decode(Receipt, message.payload))
            case Channel.DESIRED:
                self._ledger.add_bytes(Purpose.UPDATES, len(message.payload))
                self._addressee.desired(messages.decode(Desired, message.payload))
            case _:
                self._complain("topic", f"a message on {message.topic} came down to a device and is ignored")

    def _take_receipt(self, receipt: Receipt) -> None:
        self._correlation.received(receipt.accepted)
        self._spool.acknowledge(receipt.accepted)
        self._outbox.acknowledge(receipt.accepted)
        for refusal in receipt.refused:
            log.error("the cloud refused %s: %s; it is not sent again", refusal.message_id, refusal.reason)
            self._spool.refuse(refusal.message_id)
            self._outbox.acknowledge([refusal.message_id])

    def _complain(self, kind: str, line: str) -> None:
        now = time.monotonic()
        if now - self._said_s.get(kind, -math.inf) >= _SAY_AGAIN_S:
            self._said_s[kind] = now
            log.error("%s; more of the kind are not logged for a while", line)
