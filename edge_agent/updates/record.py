"""What the device remembers of an update under way, and of bundles that failed: small JSON files, written first."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.updates.lifecycle import State
from shared import atomic
from shared.messages import BundleReference, UpdateFailure

log = logging.getLogger(__name__)

MAX_FAILED = 32


class Record(BaseModel):
    """An update under way.

    Attributes:
        state: a `State`, as text, so that another release's state can be read and rolled back.
        revision: of the wish it comes from.
        starts: how often the agent was started with this update under way.
        seconds: from the offer to this state, without the time that the agent was not running.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: str
    reference: BundleReference
    revision: int
    report_id: UUID
    from_version: str
    starts: int = 0
    seconds: float = 0.0
    failure: UpdateFailure = UpdateFailure.NONE
    message: str = ""


class Records:
    """`update.json` (the record) and `failed.json` (hash → revision it failed at) in the task's folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._record = folder / "update.json"
        self._failed = folder / "failed.json"

    def load(self) -> Record | None:
        """The update that was under way; None: none was, or its record cannot be read."""
        try:
            record = Record.model_validate_json(self._record.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as err:
            log.error("the update record %s cannot be read (%s); the active model stays", self._record, err)
            return None
        return None if record.state == State.IDLE else record

    def save(self, record: Record) -> None:
        """Write the record, atomically; raises like `atomic.write_bytes`."""
        atomic.write_bytes(self._record, record.model_dump_json(indent=2).encode())

    def has_failed(self, reference: BundleReference, revision: int) -> bool:
        """Whether this bundle failed here, and the wish was not renewed since."""
        return revision <= self._load_failed().get(reference.sha256, -1)

    def note_failed(self, record: Record) -> None:
        """Remember that the record's bundle failed at its revision."""
        failed = self._load_failed()
        failed.pop(record.reference.sha256, None)
        failed[record.reference.sha256] = record.revision
        kept = dict(list(failed.items())[-MAX_FAILED:])
        # Not through write_json: the order of the keys is the order of the failures.
        atomic.write_bytes(self._failed, json.dumps(kept).encode())

    def _load_failed(self) -> dict[str, int]:
        try:
            value = json.loads(self._failed.read_bytes())
            return {str(key): int(item) for key, item in value.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
