"""Fetches a bundle file, going on where an earlier try ended; trusted only when the whole file's hash is right."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import BinaryIO, Protocol

from edge_agent.errors import DownloadFailed
from edge_agent.settings import UpdateSettings
from shared import atomic, bundle
from shared.backoff import exponential, full_jitter
from shared.errors import BundleError
from shared.messages import BundleReference

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _CAP_WAIT_S = 0.5, 60.0
_CHUNK = 1 << 16


class Fetcher(Protocol):
    """The outside world: bytes of a URL from an offset on."""

    def fetch(self, url: str, offset: int) -> AsyncIterator[bytes]:
        """Raises:
        DownloadFailed: the server does not answer, or refuses.
        """
        ...


class HttpFetcher:
    """HTTP with range requests. aiohttp is imported with the first download: until then it costs no memory."""

    async def fetch(self, url: str, offset: int) -> AsyncIterator[bytes]:
        import aiohttp

        # Compressed on the way, an offset would count other bytes than the file's.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        limits = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=30)
        try:
            async with aiohttp.ClientSession(timeout=limits) as session, session.get(url, headers=headers) as answer:
                if answer.status not in ((200, 206) if offset else (200,)):
                    raise DownloadFailed(f"{url} answered {answer.status} {answer.reason}")
                # A server without ranges sends the whole file again.
                skip = offset if answer.status == 200 else 0
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    if skip < len(chunk):
                        yield chunk[skip:]
                    skip = max(0, skip - len(chunk))
        # A ValueError (or UnicodeError) is what a host's impossible name raises.
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
            raise DownloadFailed(f"{url} cannot be fetched: {str(err) or type(err).__name__}") from err


async def download(
    fetcher: Fetcher,
    reference: BundleReference,
    target: Path,
    *,
    settings: UpdateSettings,
    rng: Random,
    count_bytes: Callable[[int], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Bring the file to `target`; what is there already is kept and continued, and fetched again if it was spoilt.

    Raises:
        DownloadFailed: every try failed.
        BundleError: the bytes are not the ones that were offered; they are deleted.
        StorageFull: the disk took no more.
    """
    resumed = _size(target) > 0
    while True:
        await _transfer(fetcher, reference, target, settings=settings, rng=rng, count_bytes=count_bytes, sleep=sleep)
        if await asyncio.to_thread(bundle.sha256_file, target) == reference.sha256:
            return
        atomic.remove(target)
        if not resumed:
            raise BundleError(f"the file at {reference.url} is not the bundle that was offered: its sha256 differs")
        log.warning("bundle %s: the bytes on the disk were spoilt; the whole file is fetched again", reference.version)
        resumed = False


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


async def _transfer(
    fetcher: Fetcher,
    reference: BundleReference,
    target: Path,
    *,
    settings: UpdateSettings,
    rng: Random,
    count_bytes: Callable[[int], None],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    waits = exponential(_FIRST_WAIT_S, _CAP_WAIT_S)
    for attempt in range(1, settings.download_tries + 1):
        try:
            async with asyncio.timeout(settings.download_timeout_s):
                await _continue(fetcher, reference, target, count_bytes)
        except (DownloadFailed, TimeoutError) as err:
            if attempt == settings.download_tries:
                raise DownloadFailed(f"given up after {attempt} tries: {str(err) or 'too slow'}") from err
            log.info("bundle %s: %s; trying again", reference.version, str(err) or "too slow")
            await sleep(full_jitter(next(waits), rng))
        except BundleError:
            atomic.remove(target)
            raise
        else:
            return


async def _continue(
    fetcher: Fetcher, reference: BundleReference, target: Path, count_bytes: Callable[[int], None]
) -> None:
    try:
        with open(target, "ab") as file:  # noqa: ASYNC230  # 64 KB appends to the page cache
            await _append(fetcher, reference, file, count_bytes)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        raise atomic.full_or_same(err, target) from err


async def _append(
    fetcher: Fetcher, reference: BundleReference, file: BinaryIO, count_bytes: Callable[[int], None]
) -> None:
    offset = file.tell()
    if offset > reference.size_bytes:
        file.truncate(0)
        offset = 0
    if offset == reference.size_bytes:
        return
    async for chunk in fetcher.fetch(reference.url, offset):
        offset += len(chunk)
        if offset > reference.size_bytes:
            raise BundleError(f"the file at {reference.url} is longer than the {reference.size_bytes:,} bytes offered")
        file.write(chunk)
        count_bytes(len(chunk))
    if offset < reference.size_bytes:
        raise DownloadFailed(f"the transfer ended after {offset:,} of {reference.size_bytes:,} bytes")
