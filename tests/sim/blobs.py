"""A blob store in memory that is full or broken when it is told to be."""

from collections.abc import Sequence

from cloud_service.errors import NotFound, StoreError
from cloud_service.storage.blobs import Range
from shared.errors import StorageFull


class MemoryBlobs:
    """See `cloud_service.storage.blobs.BlobStore`.

    Attributes:
        blobs: what is stored, by name.
        full, broken: whether `put` refuses, and how; `broken` breaks `get` and `delete`, too.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.full = False
        self.broken = False

    async def put(self, name: str, data: bytes) -> None:
        if self.full:
            raise StorageFull("no space left for sample payloads: simulated")
        self._check()
        self.blobs[name] = data

    async def get(self, name: str, ranges: Sequence[Range]) -> list[bytes]:
        self._check()
        try:
            data = self.blobs[name]
        except KeyError:
            raise NotFound(f"object {name} is not in the blob store") from None
        return [data[part.start : part.start + part.size] if part.size else data for part in ranges]

    async def delete(self, names: Sequence[str]) -> None:
        self._check()
        for name in names:
            self.blobs.pop(name, None)

    def _check(self) -> None:
        if self.broken:
            raise StoreError("the blob store failed: simulated")
