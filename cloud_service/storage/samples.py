"""The sample store: rows in the database, tensors in the blob store, idempotent by sample id.

    samples ═► Intake ─► rows + payloads ─► Queries ═► people, estimates
    answers ═► Verdicts ────┘     │  ▲        Teaching ═► training
                                  ▼  └── Keeping: retention, selection
                               Deletion

Several replicas share one store. Each part says what it does and which errors it raises.
"""

from __future__ import annotations

from cloud_service.storage.intake import Intake
from cloud_service.storage.retention import Keeping, RetentionRules
from cloud_service.storage.sizes import Sizes
from cloud_service.storage.teaching import Teaching
from cloud_service.storage.values import (
    PURGED,
    Answer,
    AuditRow,
    Group,
    Histograms,
    Known,
    NewSample,
    Purged,
    SampleFilter,
    ScoreRow,
    TrainingSet,
    answer_of,
)
from cloud_service.storage.verdicts import Verdicts

__all__ = [
    "PURGED",
    "Answer",
    "AuditRow",
    "Group",
    "Histograms",
    "Known",
    "NewSample",
    "Purged",
    "RetentionRules",
    "SampleFilter",
    "SampleStore",
    "ScoreRow",
    "TrainingSet",
    "answer_of",
]


class SampleStore(Intake, Verdicts, Teaching, Keeping, Sizes):
    """Keeps samples, and what teachers and people say about them."""
