"""The one connection to the cloud: samples, reports, state and telemetry go up; verdicts, receipts, wishes come down.

Runs in the agent's own event loop. A sample leaves the spool only when a verdict or a receipt names it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Protocol

from edge_agent.correlation import Correlation
from edge_agent.ledger import Ledger, Purpose
from edge_agent.outbox import Outbox
from edge_agent.spool.spool import Spool, SpooledSample
from shared import messages
from shared.errors import FrameError
from shared.messages import Desired, DeviceState, Receipt, Telemetry, Verdict
from shared.mqtt import BrokerSettings, Connection, Connector, Identity, Received, Will, keep_connected, together
from shared.topics import Channel, Topic, parse

log = logging.getLogger(__name__)

_BATCH = 100
_REPORT_AGAIN_S = 15.0
_SAY_AGAIN_S = 60.0


class Listener(Protocol):
    """Who is told what came down."""

    def verdict(self, verdict: Verdict) -> None: ...

    def desired(self, desired: Desired) -> None: ...

    def state(self) -> DeviceState: ...

    def telemetry(self) -> Telemetry: ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where this device is."""

    site: str
    device: str

    def topic(self, channel: Channel) -> str:
        return str(Topic(self.site, self.device, channel))


class Uplink:
    """See the module. `run` never ends by itself; `wake` and `state_changed` may be called from any thread."""

    def __init__(
        self,
        address: Address,
        *,
        connect: Connector,
        broker: BrokerSettings,
        spool: Spool,
        outbox: Outbox,
        ledger: Ledger,
        correlation: Correlation,
        listener: Listener,
        telemetry_interval_s: float,
        rng: Random,
    ) -> None:
        self._address, self._connect, self._broker = address, connect, broker
        self._spool, self._outbox, self._ledger, self._correlation = spool, outbox, ledger, correlation
        self._listener, self._rng = listener, rng
        self._telemetry_interval_s = telemetry_interval_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh = asyncio.Event()
        self._changed = asyncio.Event()
        self._connection: Connection | None = None
        self._said_s: dict[str, float] = {}

    async def run(self) -> None:
        """Stay connected and carry messages until cancelled."""
        self._loop = asyncio.get_running_loop()
        will = Will(self._address.topic(Channel.STATE), messages.encode(DeviceState(online=False)))
        identity = Identity(f"edge-{self._address.site}-{self._address.device}", will=will)
        await keep_connected(self._connect, identity, self._session, settings=self._broker, rng=self._rng)

    def wake(self) -> None:
        """Something was spooled."""
        self._set(self._fresh)

    def state_changed(self) -> None:
        """The device runs something else, or a report waits: tell the cloud."""
        self._set(self._changed)

    async def say_goodbye(self) -> None:
        """Publish that the device is going offline in order, if there is a connection."""
        if self._connection is not None:
            state = self._listener.state().model_copy(update={"online": False})
            topic = self._address.topic(Channel.STATE)
            await self._connection.publish(topic, messages.encode(state), qos=1, retain=True)

    def _set(self, event: asyncio.Event) -> None:
        loop = self._loop
        if loop is not None and not event.is_set() and not loop.is_closed():
            loop.call_soon_threadsafe(event.set)

    async def _session(self, connection: Connection) -> None:
        self._spool.forget_attempts()
        down = (Channel.VERDICT, Channel.RECEIPT, Channel.DESIRED)
        await connection.subscribe([self._address.topic(channel) for channel in down])
        self._connection = connection
        self._changed.set()
        try:
            await together(
                receive=self._receive(connection),
                samples=self._send_samples(connection),
                state=self._send_state(connection),
                telemetry=self._send_telemetry(connection),
            )
        finally:
            self._connection = None

    async def _receive(self, connection: Connection) -> None:
        async for message in connection.messages():
            try:
                self._take(message)
            except FrameError as err:
                self._complain(
                    type(err).__name__, f"a message on {message.topic} was not understood and is ignored: {err}"
                )

    def _take(self, message: Received) -> None:
        match parse(message.topic).channel:
            case Channel.VERDICT:
                self._ledger.add_bytes(Purpose.VERDICTS, len(message.payload))
                self._listener.verdict(messages.decode(Verdict, message.payload))
                self._fresh.set()
            case Channel.RECEIPT:
                self._ledger.add_bytes(Purpose.VERDICTS, len(message.payload))
                self._take_receipt(messages.decode(Receipt, message.payload))
                self._fresh.set()
            case Channel.DESIRED:
                self._ledger.add_bytes(Purpose.UPDATES, len(message.payload))
                self._listener.desired(messages.decode(Desired, message.payload))
            case channel:
                self._complain(channel, f"a message on the channel {channel} came down to a device and is ignored")

    def _complain(self, kind: str, line: str) -> None:
        """Say what the other side did wrong, at most once a minute and kind."""
        now = time.monotonic()
        if now - self._said_s.get(kind, -math.inf) >= _SAY_AGAIN_S:
            self._said_s[kind] = now
            log.error("%s; more of the kind are not logged for a while", line)

    def _take_receipt(self, receipt: Receipt) -> None:
        self._spool.acknowledge(receipt.accepted)
        self._outbox.acknowledge(receipt.accepted)
        for refusal in receipt.refused:
            log.error("the cloud refused %s: %s; it is not sent again", refusal.message_id, refusal.reason)
            self._spool.refuse(refusal.message_id)
            self._outbox.acknowledge([refusal.message_id])

    async def _send_samples(self, connection: Connection) -> None:
        while True:
            self._fresh.clear()
            while batch := self._spool.due(_BATCH):
                await together(**{f"sample {item.header.sample_id}": self._send(connection, item) for item in batch})
            await _first_of(self._fresh, self._spool.next_due_s())

    async def _send(self, connection: Connection, item: SpooledSample) -> None:
        header = item.header.model_copy(
            update={
                "age_ms": int(item.age_s * 1000),
                "deadline_ms": self._correlation.deadline_ms(item.header.sample_id),
            }
        )
        frame = messages.encode_sample(header, item.tensor)
        self._ledger.add_bytes(Purpose.SAMPLES, len(frame))
        await connection.publish(self._address.topic(Channel.SAMPLE), frame, qos=1)

    async def _send_state(self, connection: Connection) -> None:
        while True:
            await _first_of(self._changed, _REPORT_AGAIN_S if self._outbox.waiting() else None)
            changed = self._changed.is_set()
            self._changed.clear()
            if changed:
                await self._publish(connection, Channel.STATE, self._listener.state())
            for report in self._outbox.waiting():
                await self._publish(connection, Channel.REPORT, report)

    async def _send_telemetry(self, connection: Connection) -> None:
        while True:
            await self._publish(connection, Channel.TELEMETRY, self._listener.telemetry())
            await asyncio.sleep(self._telemetry_interval_s)

    async def _publish(self, connection: Connection, channel: Channel, message: messages.Message) -> None:
        frame = messages.encode(message)
        self._ledger.add_bytes(Purpose.TELEMETRY, len(frame))
        qos = 0 if channel is Channel.TELEMETRY else 1
        await connection.publish(self._address.topic(channel), frame, qos=qos, retain=channel is Channel.STATE)


async def _first_of(event: asyncio.Event, timeout_s: float | None) -> None:
    # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that meets the event.
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
