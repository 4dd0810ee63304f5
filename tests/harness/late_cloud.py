"""`python late_cloud.py PORT DELAY_S`: answers every sample with another label, so much later."""

import asyncio
import sys

from shared import messages
from shared.mqtt import BrokerSettings, Connection, Identity, connector
from shared.topics import Channel, Topic, every_device, parse
from tests.sim.cloud import verdict

OTHER = 7


async def answer(connection: Connection, topic: str, frame: bytes, delay_s: float) -> None:
    """Wait, and answer one sample."""
    where = parse(topic)
    header, _ = messages.decode_sample(frame)
    await asyncio.sleep(delay_s)
    down = str(Topic(where.site, where.device, Channel.VERDICT))
    await connection.publish(down, messages.encode(verdict(header, OTHER)), qos=1)


async def live(port: int, delay_s: float) -> None:
    """Answer until ended."""
    answering: set[asyncio.Task[None]] = set()
    async with connector(BrokerSettings(port=port))(Identity("late-cloud")) as connection:
        await connection.subscribe([every_device("demo", Channel.SAMPLE)])
        print("listening", flush=True)
        async for message in connection.messages():
            task = asyncio.create_task(answer(connection, message.topic, message.payload, delay_s))
            answering.add(task)
            task.add_done_callback(answering.discard)


if __name__ == "__main__":
    asyncio.run(live(int(sys.argv[1]), float(sys.argv[2])))
