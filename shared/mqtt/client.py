"""The connection: paho, driven by the event loop itself through paho's hooks for a foreign loop.

No thread of its own, so nothing stands between the socket and whoever waits for it: what somebody waits for goes out in
that somebody's thread and is shown to them as soon as it comes in (docs/adr/0008). One lock guards paho, which is not
made for two threads; only `post` takes it outside the loop's thread, and only if nobody has it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from paho.mqtt.client import error_string
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from shared.errors import BrokerUnavailable, ConnectionLost
from shared.mqtt.ahead import ReadAhead
from shared.mqtt.dialling import CONNECT_TIMEOUT_S, paho_client, reach
from shared.mqtt.held import Held
from shared.mqtt.inbox import Inbox
from shared.mqtt.owed import Debt, Owed
from shared.mqtt.reading import Reading
from shared.mqtt.seam import Glance, Identity, Received
from shared.mqtt.settings import BrokerSettings

log = logging.getLogger(__name__)

_GOODBYE_TIMEOUT_S = 2.0
_TICK_S = 1.0
# Unanswered bytes beyond which nothing more is posted.
_POSTED_BYTES = 4 * 1024**2
# What a receive maximum can be at most (MQTT 5, 3.1.2.11.3).
_MOST_HELD = 65_535
# paho's message ids count from 1; the answers to CONNECT and DISCONNECT have none.
_CONNECTION = 0


class PahoConnection:
    """Used once. Everything but the dialling and `post` runs in the event loop's thread."""

    def __init__(self, settings: BrokerSettings, identity: Identity) -> None:
        self._settings, self._identity = settings, identity
        self._loop = asyncio.get_running_loop()
        self._client = paho_client(settings, identity)
        self._lock = threading.RLock()
        self._posting = False
        self._socket: Any = None
        self._descriptor = -1
        self._writing = False
        self._ticking: asyncio.TimerHandle | None = None
        self._owed = Owed()
        # No more is read than may be held, so nothing of that is ever dropped.
        self._inbox = Inbox(_MOST_HELD if identity.hold else identity.max_queued)
        self._held = Held(identity.hold or _MOST_HELD, identity.hold_bytes)
        self._reading: Reading | None = None
        self._subscribing = 0
        self._refused: set[str] = set()
        self._lost: str | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: nothing is there, or it does not let us in, or a certificate does not fit.
        """
        client = self._client
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_publish, client.on_subscribe = self._on_message, self._on_answer, self._on_answer
        self._socket = ReadAhead(await reach(client, self._settings, self._identity))
        client._sock = self._socket  # noqa: SLF001  # paho has no other way to be given one
        # A second descriptor of the same socket: paho may close its own in another thread, and the loop must not watch
        # whatever gets its number next.
        self._descriptor = os.dup(self._socket.fileno())
        client.on_socket_register_write = self._on_write_wanted
        self._reading = Reading(self._loop, self._descriptor, self._read)
        try:
            answer = self._expect(_CONNECTION, "CONNECT")
            self._tick()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await answer
        except TimeoutError as err:
            self._lose(f"nothing came within {CONNECT_TIMEOUT_S:g} s")
            raise ConnectionLost(str(self._lost)) from err
        except BaseException:
            self._lose("it was given up")
            raise

    async def close(self) -> None:
        """Say goodbye, if the connection is not lost, and end it."""
        try:
            if self._is_open():
                end = self._expect(_CONNECTION, "DISCONNECT")
                with self._lock:
                    self._client.disconnect()
                self._write()
                with suppress(TimeoutError, ConnectionLost):
                    async with asyncio.timeout(_GOODBYE_TIMEOUT_S):
                        await end
        finally:
            self._lose("it was closed")

    @property
    def round_trip_s(self) -> float | None:
        return self._owed.round_trip_s

    def watch(self, glance: Glance) -> None:
        self._inbox.watch(glance)

    def post(self, topic: str, payload: bytes) -> bool:
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._is_open() or self._writing or self._is_busy(len(payload)):
                return False
            self._posting = True
            info = self._client.publish(topic, payload, 1)
            if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                return False
            self._owed.expect(info.mid, Debt(topic, len(payload)))
            self._guarded(self._client.loop_write)
            if self._client.want_write():
                self._tell_loop(self._write)
            return True
        finally:
            self._posting = False
            self._lock.release()

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        self._check(f"while publishing to {topic}")
        with self._lock:
            info = self._client.publish(topic, payload, qos, retain)
            if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise ConnectionLost(f"connection lost while publishing to {topic}: {error_string(info.rc)}")
            answer = self._expect(info.mid, topic, len(payload), from_afar=qos > 0)
            self._write()
        await answer

    async def subscribe(self, filters: Sequence[str]) -> None:
        self._check("while subscribing")
        with self._lock:
            rc, mid = self._client.subscribe([(name, SubscribeOptions(qos=1)) for name in filters])
            if rc is not MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
                raise ConnectionLost(f"connection lost while subscribing: {error_string(rc)}")
            answer = self._expect(mid, "SUBSCRIBE")
            self._write()
            # The broker may have sent as much of a session's backlog as is held, before its answer: read on for that.
            self._subscribing += 1
            self._hold_back()
        try:
            codes = await answer
        finally:
            self._subscribing -= 1
            self._hold_back()
        for name, code in zip(filters, codes, strict=True):
            if code.is_failure:
                raise BrokerUnavailable(f"the broker refused the subscription to {name}: {code}")

    def acknowledge(self, message: Received) -> None:
        if not (message.number and self._is_open()):
            return
        with self._lock:
            for number in self._held.done(message.number):
                self._client.ack(number, 1)  # is only queued: paho asks for the writing of all that is
            self._hold_back()

    def messages(self) -> AsyncIterator[Received]:
        return self._inbox.messages()

    def _expect(self, mid: int, about: str, size: int = 0, *, from_afar: bool = True) -> asyncio.Future[Any]:
        waiter = self._loop.create_future()
        with self._lock:
            self._owed.expect(mid, Debt(about, size, waiter), from_afar=from_afar)
        return waiter

    def _is_busy(self, size: int) -> bool:
        owed = self._owed
        return len(owed) >= self._settings.in_flight or bool(owed.bytes and owed.bytes + size > _POSTED_BYTES)

    def _check(self, when: str) -> None:
        if not self._is_open():
            raise ConnectionLost(f"connection lost {when}: {self._lost}")

    def _is_open(self) -> bool:
        return self._lost is None

    # What the event loop calls.

    def _read(self) -> None:
        with self._lock:
            self._guarded(self._client.loop_read)
            # What was read ahead already, the socket does not announce again.
            while self._is_open() and self._has_room and self._socket.pending() > 0:
                self._guarded(self._client.loop_read)
            self._hold_back()

    @property
    def _has_room(self) -> bool:
        return self._subscribing > 0 or not self._held.full

    def _hold_back(self) -> None:
        if self._is_open() and self._reading is not None:
            self._reading.look(wanted=self._has_room)

    def _write(self) -> None:
        with self._lock:
            if not self._is_open():
                return
            self._guarded(self._client.loop_write)
            if not self._is_open():
                return
            writing = self._client.want_write()
            if writing and not self._writing:
                self._loop.add_writer(self._descriptor, self._write)
            elif self._writing and not writing:
                self._loop.remove_writer(self._descriptor)
            self._writing = writing

    def _tick(self) -> None:
        """Once a second: keep the connection alive, and see whether it is."""
        with self._lock:
            if self._reading is None or self._reading.looking:
                self._guarded(self._client.loop_misc)
            elif not self._client.want_write():  # nothing of a packet may be in between
                self._guarded(partial(self._reading.ping, self._socket, self._settings.keepalive_s / 2))
            silent_s = self._owed.overdue_s()
        self._write()
        if silent_s is not None:
            self._lose(f"no answer within {silent_s:.0f} s")
        if self._is_open():
            self._ticking = self._loop.call_later(_TICK_S, self._tick)

    def _guarded(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as err:  # noqa: BLE001  # paho lets many kinds through for what a broker sends: no connection more
            self._lose(f"{type(err).__name__}: {err}")

    # What paho calls.

    def _on_connect(self, client: object, userdata: object, flags: object, reason: Any, properties: object) -> None:
        if reason.is_failure:
            self._lose(str(reason))
        else:
            self._owed.settle(_CONNECTION, reason)

    def _on_disconnect(self, client: object, userdata: object, flags: Any, reason: Any, properties: object) -> None:
        self._lose(f"the broker said: {reason}" if flags.is_disconnect_packet_from_server else "the line broke")

    def _on_message(self, client: object, userdata: object, message: Any) -> None:
        number = message.mid if message.qos and self._identity.hold else 0
        if number:
            self._held.came(number, len(message.payload))
        self._inbox.put(Received(message.topic, bytes(message.payload), number))

    def _on_answer(self, client: object, userdata: object, mid: int, reason: Any, properties: object) -> None:
        debt = self._owed.settle(mid, reason)
        if debt is not None and getattr(reason, "is_failure", False) and debt.about not in self._refused:
            self._refused.add(debt.about)
            log.error("the broker does not take what goes to %s (%s): correct its access rules", debt.about, reason)

    def _on_write_wanted(self, client: object, userdata: object, sock: object) -> None:
        if not self._posting:
            self._loop.call_soon(self._write)

    # The end.

    def _lose(self, why: str) -> None:
        if self._posting:
            self._tell_loop(self._end, why)
        else:
            self._end(why)

    def _tell_loop(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # it has just ended
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _end(self, why: str) -> None:
        if self._lost is not None:
            return
        with self._lock:
            self._lost = why
            if self._ticking is not None:
                self._ticking.cancel()
            if self._reading is not None:
                self._reading.stop()
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._socket.close()
            self._owed.fail(why)
            self._inbox.end(why)
