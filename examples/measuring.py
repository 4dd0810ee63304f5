"""What a study measures: every model on both test sets, and what the scores are worth; answered once, at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.tasks.task import TaskDefinition
from cloud_service.training import compressing, evaluate
from cloud_service.training.calibrate import Calibration, calibrate
from cloud_service.training.choosing import QAT
from cloud_service.training.latency import compare_latency
from cloud_service.training.pool import number_contents
from cloud_service.training.quantized import Quantized
from cloud_service.training.ranking import aurc
from cloud_service.training.request import TrainingReport
from cloud_service.training.results import Pruned, read_result
from cloud_service.training.variants import Names
from examples.tables import ALL_LABELS, TEACHERS_LABELS
from shared.deferral import score as learned_score
from shared.errors import SettingsError
from shared.uncertainty import Score, hardness

Array = NDArray[Any]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """Raw samples [N, *shape] and their labels int64 [N]."""

    x: Array
    y: Labels


@dataclass(frozen=True, slots=True)
class Domains:
    """How a data set is divided; no sample is in two parts.

    Attributes:
        home, field: who or what is in each, in words.
        source_train: labelled, at home; the base data.
        source_eval: labelled, at home; held out, for the gate and for whoever tunes settings.
        source_test: at home, for the table alone.
        field_labelled: what the teacher, and only it, has seen of the field's labels.
        field_stream: what devices meet; the labels are not used.
        field_test: in the field, for the table alone.
    """

    home: str
    field: str
    source_train: Part
    source_eval: Part
    source_test: Part
    field_labelled: Part
    field_stream: Part
    field_test: Part


@dataclass(frozen=True, slots=True)
class Row:
    """One model on both test sets.

    Attributes:
        bytes: of its ONNX file; None for the teacher, which has none.
        latency_ratio: its time for one sample over the fp32 student's, in onnxruntime, run in turn.
        note: what else is worth knowing.
    """

    name: str
    home: float
    field: float
    bytes: int | None = None
    latency_ratio: float | None = None
    note: str = ""


def rows_of(
    task: TaskDefinition, parts: Domains, folder: Path, labels: dict[str, Path], ask: Callable[[Array], Array]
) -> list[Row]:
    """The table; the test sets are answered here and nowhere else."""
    home, field = parts.source_test, parts.field_test
    out = folder / "loop"
    variants = {variant.name: Names(variant.name, first=n == 0) for n, variant in enumerate(task.compression)}
    if "fp32" not in variants:
        raise SettingsError(f"the study of {task.name} compares with a variant fp32: add one to its task.toml")
    fp32 = evaluate.open_runner(out / variants["fp32"].file(compressing.MODEL))
    files = [
        ("student, home labels", labels["home"], ""),
        (ALL_LABELS if task.teach is not None else TEACHERS_LABELS, labels["both"], ""),
        ("before: factory, int8", folder / "factory" / compressing.MODEL, ""),
        *(
            (f"distilled, {one.variant}", out / one.file(compressing.MODEL), _note(out, one))
            for one in variants.values()
        ),
    ]
    rows = [Row("teacher", _right(ask, home), _right(ask, field))]
    for name, file, note in files:
        run = evaluate.open_runner(file)
        ratio = compare_latency(run, fp32, home.x[0], rounds=1000).ratio
        rows.append(Row(name, _right(run, home), _right(run, field), file.stat().st_size, ratio, note))
    return rows


def _note(out: Path, variant: Names) -> str:
    said = []
    if (out / f"{variant.stage('prune')}.json").exists():
        pruned = read_result(out, variant.stage("prune"), Pruned)
        said.append(f"{pruned.macs_after / pruned.macs_before:.2f} of the MACs")
    how = read_result(out, variant.stage("quantize"), Quantized).how
    if how is not None:
        said.append(how.method)
        # Asked for always, it is still not taken where it answers worse; the row is then no row of training in int8.
        if QAT in how.tried and how.method != QAT:
            said.append(f"training in int8 not taken: {how.tried[QAT] - how.score:+.2%} where it is chosen")
    return ", ".join(said)


def scores_of(
    task: TaskDefinition,
    parts: Domains,
    folder: Path,
    sent: dict[str, Array],
    *,
    ask: Callable[[Array], Array],
    report: TrainingReport,
) -> list[dict[str, Any]]:
    """AURC of maximum probability and of the chosen score against the labels, before and after the update.

    Before it, the learned score is fitted to the factory's student on what that has sent, none of which it had learnt.
    """
    settings, old = task.training, evaluate.open_runner(folder / "factory" / compressing.MODEL)
    held = parts.source_eval.x
    before = calibrate(
        sent["logits"],
        sent["teacher_probs"].argmax(axis=1),
        sent["weight"],
        agreement_goal=settings.agreement_goal,
        offload_budget=settings.offload_budget,
        score=Score.MAX_PROBABILITY,
        source=(old(held), ask(held).argmax(axis=1)),
        group=number_contents(sent["x"]),
    )
    assert report.calibration is not None
    new = evaluate.open_runner(folder / "loop" / compressing.MODEL)
    found = []
    for when, run, chosen in (("before", old, before), ("after", new, report.calibration)):
        for where, part in (("home", parts.source_test), ("field", parts.field_test)):
            found.append({"when": when, "where": where, **_areas(run(part.x), part.y, chosen)})
    return found


def _areas(logits: Array, y: Labels, chosen: Calibration) -> dict[str, Any]:
    wrong, ones = logits.argmax(axis=1) != y, np.ones(len(y))
    plain = hardness(logits, chosen.temperature, Score.MAX_PROBABILITY)
    deferral = chosen.deferral
    own = plain if deferral is None else learned_score(logits, chosen.temperature, deferral)
    return {
        "score": chosen.score.value,
        "reason": chosen.deferral_reason,
        "max_probability": aurc(plain, wrong, ones),
        "chosen": aurc(own, wrong, ones),
    }


def _right(run: Callable[[Array], Array], part: Part) -> float:
    return evaluate.share_right(run(part.x), part.y)
