"""What the devices have said so far: follows their outcome files, line by line."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from cloud_service.demo.stage import STREAM_REFERENCE, Device

_RECENT = 60


@dataclass(slots=True)
class Answer:
    """One sample that a device answered.

    Attributes:
        at_s: seconds since the demo's devices started.
        dropped: it should have gone up, and the device's spool took no more.
        verdict: the teacher's answer, once it came.
    """

    at_s: float
    sample_id: str
    seq: int
    reference: int
    prediction: int
    offloaded: bool
    dropped: bool
    audit: bool
    version: str
    infer_us: float
    total_us: float
    verdict: int | None = None

    @property
    def exam(self) -> bool:
        """Whether the image is one of the field test set."""
        return self.reference < STREAM_REFERENCE

    @property
    def final(self) -> int:
        """What the device says in the end: the verdict where there is one, else its own."""
        return self.prediction if self.verdict is None else self.verdict


@dataclass(slots=True)
class DeviceJournal:
    """One device's answers, in order."""

    device: Device
    answers: list[Answer] = field(default_factory=list)
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=_RECENT))
    agreed: deque[bool] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _by_id: dict[str, Answer] = field(default_factory=dict)
    _offset: int = 0

    @property
    def version(self) -> str:
        """Version of the model that gave the last answer."""
        return self.answers[-1].version if self.answers else "–"

    @property
    def offload_rate(self) -> float | None:
        """Of the last samples."""
        return sum(self.recent) / len(self.recent) if self.recent else None

    @property
    def agreement(self) -> float | None:
        """Share of equal answers among the last verdicts."""
        return sum(self.agreed) / len(self.agreed) if self.agreed else None

    @property
    def stream_seen(self) -> int:
        return sum(1 for answer in self.answers if not answer.exam)

    def exam_answers(self, version: str) -> dict[int, Answer]:
        """The first answer of this model to each field test image, by reference."""
        found: dict[int, Answer] = {}
        for answer in self.answers:
            if answer.exam and answer.version == version:
                found.setdefault(answer.reference, answer)
        return found

    def unanswered(self) -> int:
        """Offloaded samples without a verdict."""
        return sum(1 for answer in self.answers if answer.offloaded and answer.verdict is None)

    def waiting_before(self, end: int) -> bool:
        """Whether one of the first `end` answers was offloaded and has no verdict yet."""
        return any(answer.offloaded and answer.verdict is None for answer in self.answers[:end])

    def close(self, end: int) -> None:
        """Forget what came after the first `end` answers."""
        del self.answers[end:]

    def missing(self) -> int:
        """Gaps in the device's own count: samples that were taken and not answered."""
        if not self.answers:
            return 0
        return self.answers[-1].seq - self.answers[0].seq + 1 - len(self.answers)

    def read(self, at_s: float) -> None:
        """Take in what was written since the last call."""
        try:
            with open(self.device.outcomes, "rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line), at_s)

    def _take(self, record: dict[str, Any], at_s: float) -> None:
        if record["kind"] == "outcome":
            answer = Answer(
                at_s=at_s,
                sample_id=record["sample_id"],
                seq=record["seq"],
                reference=record["reference"],
                prediction=record["edge_prediction"],
                offloaded=record["action"] in {"offload", "defer"},
                dropped=record["action"] == "drop",
                audit=record["reason"] == "audit",
                version=record["bundle_version"],
                infer_us=record["infer_us"],
                total_us=record["total_us"],
            )
            self.answers.append(answer)
            self.recent.append(answer.offloaded)
            if answer.offloaded:
                self._by_id[answer.sample_id] = answer
            return
        answer_or_none = self._by_id.pop(record["sample_id"], None)
        if answer_or_none is not None:
            answer_or_none.verdict = record["prediction"]
            self.agreed.append(record["agreed"])


def follow(devices: list[Device]) -> list[DeviceJournal]:
    """A journal for each device."""
    return [DeviceJournal(device) for device in devices]
