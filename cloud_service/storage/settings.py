"""`[database]`, and what the store keeps of a task: `[tasks.x.retention]`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from cloud_service.storage.retention import RetentionRules
from shared.settings import Section

Count = Annotated[int, Field(gt=0)]


class DatabaseSettings(Section):
    """Where rows are kept.

    Attributes:
        url: SQLAlchemy's form: `sqlite+aiosqlite:///…`, or `postgresql+asyncpg://user:password@host/name`, which
            several replicas on several machines share; empty: SQLite below `data_dir`.
        connections: of one replica to PostgreSQL, at most.
    """

    url: str = ""
    connections: Annotated[int, Field(ge=2)] = 8


class RetentionSettings(Section):
    """What is kept of a task's samples. Above a limit the least informative of the oldest go; None: no such limit.

    Attributes:
        max_age_days: older samples go, whatever they are worth, labelled ones included.
        max_samples: rows.
        max_bytes: of payloads.
        max_per_class: rows of one label.
        near_duplicate: a sample is a duplicate of an earlier one with the same label when the cosine distance of the
            teacher's embeddings is at most this: it is counted, and its payload is not kept. 0: only the same payload
            is a duplicate. None: nothing is.
    """

    max_age_days: Annotated[float, Field(gt=0.0)] | None = None
    max_samples: Count | None = None
    max_bytes: Count | None = None
    max_per_class: Count | None = None
    near_duplicate: Annotated[float, Field(ge=0.0, lt=1.0)] | None = 0.0

    @property
    def rules(self) -> RetentionRules:
        return RetentionRules(
            max_age=None if self.max_age_days is None else timedelta(days=self.max_age_days),
            max_samples=self.max_samples,
            max_bytes=self.max_bytes,
            max_per_class=self.max_per_class,
        )
