"""The demo's last word: a JSON report, a table before and after, and whether each goal was reached."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from cloud_service.demo.measure import Standing
from cloud_service.demo.stage import EXAM_AUDITS, STREAM_AUDITS


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is measured of a bundle off the devices; `edge_source`: accuracy on the source test set."""

    version: str
    edge_source: float
    model_bytes: int


@dataclass(frozen=True, slots=True)
class UpdateFacts:
    """Attributes:
    seconds_to_all_devices: from the deployment to the last device's report.
    lost_samples: dropped by a device, or offloaded and not answered, or of the stream and not stored.
    interrupted_inferences: samples that a device took and did not answer.
    longest_near_swap_ms: the longest `infer` within 20 samples of a swap.
    """

    seconds_to_all_devices: float
    lost_samples: int
    interrupted_inferences: int
    longest_near_swap_ms: float


@dataclass(frozen=True, slots=True)
class Bytes:
    """Payload bytes of the whole run, all devices; `send_everything`: had every sample gone up."""

    samples: int
    verdicts: int
    update: int
    telemetry: int
    send_everything: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the demo measured."""

    seed: int
    split: str
    devices: int
    wall_seconds: float
    stage_seconds: dict[str, float]
    teacher_field: float
    teacher_source: float
    teacher_labelled_field_images: int
    before: tuple[Standing, ModelFacts]
    after: tuple[Standing, ModelFacts]
    update: UpdateFacts
    bytes: Bytes
    uploaded: int
    gate: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The report as documented in the README."""
        return {
            "seed": self.seed,
            "split": self.split,
            "devices": self.devices,
            "wall_seconds": round(self.wall_seconds, 1),
            "stage_seconds": {name: round(value, 1) for name, value in self.stage_seconds.items()},
            "teacher": {
                "field": self.teacher_field,
                "source": self.teacher_source,
                "labelled_field_images": self.teacher_labelled_field_images,
            },
            "before": _side(*self.before),
            "after": _side(*self.after),
            "update": asdict(self.update),
            "bytes": asdict(self.bytes),
            "uploaded_for_training": self.uploaded,
            "gate": self.gate,
        }

    def table(self) -> Table:
        """Before and after, side by side."""
        table = Table(title=f"seed {self.seed}, {self.split} split, {self.devices} devices", title_justify="left")
        for name in ("", "before", "after"):
            table.add_column(name, justify="left" if not name else "right")
        (before, old), (after, new) = self.before, self.after
        rows = (
            ("student alone, field test set", f"{before.edge_field:.3f}", f"{after.edge_field:.3f}"),
            ("student alone, source test set", f"{old.edge_source:.3f}", f"{new.edge_source:.3f}"),
            ("system (own answer or verdict), field", f"{before.system_field:.3f}", f"{after.system_field:.3f}"),
            ("offloaded, field", f"{before.offload_rate:.1%}", f"{after.offload_rate:.1%}"),
            ("model.onnx", f"{old.model_bytes:,} B", f"{new.model_bytes:,} B"),
            ("one inference on the device, median", f"{before.latency_us:.0f} µs", f"{after.latency_us:.0f} µs"),
        )
        for row in rows:
            table.add_row(*row)
        return table

    def lines(self) -> list[str]:
        """What the table does not say, a sentence a line."""
        update, sent = self.update, self.bytes
        share = (sent.samples + sent.verdicts + sent.update + sent.telemetry) / max(sent.send_everything, 1)
        return [
            (
                f"The teacher: {self.teacher_field:.3f} on the field test set, {self.teacher_source:.3f} at home; "
                f"it has seen {self.teacher_labelled_field_images} labelled field images."
            ),
            (
                f"The new student learnt from {self.uploaded} offloaded field images, labelled by the teacher alone, "
                "and a replay of the source images."
            ),
            (
                f"The update reached all devices in {update.seconds_to_all_devices:.1f} s; "
                f"{update.lost_samples} samples lost, {update.interrupted_inferences} inferences interrupted, "
                f"the longest near a swap took {update.longest_near_swap_ms:.1f} ms."
            ),
            (
                f"Bytes: samples {sent.samples:,}, verdicts {sent.verdicts:,}, update {sent.update:,}, telemetry "
                f"{sent.telemetry:,}; together {share:.0%} of the {sent.send_everything:,} that sending every sample "
                "would take."
            ),
            (
                f"Of the field test set {self.before[0].offload_rate:.1%} went up at first and "
                f"{self.after[0].offload_rate:.1%} after the update, with audits of {EXAM_AUDITS:.0%} "
                f"(the stream is audited at {STREAM_AUDITS:.0%}, to learn from)."
            ),
        ]


def _side(standing: Standing, facts: ModelFacts) -> dict[str, Any]:
    return {
        "version": facts.version,
        "edge_field": standing.edge_field,
        "edge_source": facts.edge_source,
        "system_field": standing.system_field,
        "offload_rate": standing.offload_rate,
        "model_bytes": facts.model_bytes,
        "latency_us": round(standing.latency_us, 1),
        "field_images": standing.images,
    }
