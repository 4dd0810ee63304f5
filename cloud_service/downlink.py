"""The way down to the devices: one connection at a time, or none."""

from __future__ import annotations

import logging
from collections import defaultdict
from uuid import UUID

from shared import messages
from shared.errors import ConnectionLost
from shared.messages import Message, Receipt, Refusal
from shared.mqtt import Connection
from shared.topics import Channel, Topic

log = logging.getLogger(__name__)

# Ids in one receipt; the frame stays under 64 KB even when each is a refusal with a long reason.
_MAX_IDS = 500
_MAX_REFUSALS = 25


class Downlink:
    """Publishes to devices. What cannot be sent is not kept: a device asks again until it is answered."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._connection: Connection | None = None

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def attach(self, connection: Connection) -> None:
        """Use this connection from now on."""
        self._connection = connection

    def detach(self) -> None:
        """There is no connection any more."""
        self._connection = None

    async def send(self, device: str, channel: Channel, message: Message, *, retain: bool = False) -> None:
        """Publish at QoS 1; return when the broker has it.

        Raises:
            ConnectionLost: there is no connection, or it broke.
        """
        if self._connection is None:
            raise ConnectionLost("no connection to the broker")
        topic = Topic(self._site, device, channel)
        await self._connection.publish(str(topic), messages.encode(message), qos=1, retain=retain)

    async def tell(self, device: str, channel: Channel, message: Message) -> None:
        """Publish at QoS 1 without waiting for the broker's word, but for room where too many words are owed.

        Raises:
            ConnectionLost: there is no connection, or it broke.
        """
        if self._connection is None:
            raise ConnectionLost("no connection to the broker")
        topic, payload = str(Topic(self._site, device, channel)), messages.encode(message)
        if not self._connection.post(topic, payload):
            await self._connection.publish(topic, payload, qos=1)


class Receipts:
    """Collects what devices may let go of and sends it in batches: one frame a device, as long as it fits."""

    def __init__(self, downlink: Downlink) -> None:
        self._downlink = downlink
        self._accepted: defaultdict[str, list[UUID]] = defaultdict(list)
        self._refused: defaultdict[str, list[Refusal]] = defaultdict(list)
        self.sent = 0

    def accept(self, device: str, message_id: UUID) -> None:
        """The cloud has it, durably."""
        self._accepted[device].append(message_id)

    def refuse(self, device: str, refusal: Refusal) -> None:
        """The cloud will never take it."""
        self._refused[device].append(refusal)

    async def flush(self) -> None:
        """Send what was collected. What does not get through is dropped: the device sends its message again."""
        accepted, self._accepted = self._accepted, defaultdict(list)
        refused, self._refused = self._refused, defaultdict(list)
        for device in accepted.keys() | refused.keys():
            for receipt in _receipts(accepted[device], refused[device]):
                try:
                    await self._downlink.tell(device, Channel.RECEIPT, receipt)
                except ConnectionLost as err:
                    log.debug("receipt for %s not sent: %s", device, err)
                    return
                self.sent += 1


def _receipts(accepted: list[UUID], refused: list[Refusal]) -> list[Receipt]:
    whole = [Receipt(accepted=tuple(accepted[at : at + _MAX_IDS])) for at in range(0, len(accepted), _MAX_IDS)]
    return whole + [
        Receipt(refused=tuple(refused[at : at + _MAX_REFUSALS])) for at in range(0, len(refused), _MAX_REFUSALS)
    ]
