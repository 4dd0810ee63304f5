"""A file server in memory behind the agent's `Fetcher` seam, with the faults that real ones have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from edge_agent.errors import DownloadFailed

CHUNK = 1000


@dataclass
class SimulatedFetcher:
    """Serves `files` (URL → bytes).

    Attributes:
        refusals: the next so many fetches fail before the first byte.
        cut_after: each fetch in this list ends with an error after so many bytes; the list is used up from the front.
        stall: the fetch never gives a byte.
        requests: (URL, offset) of every fetch, in order.
        before_chunk: called before each chunk is handed over; what it raises ends the fetch.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    refusals: int = 0
    cut_after: list[int] = field(default_factory=list)
    stall: bool = False
    requests: list[tuple[str, int]] = field(default_factory=list)
    before_chunk: Callable[[], None] = lambda: None

    async def fetch(self, url: str, offset: int) -> AsyncIterator[bytes]:
        self.requests.append((url, offset))
        await asyncio.sleep(0)
        if self.stall:
            await asyncio.Event().wait()
        if self.refusals > 0:
            self.refusals -= 1
            raise DownloadFailed(f"{url} answered 503 Service Unavailable")
        if url not in self.files:
            raise DownloadFailed(f"{url} answered 404 Not Found")
        data = self.files[url]
        end = offset + self.cut_after.pop(0) if self.cut_after else None
        stop = len(data) if end is None else min(end, len(data))
        for start in range(offset, stop, CHUNK):
            self.before_chunk()
            yield data[start : min(start + CHUNK, stop)]
        if end is not None and end < len(data):
            raise DownloadFailed(f"{url} cannot be fetched: connection reset")
