import asyncio

import pytest

from shared.errors import ConnectionLost
from shared.mqtt import Received
from shared.mqtt.inbox import Inbox


def message(number):
    return Received("t", bytes([number]))


async def read(inbox, count):
    reader = inbox.messages()
    return [(await anext(reader)).payload[0] for _ in range(count)]


async def test_messages_are_read_in_order_also_by_a_reader_that_was_there_first():
    inbox = Inbox(10)
    reading = asyncio.create_task(read(inbox, 3))
    await asyncio.sleep(0)
    for number in range(3):
        inbox.put(message(number))
    assert await reading == [0, 1, 2]


async def test_end_comes_after_what_had_come_in():
    inbox = Inbox(10)
    inbox.put(message(1))
    inbox.end("the line broke")
    reader = inbox.messages()
    assert (await anext(reader)).payload == b"\x01"
    with pytest.raises(ConnectionLost, match="connection lost: the line broke"):
        await anext(reader)


async def test_end_wakes_a_reader_that_waits():
    inbox = Inbox(10)
    reading = asyncio.create_task(read(inbox, 1))
    await asyncio.sleep(0)
    inbox.end("gone")
    with pytest.raises(ConnectionLost):
        await reading


async def test_what_a_glance_takes_does_not_wait():
    inbox, seen = Inbox(10), []

    def glance(received):
        seen.append(received.payload[0])
        return received.payload[0] % 2 == 0

    inbox.watch(glance)
    for number in range(4):
        inbox.put(message(number))
    assert (seen, await read(inbox, 2)) == ([0, 1, 2, 3], [1, 3])


async def test_full_inbox_drops_what_comes_on_top_and_says_so_once_until_it_was_read(caplog):
    inbox = Inbox(2)
    for number in range(5):
        inbox.put(message(number))
    assert caplog.text.count("2 messages wait to be read") == 1
    reading = asyncio.create_task(read(inbox, 3))
    await asyncio.sleep(0)
    for number in range(10, 14):
        inbox.put(message(number))
    assert await reading == [0, 1, 10]
    assert caplog.text.count("2 messages wait to be read") == 2
