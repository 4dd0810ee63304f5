"""One connection of the simulator on a real broker, for tests that say themselves what goes over it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cloud_service.simulate import wire
from cloud_service.simulate.link import Link

_OPEN_S = 10.0


class OpenLink:
    """A link and what came down on it; `publish` waits for room."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.got: list[tuple[str, bytes]] = []
        self.why = ""
        self._news = asyncio.Event()
        self._ready = asyncio.Event()

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        assert self.link is not None
        while not self.link.publish(topic, payload, qos=qos, retain=retain):
            assert not self.why, self.why
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), _OPEN_S)

    async def ready(self) -> None:
        await asyncio.wait_for(self._ready.wait(), _OPEN_S)
        if self.why:
            raise ConnectionError(self.why)

    def opened(self) -> None:
        self._ready.set()

    def received(self, topic: str, payload: bytes) -> None:
        self.got.append((topic, payload))

    def room(self) -> None:
        self._news.set()

    def closed(self, why: str) -> None:
        self.why = why
        self._ready.set()
        self._news.set()


@asynccontextmanager
async def open_link(
    broker, name: str, *filters: str, will: tuple[str, bytes] | None = None, username: str | None = None
) -> AsyncIterator[OpenLink]:
    """Connect to a broker; leave in order at the end."""
    loop, opened = asyncio.get_running_loop(), OpenLink()
    hello = wire.connect(
        name, keepalive_s=30, receive_maximum=100, will=will, username=username, password=b"wrong" if username else None
    )
    opened.link = Link(opened, hello, filters or ("nothing",), receive_maximum=100, keepalive_s=30, clock=loop.time)
    await loop.create_connection(lambda: opened.link, broker.host, broker.port)
    await opened.ready()
    try:
        yield opened
    finally:
        opened.link.close()
        await asyncio.sleep(0)
