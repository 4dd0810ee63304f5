"""The one connection to the cloud: samples, reports, state and telemetry go up; verdicts, receipts, wishes come down.

Runs in the agent's own event loop. A sample leaves the spool only when a verdict or a receipt names it. A sample that
somebody waits for does not queue behind the spool's: `send_now` puts it on the wire in the loop's next turn.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Protocol
from uuid import UUID

from edge_agent.ledger import Contact, Ledger, Purpose
from edge_agent.spool.reading import SpooledSample
from edge_agent.spool.spool import Spool
from edge_agent.uplink.allowance import OVER_CAP, Allowance
from edge_agent.uplink.arrivals import Addressee, Arrivals
from edge_agent.uplink.correlation import Correlation
from edge_agent.uplink.flights import Flights
from edge_agent.uplink.outbox import Outbox
from edge_agent.uplink.settings import UplinkSettings
from shared import messages
from shared.codec import Array
from shared.errors import ConnectionLost
from shared.messages import DeviceState, SampleHeader, Telemetry
from shared.mqtt import BrokerSettings, Connection, Connector, Identity, Will, keep_connected, together
from shared.topics import Channel, Topic

log = logging.getLogger(__name__)

# Read from the spool at once; more would keep the loop from its other work for longer than somebody may wait.
_BATCH = 16
# Of the spool's samples under way at once, and of those that somebody waits for and that the line has not taken yet.
_UNDER_WAY_BYTES = 1024**2
_HURRIED_BYTES = 4 * 1024**2
_HURRY_AGAIN_S = 0.01
_REPORT_AGAIN_S = 15.0
_LOOK_AGAIN_S = 60.0
_SHORTEST_PAUSE_S = 0.005
_DOWN = (Channel.VERDICT, Channel.RECEIPT, Channel.DESIRED)


class Listener(Addressee, Protocol):
    """Who is told what came down, and asked what goes up."""

    def state(self) -> DeviceState: ...

    def telemetry(self, *, seq: int) -> Telemetry: ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where this device is."""

    site: str
    device: str

    def topic(self, channel: Channel) -> str:
        return str(Topic(self.site, self.device, channel))


class Uplink:
    """See the module. `run` never ends by itself; what is not a coroutine may be called from any thread.

    Args:
        send_deferred: whether samples that can wait are sent, too.
    """

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
        settings: UplinkSettings,
        telemetry_interval_s: float,
        send_deferred: Callable[[], bool],
        rng: Random,
    ) -> None:
        self._address, self._connect, self._broker, self._settings = address, connect, broker, settings
        self._spool, self._outbox, self._ledger, self._correlation = spool, outbox, ledger, correlation
        self._listener, self._send_deferred, self._rng = listener, send_deferred, rng
        self._telemetry_interval_s = telemetry_interval_s
        self._topics = {channel: address.topic(channel) for channel in Channel}
        channels = {self._topics[channel]: channel for channel in _DOWN}
        self._arrivals = Arrivals(
            channels, spool=spool, outbox=outbox, ledger=ledger, correlation=correlation, addressee=listener
        )
        self._allowance = Allowance(ledger)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh = asyncio.Event()
        self._changed = asyncio.Event()
        self._connection: Connection | None = None
        self._more = True
        self._hurried_lock = threading.Lock()
        self._hurried_bytes = 0
        self._was_connected = False
        self._reports = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection on which verdicts come down."""
        return self._connection is not None

    @property
    def round_trip_s(self) -> float | None:
        """From a publish to the broker's acknowledgement, smoothed; None before the first on a connection."""
        connection = self._connection
        return None if connection is None else connection.round_trip_s

    async def run(self) -> None:
        """Stay connected and carry messages until cancelled."""
        self._loop = asyncio.get_running_loop()
        will = Will(self._topics[Channel.STATE], messages.encode(DeviceState(online=False)))
        name, expiry_s = f"edge-{self._address.site}-{self._address.device}", self._settings.session_expiry_s
        identity = Identity(name, will=will, session_expiry_s=expiry_s)
        await keep_connected(self._connect, identity, self._session, settings=self._broker, rng=self._rng)

    def wake(self) -> None:
        """Something was spooled, or what may be sent has changed."""
        self._set(self._fresh)

    def state_changed(self) -> None:
        """The device runs something else, or a report waits: tell the cloud."""
        self._set(self._changed)

    def send_now(self, header: SampleHeader, tensor: Array) -> bool:
        """Send a sample because somebody waits for its verdict; never blocks, and knows nothing of the spool.

        True: it is on its way, or goes as soon as the line takes it, if somebody still waits then. False: there is no
        connection, or too much waits for the line, or the day's bytes are spent: the spool is what is left to it.
        """
        loop, connection = self._loop, self._connection
        if loop is None or connection is None or self._allowance.spent:
            return False
        waited_ms = self._correlation.deadline_ms(header.sample_id)
        frame = messages.encode_sample(header, tensor, deadline_ms=waited_ms)
        if self._allowance.unlimited and connection.post(self._topics[Channel.SAMPLE], frame):
            self._ledger.add_bytes(Purpose.SAMPLES, len(frame))
            return True
        with self._hurried_lock:
            if self._hurried_bytes and self._hurried_bytes + len(frame) > _HURRIED_BYTES:
                return False
            self._hurried_bytes += len(frame)
        try:
            loop.call_soon_threadsafe(self._pay_and_hurry, frame, header.sample_id)
        except RuntimeError:  # the loop has just ended
            return False
        return True

    async def say_goodbye(self) -> None:
        """Publish that the device is going offline in order, if there is a connection."""
        if self._connection is not None:
            state = self._listener.state().model_copy(update={"online": False})
            await self._connection.publish(self._topics[Channel.STATE], messages.encode(state), qos=1, retain=True)

    def _set(self, event: asyncio.Event) -> None:
        loop = self._loop
        if loop is not None and not event.is_set():
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(event.set)

    async def _session(self, connection: Connection) -> None:
        connection.watch(self._arrivals.glance)
        await connection.subscribe([self._topics[channel] for channel in _DOWN])
        if not self._was_connected:
            log.info("connected to broker %s as %s/%s", self._broker.address, self._address.site, self._address.device)
        self._was_connected = True
        async with Flights(max_count=self._broker.in_flight, max_bytes=_UNDER_WAY_BYTES) as flights:
            self._connection = connection
            # After the line above: what `send_now` refuses before it is forgotten here, and so sent.
            self._spool.forget_attempts()
            self._changed.set()
            try:
                await together(
                    {
                        "receive": self._receive(connection),
                        "books": self._arrivals.keep_books(),
                        "samples": self._send_samples(connection, flights),
                        "flights": flights.failure(),
                        "state": self._send_state(connection),
                        "telemetry": self._send_telemetry(connection),
                    }
                )
            finally:
                self._connection = None
                self._ledger.reached(Contact.CONNECTED)

    async def _receive(self, connection: Connection) -> None:
        async for message in connection.messages():
            self._arrivals.take(message)
            if self._more:  # and there is room for it now
                self._fresh.set()

    async def _send_samples(self, connection: Connection, flights: Flights) -> None:
        while True:
            self._fresh.clear()
            while not self._allowance.spent and (batch := self._spool.due(_BATCH, deferred=self._send_deferred())):
                for item in batch:
                    await self._send_spooled(connection, flights, item)
            await _first_of(self._fresh, self._pause_s())

    async def _send_spooled(self, connection: Connection, flights: Flights, item: SpooledSample) -> None:
        sample_id = item.header.sample_id
        if not self._send_deferred() and not self._correlation.deadline_ms(sample_id):
            self._spool.nobody_waits(sample_id)
            return
        frame = self._frame(item)
        if self._allowance.spend(Purpose.SAMPLES, len(frame)):
            await flights.room(len(frame))
            flights.begin(f"sample {sample_id}", self._send(connection, frame), size=len(frame))
        elif not self._allowance.ever(len(frame)):
            self._spool.give_up(sample_id, OVER_CAP)

    def _pause_s(self) -> float:
        if self._allowance.spent:
            return _LOOK_AGAIN_S
        due_s = self._spool.next_due_s()
        self._more = due_s is not None
        return _LOOK_AGAIN_S if due_s is None else min(max(due_s, _SHORTEST_PAUSE_S), _LOOK_AGAIN_S)

    def _frame(self, item: SpooledSample) -> bytes:
        waited_ms = self._correlation.deadline_ms(item.header.sample_id)
        age_ms = int(item.age_s * 1000)
        return messages.encode_sample(item.header, item.tensor, age_ms=age_ms, deadline_ms=waited_ms)

    def _pay_and_hurry(self, frame: bytes, sample_id: UUID) -> None:
        if self._allowance.spend(Purpose.SAMPLES, len(frame)):
            self._hurry(frame, sample_id)
        else:
            self._leave_to_the_spool(frame, sample_id)

    def _hurry(self, frame: bytes, sample_id: UUID) -> None:
        connection = self._connection
        if connection is None or not self._correlation.deadline_ms(sample_id):
            self._leave_to_the_spool(frame, sample_id)
        elif connection.post(self._topics[Channel.SAMPLE], frame):
            self._landed(frame)
        else:
            asyncio.get_running_loop().call_later(_HURRY_AGAIN_S, self._hurry, frame, sample_id)

    def _leave_to_the_spool(self, frame: bytes, sample_id: UUID) -> None:
        self._landed(frame)
        self._spool.not_sent(sample_id)
        self._fresh.set()

    def _landed(self, frame: bytes) -> None:
        with self._hurried_lock:
            self._hurried_bytes -= len(frame)

    async def _send(self, connection: Connection, frame: bytes) -> None:
        # A lost connection comes out of `receive`, too, and ends the session there.
        with suppress(ConnectionLost):
            await connection.publish(self._topics[Channel.SAMPLE], frame, qos=1)

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
            self._ledger.reached(Contact.CONNECTED)
            frame = messages.encode(self._listener.telemetry(seq=self._reports + 1))
            if self._allowance.spend(Purpose.TELEMETRY, len(frame)):
                self._reports += 1  # a gap tells the cloud of a lost report, so what is not sent has no number
                await connection.publish(self._topics[Channel.TELEMETRY], frame, qos=0)
            await asyncio.sleep(self._telemetry_interval_s)

    async def _publish(self, connection: Connection, channel: Channel, message: messages.Message) -> None:
        frame = messages.encode(message)
        self._ledger.add_bytes(Purpose.TELEMETRY, len(frame))
        await connection.publish(self._topics[channel], frame, qos=1, retain=channel is Channel.STATE)


async def _first_of(event: asyncio.Event, timeout_s: float | None) -> None:
    # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that meets the event.
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
