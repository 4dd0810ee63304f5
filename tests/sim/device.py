"""A device without a model for tests of the cloud: it sends what it is told and keeps what comes down.

It knows the contract in `shared/` alone, and works on any connector (a real broker's or `SimulatedBroker.connect`).

    async with BareDevice(connector(BrokerSettings(port=mosquitto.port)), "demo", "cam-1") as device:
        header = await device.send(sample(3))
        verdict = await device.verdict(header.sample_id)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from uuid import UUID

import numpy as np

from shared import messages
from shared.ids import new_id
from shared.messages import (
    Desired,
    DeviceState,
    Message,
    Reason,
    Receipt,
    Report,
    SampleHeader,
    TaskState,
    UpdateFailure,
    UpdateOutcome,
    Verdict,
)
from shared.mqtt import Connection, Connector, Identity
from shared.topics import Channel, Topic, parse


def header(**changes: object) -> SampleHeader:
    """A header of a hard sample of the task digits; keyword arguments replace fields."""
    fields: dict[str, object] = {
        "sample_id": new_id(),
        "task": "digits",
        "seq": 1,
        "bundle_version": "v1",
        "prediction": 0,
        "hardness": 0.8,
        "reason": Reason.HARD,
    }
    return SampleHeader.model_validate(fields | changes)


class BareDevice:
    """See the module.

    Attributes:
        verdicts: every verdict by sample id, repeated ones included.
        accepted, refused: what receipts named; refusals with their reason.
        desired: the newest desired message.
    """

    def __init__(self, connect: Connector, site: str, name: str) -> None:
        self._connect, self.site, self.name = connect, site, name
        self.verdicts: dict[UUID, list[Verdict]] = {}
        self.accepted: list[UUID] = []
        self.refused: dict[UUID, str] = {}
        self.desired: Desired | None = None
        self._stack = AsyncExitStack()
        self._connection: Connection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        identity = Identity(f"bare-{self.name}", session_expiry_s=600)
        self._connection = await self._stack.enter_async_context(self._connect(identity))
        down = (Channel.VERDICT, Channel.RECEIPT, Channel.DESIRED)
        await self._connection.subscribe([self._topic(channel) for channel in down])
        self._reader = asyncio.create_task(self._read(), name=f"bare-{self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._reader is not None
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        await self._stack.aclose()

    async def send(self, tensor: np.ndarray, **changes: object) -> SampleHeader:
        """Send a sample; keyword arguments replace header fields."""
        made = header(**changes)
        await self.publish(Channel.SAMPLE, messages.encode_sample(made, tensor))
        return made

    async def publish(self, channel: Channel, payload: bytes, *, retain: bool = False) -> None:
        """Send raw bytes."""
        assert self._connection is not None
        await self._connection.publish(self._topic(channel), payload, qos=1, retain=retain)

    async def state(self, *, online: bool = True, version: str = "v1", sha256: str = "a" * 64) -> None:
        """Say what it runs, retained."""
        tasks = {"digits": TaskState(bundle_version=version, bundle_sha256=sha256)}
        await self._say(Channel.STATE, DeviceState(online=online, agent_version="0.1.0", tasks=tasks), retain=True)

    async def report(self, *, version: str, sha256: str, failure: UpdateFailure = UpdateFailure.NONE) -> Report:
        """Say how an update ended."""
        made = Report(
            report_id=new_id(),
            task="digits",
            version=version,
            bundle_sha256=sha256,
            from_version="v1",
            outcome=UpdateOutcome.ACTIVATED if failure is UpdateFailure.NONE else UpdateOutcome.FAILED,
            failure=failure,
            message="" if failure is UpdateFailure.NONE else "simulated",
            seconds=0.5,
        )
        await self._say(Channel.REPORT, made)
        return made

    async def verdict(self, sample_id: UUID, *, count: int = 1, timeout_s: float = 15.0) -> Verdict:
        """The newest verdict on a sample, as soon as there are `count`."""
        await self.wait(lambda: len(self.verdicts.get(sample_id, [])) >= count, timeout_s=timeout_s)
        return self.verdicts[sample_id][-1]

    async def wait(self, condition: Callable[[], bool], *, timeout_s: float = 15.0) -> None:
        """Wait for something that changes with a message; TimeoutError is a failed test."""
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(condition)

    async def _say(self, channel: Channel, message: Message, *, retain: bool = False) -> None:
        await self.publish(channel, messages.encode(message), retain=retain)

    async def _read(self) -> None:
        assert self._connection is not None
        async for message in self._connection.messages():
            match parse(message.topic).channel:
                case Channel.VERDICT:
                    verdict = messages.decode(Verdict, message.payload)
                    self.verdicts.setdefault(verdict.sample_id, []).append(verdict)
                case Channel.RECEIPT:
                    receipt = messages.decode(Receipt, message.payload)
                    self.accepted += receipt.accepted
                    self.refused |= {refusal.message_id: refusal.reason for refusal in receipt.refused}
                case Channel.DESIRED:
                    self.desired = messages.decode(Desired, message.payload)
            async with self._news:
                self._news.notify_all()

    def _topic(self, channel: Channel) -> str:
        return str(Topic(self.site, self.name, channel))
