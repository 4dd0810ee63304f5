"""What was measured and chosen, kept as JSON beside a task's slots, so that it is measured once a model.

An entry counts for one model, one version of onnxruntime with its providers, and the settings it was made under. A file
that is missing, damaged or of another release reads as nothing measured.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_agent.execution import runtime
from edge_agent.execution.choice import Choice, Decision, Limits, Measurement
from edge_agent.execution.settings import ExecutionSettings
from shared import __version__, atomic, bundle
from shared.errors import StorageFull
from shared.manifest import Manifest

log = logging.getLogger(__name__)

FILE = "execution.json"
_SCHEMA = 1
# Both slots, the factory's and one more: a model that comes back finds its entry again.
_KEEP = 4


@dataclass(frozen=True, slots=True)
class Key:
    """What an entry depends on.

    Attributes:
        model_sha256: of model.onnx.
        onnxruntime: its version.
        providers: those that this build of it has.
        cores: of the processor that this process may use.
        settings: those that change what is chosen.
    """

    model_sha256: str
    onnxruntime: str
    providers: tuple[str, ...]
    cores: int
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, manifest: Manifest, settings: ExecutionSettings) -> Key:
        """The key of a model here and now."""
        return cls(
            model_sha256=manifest.files[bundle.MODEL].sha256,
            onnxruntime=runtime.VERSION,
            providers=tuple(provider.value for provider in runtime.available()),
            cores=len(os.sched_getaffinity(0)),
            settings=settings.model_dump(mode="json", exclude={"measure", "measure_s"}),
        )


def file_for(slot: Path) -> Path:
    """Where the entries of a task lie: beside its slots."""
    return slot.parent / FILE


def remembered(slot: Path, key: Key) -> Choice | None:
    """What was chosen for a model; None: nothing was, for this key."""
    found = entry(slot, key)
    try:
        return None if found is None else Choice.parse(found["chosen"])
    except (KeyError, TypeError, ValueError):
        return None


def entry(slot: Path, key: Key) -> dict[str, Any] | None:
    """Everything that is known for a key, as it stands in the file."""
    wanted = _as_json(key)
    return next((each for each in _entries(file_for(slot)) if each.get("key") == wanted), None)


def remember(
    slot: Path, key: Key, decision: Decision, *, measurements: Sequence[Measurement], limits: Limits
) -> dict[str, Any]:
    """Put an entry in front of the others and give it back; a disk that takes no more is told, nothing else."""
    made = {
        "key": _as_json(key),
        "chosen": _as_json(decision.choice),
        "reason": decision.reason,
        "limits": _as_json(limits),
        "candidates": [
            {**_as_json(measurement), "verdict": verdict.value}
            for measurement, verdict in zip(measurements, decision.verdicts, strict=True)
        ],
        "edgeloop": __version__,
    }
    file = file_for(slot)
    others = [other for other in _entries(file) if other.get("key") != made["key"]]
    try:
        atomic.write_json(file, {"schema": _SCHEMA, "entries": [made, *others][:_KEEP]})
    except (OSError, StorageFull) as err:
        log.error("what was measured cannot be kept (%s): it is measured again at the next occasion", err)
    return made


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(value, dict) or value.get("schema") != _SCHEMA or not isinstance(value.get("entries"), list):
        return []
    return [entry for entry in value["entries"] if isinstance(entry, dict)]


def _as_json(value: Any) -> Any:
    """A dataclass as it comes back from JSON: tuples are lists there."""
    return json.loads(json.dumps(asdict(value)))
