"""What every part of the sample store works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from sqlalchemy import bindparam, update

from cloud_service.storage.blobs import BlobStore
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Sample

# One statement for a whole batch.
COUNT_DUPLICATES = (
    update(Sample).where(Sample.id == bindparam("sample")).values(duplicates=Sample.duplicates + bindparam("more"))
)


class StorePart:
    """The database, the payloads and the clock; `SampleStore` is the sum of the parts.

    Args:
        near_duplicates: by task, the cosine distance between two of the teacher's embeddings under which the later
            sample is a duplicate of the earlier one; 0: only the same payload is. A task that is not named has none.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        *,
        now: Callable[[], datetime] = utc_now,
        near_duplicates: Mapping[str, float] | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._now = now
        self._near_duplicates = dict(near_duplicates or {})
