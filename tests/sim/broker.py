"""An MQTT 5 broker in memory, behind the same seam as the real one, that fails when it is told to.

It behaves like a broker as `shared.mqtt` shows it: QoS 1, retained messages, the last will after an abrupt end,
persistent sessions that queue QoS 1 messages, shared subscriptions served in turn (members that are connected first).
As with the real client, a message counts as received when it lies in the client's inbox: what a client has not read
when its connection ends is gone, and only QoS 1 messages for a persistent session that is away are queued. A client
that acknowledges by itself (`Identity.hold`) gets no more than it may hold, nor a word on what it publishes while it
holds so much; what it had not acknowledged comes first on its session's next connection.

    broker = SimulatedBroker()
    agent = asyncio.create_task(run_agent(broker.connect))
    await broker.wait_for("edgeloop/v1/+/+/sample", count=3)
    broker.lose_publishes(1, delivered=True, matching="edgeloop/v1/+/+/sample")
    broker.drop_connections()
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from shared.errors import BrokerUnavailable, ConnectionLost
from shared.mqtt import Connection, Glance, Identity, Received


@dataclass(frozen=True, slots=True)
class Publication:
    """A message that reached the broker; `client_id` is empty for a will and for `SimulatedBroker.publish`."""

    client_id: str
    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(eq=False, slots=True)
class _Session:
    client_id: str
    persistent: bool
    filters: list[str] = field(default_factory=list)
    queue: deque[Received] = field(default_factory=deque)
    held: dict[int, Received] = field(default_factory=dict)
    connection: _SimulatedConnection | None = None


@dataclass(slots=True)
class _Fault:
    times: int
    matching: str
    delivered: bool = True

    def strikes(self, topic: str) -> bool:
        if self.times > 0 and matches(self.matching, topic):
            self.times -= 1
            return True
        return False


class SimulatedBroker:
    """See the module.

    Attributes:
        publications: everything that reached the broker, in order.
        retained: the retained messages by topic.
        connections_made: how many connections were accepted.
        discarded: messages dropped because an inbox or a session's queue was full, or nobody was there (QoS 0).
        max_queued: the limit of an absent session's queue.
        line_is_full: True: nothing can be posted.
    """

    def __init__(self, *, max_queued: int = 10_000) -> None:
        self.publications: list[Publication] = []
        self.retained: dict[str, bytes] = {}
        self.connections_made = 0
        self.discarded = 0
        self.max_queued = max_queued
        self.line_is_full = False
        self._sessions: dict[str, _Session] = {}
        self._turns: dict[str, int] = {}
        self._refusals: int | None = 0
        self._losses: list[_Fault] = []
        self._duplicates: list[_Fault] = []
        self._changed: set[asyncio.Future[None]] = set()

    # --- the seam: a shared.mqtt.Connector ----------------------------------------------------------------------------

    @asynccontextmanager
    async def connect(self, identity: Identity) -> AsyncIterator[Connection]:
        await asyncio.sleep(0)
        if self._refusals is None or self._refusals > 0:
            self._refusals = None if self._refusals is None else self._refusals - 1
            self._notify()
            raise BrokerUnavailable("no MQTT broker answers at simulated:1883: start it, or correct [broker]")
        connection = self._open(identity)
        try:
            yield connection
        finally:
            if not connection.lost:
                self._close(connection, abrupt=False)

    # --- faults -------------------------------------------------------------------------------------------------------

    def drop_connections(self, client_id: str | None = None) -> None:
        """Cut every connection, or one client's, as a power cut or a dead link does: wills are published."""
        for session in list(self._sessions.values()):
            if session.connection and client_id in (None, session.client_id):
                self._close(session.connection, abrupt=True)

    def refuse_connections(self, times: int | None = None) -> None:
        """Refuse the next `times` connections; None: all, until `accept_connections`."""
        self._refusals = times

    def accept_connections(self) -> None:
        """End `refuse_connections`."""
        self._refusals = 0

    def lose_publishes(self, times: int = 1, *, delivered: bool, matching: str = "#") -> None:
        """Cut the connection during the next publishes to `matching`, before the broker has it or only its answer."""
        self._losses.append(_Fault(times, matching, delivered))

    def duplicate_deliveries(self, times: int = 1, *, matching: str = "#") -> None:
        """Deliver the next messages to `matching` twice, as QoS 1 allows."""
        self._duplicates.append(_Fault(times, matching))

    def restart(self, *, keep: bool = True) -> None:
        """Go down and come back; with `keep=False` sessions and retained messages are lost, as in memory only."""
        self.drop_connections()
        if not keep:
            self._sessions.clear()
            self.retained.clear()

    # --- for tests to look and act ------------------------------------------------------------------------------------

    @property
    def clients(self) -> list[str]:
        """Ids of the clients that are connected now."""
        return [session.client_id for session in self._sessions.values() if session.connection]

    def queued(self, client_id: str) -> int:
        """Messages that wait for a client that is absent, or holds as many as it may."""
        return len(self._sessions[client_id].queue) if client_id in self._sessions else 0

    def held(self, client_id: str) -> int:
        """Messages that a client has and did not acknowledge."""
        return len(self._sessions[client_id].held) if client_id in self._sessions else 0

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish as somebody who needs no connection."""
        self._take(Publication("", topic, payload, qos, retain))

    def misroute(self, client_id: str, topic: str, payload: bytes) -> None:
        """Give a client what it did not ask for."""
        self._deliver(self._sessions[client_id], Received(topic, payload), 1)

    def published(self, pattern: str) -> list[bytes]:
        """Payloads that reached the broker on topics that match, in order."""
        return [each.payload for each in self.publications if matches(pattern, each.topic)]

    async def wait_for(self, pattern: str, *, count: int = 1, timeout_s: float = 10.0) -> list[bytes]:
        """The payloads of `published(pattern)`, as soon as there are at least `count`."""
        await self.wait_until(lambda: len(self.published(pattern)) >= count, timeout_s=timeout_s)
        return self.published(pattern)

    async def wait_until(self, condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
        """Wait for something that changes with a message or a connection; TimeoutError is a failed test."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                change = asyncio.get_running_loop().create_future()
                self._changed.add(change)
                try:
                    await change
                finally:
                    self._changed.discard(change)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _open(self, identity: Identity) -> _SimulatedConnection:
        session = self._sessions.get(identity.client_id)
        if session and session.connection:  # the newcomer takes the session over
            self._close(session.connection, abrupt=True)
            session = self._sessions.get(identity.client_id)
        persistent = identity.session_expiry_s > 0
        if session is None or not persistent:
            session = self._sessions[identity.client_id] = _Session(identity.client_id, persistent)
        session.persistent = persistent
        session.connection = connection = _SimulatedConnection(self, session, identity)
        self.connections_made += 1
        waiting, session.queue = session.queue, deque()
        for message in waiting:
            self._deliver(session, message, 1)
        self._notify()
        return connection

    def _close(self, connection: _SimulatedConnection, *, abrupt: bool) -> None:
        session = connection.session
        session.connection = None
        session.queue.extendleft(reversed(session.held.values()))
        session.held.clear()
        if not session.persistent:
            self._sessions.pop(session.client_id, None)
        connection.end()
        if abrupt and connection.will:
            self._take(Publication("", connection.will.topic, connection.will.payload, 1, retain=True))
        self._notify()

    def _publish(self, connection: _SimulatedConnection, publication: Publication) -> None:
        loss = next((fault for fault in self._losses if fault.strikes(publication.topic)), None)
        if loss is None:
            self._take(publication)
            return
        if loss.delivered:
            self._take(publication)
        self._close(connection, abrupt=True)
        raise ConnectionLost(f"connection lost while publishing to {publication.topic}: simulated")

    def _take(self, publication: Publication) -> None:
        self.publications.append(publication)
        if publication.retain:
            if publication.payload:
                self.retained[publication.topic] = publication.payload
            else:
                self.retained.pop(publication.topic, None)
        message = Received(publication.topic, publication.payload)
        for session in self._receivers(publication.topic):
            twice = any(fault.strikes(publication.topic) for fault in self._duplicates)
            for _ in range(2 if twice else 1):
                self._deliver(session, message, publication.qos)
        self._notify()

    def _receivers(self, topic: str) -> list[_Session]:
        direct = [session for session in self._sessions.values() if any(matches(f, topic) for f in session.filters)]
        groups: dict[str, list[_Session]] = {}
        for session in self._sessions.values():
            for name in session.filters:
                if name.startswith("$share/") and matches(name.split("/", 2)[2], topic):
                    groups.setdefault(name, []).append(session)
        for name, members in groups.items():
            present = [member for member in members if member.connection] or members
            turn = self._turns.get(name, 0)
            self._turns[name] = turn + 1
            direct.append(present[turn % len(present)])
        return direct

    def _deliver(self, session: _Session, message: Received, qos: int) -> None:
        connection = session.connection
        if connection and (qos == 0 or not connection.hold):
            connection.deliver(message)
        elif connection and connection.has_room and not session.queue:
            connection.numbered += 1
            session.held[connection.numbered] = numbered = replace(message, number=connection.numbered)
            connection.deliver(numbered)
        elif session.persistent and qos > 0 and len(session.queue) < self.max_queued:
            session.queue.append(message)
        else:
            self.discarded += 1

    def _acknowledge(self, session: _Session, number: int) -> None:
        session.held.pop(number, None)
        if session.queue:
            waiting, session.queue = session.queue, deque()
            for message in waiting:
                self._deliver(session, message, 1)
        self._notify()

    def _subscribe(self, connection: _SimulatedConnection, name: str) -> None:
        if name not in connection.session.filters:
            connection.session.filters.append(name)
        # MQTT 5, 4.8.2: a shared subscription gets no retained messages.
        for topic, payload in list(self.retained.items()):
            if matches(name, topic):
                self._deliver(connection.session, Received(topic, payload), 1)

    def _notify(self) -> None:
        for change in self._changed:
            if not change.done():
                change.set_result(None)


class _SimulatedConnection:
    def __init__(self, broker: SimulatedBroker, session: _Session, identity: Identity) -> None:
        self.broker, self.session, self.will, self.hold = broker, session, identity.will, identity.hold
        self.max_inbox, self.hold_bytes = identity.max_queued, identity.hold_bytes
        self.numbered = 0
        self.lost = False
        self.inbox: deque[Received] = deque()
        self.wake = asyncio.Event()
        self.round_trip_s: float | None = None
        self.glance: Glance | None = None

    @property
    def has_room(self) -> bool:
        held = self.session.held.values()
        return len(held) < self.hold and sum(len(message.payload) for message in held) < self.hold_bytes

    def watch(self, glance: Glance) -> None:
        self.glance = glance

    def post(self, topic: str, payload: bytes) -> bool:
        if self.lost or self.broker.line_is_full:
            return False
        with contextlib.suppress(ConnectionLost):
            self.broker._publish(self, Publication(self.session.client_id, topic, bytes(payload), 1, retain=False))
        return True

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        if qos not in (0, 1) or not topic or "+" in topic or "#" in topic:
            raise ValueError(f"cannot publish to {topic!r} with QoS {qos}")
        await asyncio.sleep(0)
        # A real client learns of the broker's answer behind all that it has sent, and reads no more than it may hold.
        if qos and self.hold:
            await self.broker.wait_until(lambda: self.lost or self.has_room, timeout_s=60.0)
        self._check(f"connection lost while publishing to {topic}")
        publication = Publication(self.session.client_id, topic, bytes(payload), qos, retain)
        self.broker._publish(self, publication)

    async def subscribe(self, filters: Sequence[str]) -> None:
        await asyncio.sleep(0)
        self._check("connection lost while subscribing")
        for name in filters:
            self.broker._subscribe(self, name)

    def acknowledge(self, message: Received) -> None:
        if message.number and not self.lost:
            self.broker._acknowledge(self.session, message.number)

    async def messages(self) -> AsyncIterator[Received]:
        while True:
            while self.inbox:
                yield self.inbox.popleft()
            self._check("connection lost")
            self.wake.clear()
            await self.wake.wait()

    def deliver(self, message: Received) -> None:
        if self.glance is not None and self.glance(message):
            return
        if len(self.inbox) >= self.max_inbox:
            self.broker.discarded += 1
            return
        self.inbox.append(message)
        self.wake.set()

    def end(self) -> None:
        self.lost = True
        self.wake.set()

    def _check(self, text: str) -> None:
        if self.lost:
            raise ConnectionLost(f"{text}: simulated")


def matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter with `+` and `#` takes a topic (MQTT 5, 4.7); a shared one matches nothing."""
    levels, parts = pattern.split("/"), topic.split("/")
    if parts[0].startswith("$") and levels[0] in ("+", "#"):
        return False
    for index, level in enumerate(levels):
        if level == "#":
            return True
        if index >= len(parts) or level not in ("+", parts[index]):
            return False
    return len(levels) == len(parts)
