"""Sample payloads, each once under the hash of its bytes: in a folder, or an object store (S3, GCS, Azure) by URL."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from cloud_service.errors import NotFound, StoreError
from shared import atomic
from shared.bundle import sha256
from shared.errors import StorageFull

log = logging.getLogger(__name__)

# Uploads under way at once.
_CONCURRENT = 16


class BlobStore(Protocol):
    """The seam to whatever keeps the payloads."""

    async def put(self, blobs: Sequence[bytes]) -> list[str]:
        """Store blobs durably and return their names, in order; storing one again changes nothing.

        Raises:
            StorageFull: there is no room; some of them may be stored.
            StoreError: the store failed.
        """
        ...

    async def get(self, name: str) -> bytes:
        """A blob's bytes.

        Raises:
            NotFound: there is none of that name.
            StoreError: the store failed.
        """
        ...


class ObjectBlobs:
    """Blobs in anything obstore speaks.

    A local folder's files are synced before `put` returns: obstore writes them atomically but leaves them to the cache.
    """

    def __init__(self, url: str) -> None:
        from obstore.store import LocalStore, ObjectStore, from_url

        self._store: ObjectStore
        self._folder: Path | None = None
        self._places = asyncio.Semaphore(_CONCURRENT)
        # The file system commits together what is synced at once: 64 files take 19 ms this way, 440 ms one by one.
        self._syncers = ThreadPoolExecutor(_CONCURRENT, thread_name_prefix="blob-sync")
        try:
            if url.startswith("file://"):
                self._folder = Path(url.removeprefix("file://"))
                self._store = LocalStore(self._folder, mkdir=True)
            else:
                self._store = from_url(url)
        # obstore raises its own, ValueError or OSError for a URL that it cannot open; each is the user's to correct.
        except Exception as err:
            raise StoreError(f"cannot open the blob store {url}: {_first_line(err)}; correct [blobs] url") from err

    async def put(self, blobs: Sequence[bytes]) -> list[str]:
        """See `BlobStore.put`."""
        names = await asyncio.to_thread(lambda: [sha256(blob) for blob in blobs])
        wanted = dict(zip(names, blobs, strict=True))
        await asyncio.gather(*(self._put(name, blob) for name, blob in wanted.items()))
        if self._folder is not None:
            files = [self._folder / _path(name) for name in wanted]
            # Files first, then the names that lead to them.
            await self._sync(files)
            await self._sync([*{file.parent for file in files}, self._folder])
        return names

    async def get(self, name: str) -> bytes:
        """See `BlobStore.get`."""
        from obstore.exceptions import BaseError

        try:
            result = await self._store.get_async(_path(name))
            return bytes(await result.bytes_async())
        except FileNotFoundError as err:
            raise NotFound(f"blob {name} is not in the store") from err
        except (BaseError, OSError) as err:
            raise StoreError(f"the blob store failed to read {name}: {_first_line(err)}") from err

    async def _sync(self, paths: Sequence[Path]) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._syncers, _sync, path) for path in paths))

    async def _put(self, name: str, blob: bytes) -> None:
        from obstore.exceptions import BaseError

        async with self._places:
            try:
                await self._store.put_async(_path(name), blob)
            except (BaseError, OSError) as err:
                # obstore wraps the system's error in text; the number of ENOSPC stays readable in it.
                if "os error 28" in str(err) or "StorageFull" in str(err):
                    raise StorageFull("no space left for sample payloads: free some space on that disk") from err
                raise StoreError(f"the blob store failed to write: {_first_line(err)}") from err


def _path(name: str) -> str:
    return f"{name[:2]}/{name}"


def _first_line(err: Exception) -> str:
    return str(err).partition("\n")[0]


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as err:
        ours = atomic.full_or_same(err, path)
        raise ours if isinstance(ours, StorageFull) else StoreError(f"cannot sync {path}: {err.strerror}") from err
