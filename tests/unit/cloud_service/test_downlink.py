import pytest

from cloud_service.downlink import Receipts
from shared import messages
from shared.errors import ConnectionLost
from shared.ids import new_id
from shared.messages import Receipt, Refusal
from shared.mqtt import Identity
from shared.topics import Channel


def receipts_of(broker, device: str) -> list[Receipt]:
    return [messages.decode(Receipt, p) for p in broker.published(f"edgeloop/v1/demo/{device}/receipt")]


async def test_sending_without_a_connection_says_so(downlink):
    assert not downlink.connected
    with pytest.raises(ConnectionLost):
        await downlink.send("cam-1", Channel.RECEIPT, Receipt())


async def test_receipts_are_batched_by_device(broker, downlink):
    receipts = Receipts(downlink)
    mine, other, bad = [new_id() for _ in range(3)], new_id(), new_id()
    for each in mine:
        receipts.accept("cam-1", each)
    receipts.accept("cam-2", other)
    receipts.refuse("cam-2", Refusal(message_id=bad, reason="wrong"))
    async with broker.connect(Identity("cloud")) as connection:
        downlink.attach(connection)
        await receipts.flush()
        await receipts.flush()
    assert [r.accepted for r in receipts_of(broker, "cam-1")] == [tuple(mine)]
    assert {id_ for r in receipts_of(broker, "cam-2") for id_ in r.accepted} == {other}
    assert {r.message_id for receipt in receipts_of(broker, "cam-2") for r in receipt.refused} == {bad}


async def test_large_receipts_are_cut_into_frames(broker, downlink):
    receipts = Receipts(downlink)
    ids = [new_id() for _ in range(1_201)]
    for each in ids:
        receipts.accept("cam-1", each)
        receipts.refuse("cam-1", Refusal(message_id=each, reason="x" * 2_000))
    async with broker.connect(Identity("cloud")) as connection:
        downlink.attach(connection)
        await receipts.flush()
    frames = broker.published("edgeloop/v1/demo/cam-1/receipt")
    assert max(map(len, frames)) < 65_536
    sent = [id_ for r in receipts_of(broker, "cam-1") for id_ in r.accepted]
    assert sent == ids


async def test_receipts_that_cannot_be_sent_are_dropped(broker, downlink):
    receipts = Receipts(downlink)
    receipts.accept("cam-1", new_id())
    await receipts.flush()
    async with broker.connect(Identity("cloud")) as connection:
        downlink.attach(connection)
        await receipts.flush()
    assert receipts_of(broker, "cam-1") == []


async def test_receipts_for_a_thousand_devices_are_one_frame_each(broker, downlink):
    receipts = Receipts(downlink)
    for _ in range(5):
        for number in range(1_000):
            receipts.accept(f"cam-{number}", new_id())
    async with broker.connect(Identity("cloud")) as connection:
        downlink.attach(connection)
        await receipts.flush()
    frames = broker.published("edgeloop/v1/demo/+/receipt")
    assert len(frames) == receipts.sent == 1_000
    assert {len(messages.decode(Receipt, frame).accepted) for frame in frames} == {5}


async def test_what_cannot_be_posted_now_is_published(broker, downlink):
    broker.line_is_full = True
    async with broker.connect(Identity("cloud")) as connection:
        downlink.attach(connection)
        await downlink.tell("cam-1", Channel.RECEIPT, Receipt())
    assert len(receipts_of(broker, "cam-1")) == 1
    downlink.detach()
    with pytest.raises(ConnectionLost):
        await downlink.tell("cam-1", Channel.RECEIPT, Receipt())
