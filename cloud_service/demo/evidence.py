"""Turns what was seen into the demo's report: measures the models, counts what was lost, adds up the bytes."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from cloud_service.client import Client
from cloud_service.demo import measure, plot
from cloud_service.demo.data import DemoData
from cloud_service.demo.journal import Answer, DeviceJournal
from cloud_service.demo.report import Bytes, ModelFacts, Report, UpdateFacts
from cloud_service.demo.stage import TASK
from cloud_service.training.evaluate import open_runner, share_right
from shared import atomic, bundle
from shared.messages import LedgerBytes

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything there is to measure at the end of the story."""

    seed: int
    split: str
    folder: Path
    data: DemoData
    journals: Sequence[DeviceJournal]
    client: Client
    job: dict[str, Any]
    deployments: Sequence[dict[str, Any]]
    factory_version: str
    stage_seconds: dict[str, float]
    wall_seconds: float


def gather(scene: Scene) -> Report:
    """Measure the scene."""
    data, new_version = scene.data, str(scene.job["version"])
    labels = data.field_test.y
    teacher = open_runner(scene.folder / "teacher.onnx")
    new_bundle = scene.folder / "new.bundle"
    scene.client.download_bundle(TASK, new_version, new_bundle)
    return Report(
        seed=scene.seed,
        split=scene.split,
        devices=len(scene.journals),
        wall_seconds=scene.wall_seconds,
        stage_seconds=scene.stage_seconds,
        teacher_field=share_right(teacher(data.field_test.x), labels),
        teacher_source=share_right(teacher(data.source_test.x), data.source_test.y),
        teacher_labelled_field_images=len(data.field_labelled.x),
        before=(
            measure.standing(scene.journals, scene.factory_version, labels),
            _facts(scene.folder / "factory.bundle", scene),
        ),
        after=(measure.standing(scene.journals, new_version, labels), _facts(new_bundle, scene)),
        update=_update_facts(scene),
        bytes=_bytes(scene),
        uploaded=int(scene.job["samples"]),
        gate={"passed": scene.job["report"]["passed"], "reasons": scene.job["report"]["reasons"]},
    )


def lost(answers: Sequence[Answer], *, stored: Collection[str]) -> set[str]:
    """Ids of samples that should have gone up and were dropped, never answered, or (but for test images) not kept."""
    sent = [answer for answer in answers if answer.offloaded]
    unanswered = {answer.sample_id for answer in sent if answer.verdict is None}
    not_stored = {answer.sample_id for answer in sent if not answer.exam}.difference(stored)
    return {answer.sample_id for answer in answers if answer.dropped} | unanswered | not_stored


def draw_plot(file: Path, scene: Scene, result: Report) -> None:
    """The report as a picture."""
    swaps = [at for journal in scene.journals if (at := _swapped_at(journal.answers)) is not None]
    title = f"edgeloop demo, seed {result.seed}: {result.devices} devices learn the field"
    curve = measure.curve(scene.journals, scene.data.field_test.y)
    plot.draw(file, curve, updates_s=swaps, teacher=result.teacher_field, title=title)


def write_report(file: Path, result: Report) -> None:
    """The report as JSON."""
    atomic.write_json(file, result.as_json())


def _facts(file: Path, scene: Scene) -> ModelFacts:
    folder = scene.folder / "measured" / file.stem
    manifest = bundle.unpack(file, folder)
    student = open_runner(folder / bundle.MODEL)
    test = scene.data.source_test
    return ModelFacts(manifest.version, share_right(student(test.x), test.y), (folder / bundle.MODEL).stat().st_size)


def _update_facts(scene: Scene) -> UpdateFacts:
    created = min(_time(row["created_at"]) for row in scene.deployments)
    finished = max(_time(row["finished_at"]) for row in scene.deployments)
    answers = [answer for journal in scene.journals for answer in journal.answers]
    return UpdateFacts(
        seconds_to_all_devices=(finished - created).total_seconds(),
        lost_samples=len(lost(answers, stored=_stored_ids(scene.client))),
        interrupted_inferences=sum(journal.missing() for journal in scene.journals) + _errors(scene),
        longest_near_swap_ms=max(measure.longest_near_swap_ms(journal.answers) for journal in scene.journals),
    )


def _stored_ids(client: Client) -> set[str]:
    found: set[str] = set()
    cursor = ""
    while True:
        page = client.get(f"/api/v1/samples?task={TASK}&limit={_PAGE}" + (f"&cursor={cursor}" if cursor else ""))
        found |= {item["id"] for item in page["items"]}
        cursor = page["next"]
        if not cursor:
            return found


def _bytes(scene: Scene) -> Bytes:
    total = dict.fromkeys(("samples", "verdicts", "updates", "telemetry"), 0)
    for journal in scene.journals:
        booked = LedgerBytes.model_validate(_ledger(journal)["bytes"])
        for name in total:
            total[name] += getattr(booked, name)
    offloaded = sum(answer.offloaded for journal in scene.journals for answer in journal.answers)
    taken = sum(len(journal.answers) for journal in scene.journals)
    a_sample = total["samples"] / max(offloaded, 1)
    return Bytes(total["samples"], total["verdicts"], total["updates"], total["telemetry"], round(a_sample * taken))


def _errors(scene: Scene) -> int:
    return sum(int(_ledger(journal)["tasks"][TASK].get("errors", 0)) for journal in scene.journals)


def _ledger(journal: DeviceJournal) -> dict[str, Any]:
    """The device's own counts, as it saved them."""
    value: dict[str, Any] = json.loads((journal.device.config.parent / "state" / "ledger.json").read_bytes())
    return value


def _swapped_at(answers: Sequence[Answer]) -> float | None:
    for before, after in pairwise(answers):
        if before.version != after.version:
            return after.at_s
    return None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
