"""A blob store in memory that is full or broken when it is told to be."""

from collections.abc import Sequence

from cloud_service.errors import NotFound, StoreError
from shared.bundle import sha256
from shared.errors import StorageFull


class MemoryBlobs:
    """See `cloud_service.storage.blobs.BlobStore`.

    Attributes:
        blobs: what is stored, by name.
        full, broken: whether `put` refuses, and how; `broken` breaks `get`, too.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.full = False
        self.broken = False

    async def put(self, blobs: Sequence[bytes]) -> list[str]:
        if self.full:
            raise StorageFull("no space left for sample payloads: simulated")
        self._check()
        names = [sha256(blob) for blob in blobs]
        self.blobs.update(zip(names, blobs, strict=True))
        return names

    async def get(self, name: str) -> bytes:
        self._check()
        try:
            return self.blobs[name]
        except KeyError:
            raise NotFound(f"blob {name} is not in the store") from None

    def _check(self) -> None:
        if self.broken:
            raise StoreError("the blob store failed: simulated")
