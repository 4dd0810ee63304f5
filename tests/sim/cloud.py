"""A cloud of two small parts for tests of the agent: an MQTT peer that answers, and a file server with ranges.

It knows the contract in `shared/` and nothing of `cloud_service/`, and it does only what it is told: every sample gets
what `answer` returns for it. `MessageCloud` works on any connector (a real broker's or `SimulatedBroker.connect`).

    async with MessageCloud(connector(BrokerSettings(port=mosquitto.port)), "demo") as cloud, BundleServer() as server:
        await cloud.push("cam-1", server.reference(file, "v2"))
        await eventually(lambda: cloud.reports, timeout=20, what="the device reported")
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self
from uuid import UUID

from aiohttp import web

from shared import bundle, messages
from shared.codec import Array
from shared.messages import (
    BundleReference,
    Desired,
    DeviceState,
    Receipt,
    Refusal,
    Report,
    SampleHeader,
    Target,
    Telemetry,
    Verdict,
)
from shared.mqtt import BrokerSettings, Connection, Connector, Identity, keep_connected
from shared.topics import Channel, Topic, every_device, parse

Reply = Verdict | Receipt | None
Answer = Callable[[SampleHeader, Array], Reply]


def verdict(header: SampleHeader, prediction: int | None = None, *, classes: int = 10) -> Verdict:
    """A sure verdict; without a prediction it agrees with the edge."""
    chosen = header.prediction if prediction is None else prediction
    return Verdict(
        sample_id=header.sample_id,
        task=header.task,
        prediction=chosen,
        probabilities=tuple(1.0 if index == chosen else 0.0 for index in range(classes)),
        teacher="teacher-1",
        latency_ms=1.0,
    )


def agree(header: SampleHeader, tensor: Array) -> Reply:
    """Answer everything with the edge's own prediction."""
    return verdict(header)


def silence(header: SampleHeader, tensor: Array) -> Reply:
    """Say nothing: the device keeps its sample."""
    return None


def accept(header: SampleHeader, tensor: Array) -> Reply:
    """A receipt without a verdict."""
    return Receipt(accepted=(header.sample_id,))


def refuse(header: SampleHeader, tensor: Array) -> Reply:
    """Refuse for good."""
    return Receipt(refused=(Refusal(message_id=header.sample_id, reason="not wanted in this test"),))


class MessageCloud:
    """The MQTT side.

    Attributes:
        answer: what becomes of each sample; may be replaced at any time.
        acknowledge_reports: False: reports get no receipt, so that the device repeats them.
        samples: every arrival by sample id, repeated ones included, in order of the first.
        reports: every arrival; states, telemetry: the newest by device.
    """

    def __init__(self, connect: Connector, site: str, *, answer: Answer = agree) -> None:
        self._connect, self._site = connect, site
        self.answer = answer
        self.acknowledge_reports = True
        self.samples: dict[UUID, list[tuple[SampleHeader, Array]]] = {}
        self.reports: list[Report] = []
        self.states: dict[str, DeviceState] = {}
        self.state_history: list[tuple[str, DeviceState]] = []
        self.telemetry: dict[str, Telemetry] = {}
        self.revision = 0
        self._connection: Connection | None = None
        self._there = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._live(), name="cloud")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def distinct_reports(self) -> dict[UUID, Report]:
        """Reports by id, as a store that is idempotent keeps them."""
        return {report.report_id: report for report in self.reports}

    async def push(self, device: str, reference: BundleReference, *, task: str = "digits") -> int:
        """Want a bundle of a device; returns the revision."""
        self.revision += 1
        desired = Desired(revision=self.revision, tasks={task: Target(bundle=reference)})
        await self.send(device, Channel.DESIRED, messages.encode(desired), retain=True)
        return self.revision

    async def send(self, device: str, channel: Channel, payload: bytes, *, retain: bool = False) -> None:
        """Send raw bytes down, waiting for a connection first."""
        async with asyncio.timeout(20):
            await self._there.wait()
        assert self._connection is not None
        await self._connection.publish(str(Topic(self._site, device, channel)), payload, qos=1, retain=retain)

    async def _live(self) -> None:
        # A persistent session, as the service has: what a device sends while this is away waits at the broker.
        settings = BrokerSettings(reconnect_first_s=0.1, reconnect_cap_s=0.3)
        identity = Identity("simulated-cloud", session_expiry_s=3600)
        await keep_connected(self._connect, identity, self._session, settings=settings, rng=Random(1))

    async def _session(self, connection: Connection) -> None:
        up = (Channel.SAMPLE, Channel.STATE, Channel.REPORT, Channel.TELEMETRY)
        await connection.subscribe([every_device(self._site, channel) for channel in up])
        self._connection = connection
        self._there.set()
        try:
            async for message in connection.messages():
                await self._take(connection, message.topic, message.payload)
        finally:
            self._connection = None
            self._there.clear()

    async def _take(self, connection: Connection, topic: str, payload: bytes) -> None:
        where = parse(topic)
        match where.channel:
            case Channel.SAMPLE:
                header, tensor = messages.decode_sample(payload)
                self.samples.setdefault(header.sample_id, []).append((header, tensor))
                reply = self.answer(header, tensor)
                if reply is not None:
                    channel = Channel.VERDICT if isinstance(reply, Verdict) else Channel.RECEIPT
                    await connection.publish(
                        str(Topic(self._site, where.device, channel)), messages.encode(reply), qos=1
                    )
            case Channel.REPORT:
                report = messages.decode(Report, payload)
                self.reports.append(report)
                if self.acknowledge_reports:
                    receipt = messages.encode(Receipt(accepted=(report.report_id,)))
                    await connection.publish(str(Topic(self._site, where.device, Channel.RECEIPT)), receipt, qos=1)
            case Channel.STATE if payload:
                state = messages.decode(DeviceState, payload)
                self.states[where.device] = state
                self.state_history.append((where.device, state))
            case Channel.TELEMETRY:
                self.telemetry[where.device] = messages.decode(Telemetry, payload)


class BundleServer:
    """Files over HTTP on loopback, with range requests, in the test's own event loop.

    Attributes:
        files: name → bytes.
        statuses: answered to the next requests instead of the file, used up from the front.
        cut_after: the next answers break off after so many bytes, used up from the front.
        chunk_delay_s: a wait before each 4 KB, so that a download takes a while.
        ignore_ranges: True: always the whole file with status 200, as a simple server does.
        ranges: the Range header of every request ("" where there is none).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.statuses: list[int] = []
        self.cut_after: list[int] = []
        self.chunk_delay_s = 0.0
        self.ignore_ranges = False
        self.ranges: list[str] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{name}", self._get)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def reference(self, file: Path, version: str) -> BundleReference:
        """Serve a bundle file and describe it truthfully."""
        data = file.read_bytes()
        self.files[file.name] = data
        return BundleReference(
            version=version, url=f"{self.url}/{file.name}", sha256=bundle.sha256(data), size_bytes=len(data)
        )

    async def _get(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        self.ranges.append(asked)
        if self.ignore_ranges:
            asked = ""
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        data = self.files.get(request.match_info["name"])
        if data is None:
            return web.Response(status=404)
        offset = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        headers: Mapping[str, str] = {"Content-Length": str(len(data) - offset)}
        response = web.StreamResponse(status=206 if asked else 200, headers=headers)
        await response.prepare(request)
        stop = offset + self.cut_after.pop(0) if self.cut_after else len(data)
        for start in range(offset, min(stop, len(data)), 4096):
            if self.chunk_delay_s:
                await asyncio.sleep(self.chunk_delay_s)
            with contextlib.suppress(ConnectionError):
                await response.write(data[start : min(start + 4096, stop)])
        if stop < len(data) and request.transport is not None:
            request.transport.abort()
        return response
