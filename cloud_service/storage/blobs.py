"""Objects full of sample payloads, by name: in a folder, or in an object store (S3, GCS, Azure) by URL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cloud_service.errors import NotFound, StoreError
from shared import atomic
from shared.errors import StorageFull

if TYPE_CHECKING:
    from obstore.store import RetryConfig

log = logging.getLogger(__name__)

# Uploads and deletions under way at once.
_CONCURRENT = 16
# An object store that is away is an error soon: whoever waits keeps the samples, and comes again.
_RETRY: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}


@dataclass(frozen=True, slots=True)
class Range:
    """`size` bytes from `start` on; 0: all there are."""

    start: int
    size: int


class BlobStore(Protocol):
    """The seam to whatever keeps the payloads."""

    async def put(self, name: str, data: bytes) -> None:
        """Store an object durably; storing the same bytes again changes nothing.

        Raises:
            StorageFull: there is no room.
            StoreError: the store failed.
        """
        ...

    async def get(self, name: str, ranges: Sequence[Range]) -> list[bytes]:
        """Parts of an object, in order.

        Raises:
            NotFound: there is none of that name.
            StoreError: the store failed.
        """
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Delete objects; one that is not there is no error.

        Raises:
            StoreError: the store failed; some of them may be gone.
        """
        ...


class ObjectBlobs:
    """Objects in anything obstore speaks.

    A local folder's files are synced before `put` returns: obstore writes them atomically but leaves them to the cache.
    Credentials, region and endpoint of an object store come from the environment, under its own tools' names
    (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, …; docs/settings.md).
    """

    def __init__(self, url: str) -> None:
        from obstore.store import LocalStore, ObjectStore, from_url

        self._store: ObjectStore
        self._folder: Path | None = None
        self._places = asyncio.Semaphore(_CONCURRENT)
        try:
            if url.startswith("file://"):
                self._folder = Path(url.removeprefix("file://"))
                self._store = LocalStore(self._folder, mkdir=True)
            elif url.startswith("memory:"):
                self._store = from_url(url)
            else:
                self._store = from_url(url, retry_config=_RETRY)
        # obstore raises its own, ValueError or OSError for a URL that it cannot open; each is the user's to correct.
        except Exception as err:
            raise StoreError(f"cannot open the blob store {url}: {_first_line(err)}; correct [blobs] url") from err

    async def put(self, name: str, data: bytes) -> None:
        """See `BlobStore.put`."""
        from obstore.exceptions import BaseError

        async with self._places:
            if self._folder is not None:
                await asyncio.to_thread(_put_file, self._folder / _path(name), data)
                return
            try:
                await self._store.put_async(_path(name), data)
            except (BaseError, OSError) as err:
                # obstore wraps the system's error in text; the number of ENOSPC stays readable in it.
                if "os error 28" in str(err) or "StorageFull" in str(err):
                    raise StorageFull("no space left for sample payloads: free some space on that disk") from err
                raise StoreError(f"the blob store failed to write: {_first_line(err)}") from err

    async def get(self, name: str, ranges: Sequence[Range]) -> list[bytes]:
        """See `BlobStore.get`."""
        from obstore.exceptions import BaseError

        try:
            if any(part.size == 0 for part in ranges):
                result = await self._store.get_async(_path(name))
                whole = bytes(await result.bytes_async())
                return [whole[part.start : part.start + part.size] if part.size else whole for part in ranges]
            starts, sizes = [part.start for part in ranges], [part.size for part in ranges]
            parts = await self._store.get_ranges_async(_path(name), starts=starts, lengths=sizes)
            return [bytes(part) for part in parts]
        except FileNotFoundError as err:
            raise NotFound(f"object {name} is not in the blob store") from err
        except (BaseError, OSError) as err:
            raise StoreError(f"the blob store failed to read {name}: {_first_line(err)}") from err

    async def delete(self, names: Sequence[str]) -> None:
        """See `BlobStore.delete`."""
        from obstore.exceptions import BaseError

        async def one(name: str) -> None:
            async with self._places:
                with suppress(FileNotFoundError):
                    await self._store.delete_async(_path(name))

        try:
            await asyncio.gather(*(one(name) for name in names))
        except (BaseError, OSError) as err:
            raise StoreError(f"the blob store failed to delete: {_first_line(err)}") from err


def _path(name: str) -> str:
    return f"{name[:2]}/{name}"


def _first_line(err: Exception) -> str:
    return str(err).partition("\n")[0]


def _put_file(path: Path, data: bytes) -> None:
    """Write a file durably, and the folder that it lies in if it is the first one there."""
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.sync_folder(path.parent.parent)
        atomic.write_bytes(path, data)
    except StorageFull as err:
        raise StorageFull("no space left for sample payloads: free some space on that disk") from err
    except OSError as err:
        raise StoreError(f"the blob store failed to write {path}: {err.strerror}") from err
