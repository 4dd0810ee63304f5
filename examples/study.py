"""A study: one task at home and in a field that it was not made for, and what each step towards the device costs there.

For each seed: teach a teacher; make the factory's student from home data alone; train the same network on labels alone;
let the factory's student send what it finds hard; and run the whole pipeline on that, with a variant for each way to
make a student smaller. Everything that trains is the product's own; the test sets are answered once, at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloud_service.tasks.compression import DEFAULT_VARIANTS, Weights
from cloud_service.tasks.task import TaskDefinition
from cloud_service.tasks.task_file import read_task_file
from cloud_service.teacher.offline import open_teacher
from cloud_service.teacher.settings import TeacherSettings
from cloud_service.training import compressing, distilling, evaluate, narrow, pipeline, quantize, weights
from cloud_service.training.progress import Progress, Step
from cloud_service.training.request import CANDIDATE, INCUMBENT, SAMPLES, TrainingReport, TrainingRequest
from cloud_service.training.results import read_result
from cloud_service.training.teach import TEACHER, Taught
from examples.measuring import Array, Domains, Labels, Part, rows_of, scores_of
from examples.tables import in_words, put_into
from shared import atomic
from shared.errors import EdgeloopError
from shared.uncertainty import Score, hardness, softmax

__all__ = ["Domains", "Part", "main", "measure", "read_arguments", "short"]

HERE = Path(__file__).resolve().parent
# Of what the factory's student does not find hard, the share that it sends nevertheless, drawn at random.
AUDITS = 0.05
# The factory's student knows nothing of the field: it asks for the hardest quarter of what it knows.
FACTORY_OFFLOAD = 0.25


def read_arguments(about: str | None, *, data: str | None = None, seeds: Sequence[int] = (0, 1, 2)) -> Any:
    """The command line of a study: its data, if it takes a file, seeds, and where it works and leaves its results."""
    parser = argparse.ArgumentParser(description=about)
    if data is not None:
        parser.add_argument("--data", type=Path, required=True, help=f"the data set, such as {data}")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--work", type=Path, help="folder of the runs; a study that was cut off goes on in it")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of NAME.json and NAME.md")
    parser.add_argument("--steps", type=int, help="of every course of training, to try things out; no result then")
    return parser.parse_args()


def main(
    name: str, load: Callable[[int], Domains], arguments: Any, *, given: Callable[[], TeacherSettings] | None = None
) -> int:
    """Run every seed and write NAME.json into the folder of results; the exit code is an error's own.

    Args:
        name: of the study's folder, with its task.toml.
        load: divides the data by a seed.
        arguments: as `read_arguments` gives them.
        given: names the teacher of a task that teaches none, and so has no table teach.
    """
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    work = arguments.work or Path.cwd() / "study" / name
    try:
        task = read_task_file(HERE / name / "task.toml")
        if arguments.steps is not None:
            task = short(task, arguments.steps)
        if given is not None:
            task = task.model_copy(update={"teacher": (given(),)})
        measured = [measure(task, partial(load, seed), work / f"seed-{seed}", seed=seed) for seed in arguments.seeds]
    except EdgeloopError as err:
        sys.stderr.write(f"{err}\n")
        return err.exit_code
    if arguments.steps is None:
        atomic.write_json(arguments.results / f"{name}.json", measured)
        atomic.write_bytes(arguments.results / f"{name}.md", in_words(measured).encode())
        if arguments.results == HERE / "results":
            put_into(HERE.parent / "docs" / "results.md", name, in_words(measured))
    sys.stdout.write(in_words(measured))
    return 0


def measure(task: TaskDefinition, load: Callable[[], Domains], folder: Path, *, seed: int) -> dict[str, Any]:
    """One seed, from the teacher to the table; what was done in `folder` before is not done again."""
    done = folder / "measured.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_bytes())
        return found
    parts = load()
    folder.mkdir(parents=True, exist_ok=True)
    progress = _Told(seed)
    task = _lay_out(task, parts, folder, seed=seed)
    if task.teach is not None:
        task = task.model_copy(update={"teacher": (_teach(task, parts, folder / "teach", progress),)})
    factory = _factory(task, folder / "factory", progress)
    ask = open_teacher(task)
    sent = _send(task, parts, factory, folder, ask)
    labels = _from_labels(task, parts, sent, folder / "labels", progress)
    report = _loop(task, sent, folder, progress)
    measured = {
        "seed": seed,
        "home": parts.home,
        "field": parts.field,
        "samples": {name: len(getattr(parts, name).y) for name in Domains.__slots__ if name not in {"home", "field"}},
        "sent": len(sent["x"]),
        "teacher_saw": _said_of_teacher(task, parts),
        "rows": [asdict(row) for row in rows_of(task, parts, folder, labels, ask)],
        "scores": scores_of(task, parts, folder, sent, ask=ask, report=report),
        "gate": {"passed": report.passed, "reasons": list(report.reasons)},
    }
    atomic.write_json(done, measured)
    return measured


def short(task: TaskDefinition, steps: int) -> TaskDefinition:
    """The same with courses of so many steps, to see that everything runs."""
    compression = []
    for variant in task.compression:
        prune = variant.prune and variant.prune.model_copy(update={"fine_tune_steps": steps})
        shorter = variant.quantize.model_copy(update={"qat_steps": steps})
        if variant.weights != "int8":
            shorter = variant.quantize
        compression.append(variant.model_copy(update={"prune": prune, "quantize": shorter}))
    changed: dict[str, Any] = {
        "training": task.training.model_copy(update={"steps": steps, "views": 2}),
        "compression": tuple(compression),
    }
    if task.teach is not None:
        changed["teach"] = task.teach.model_copy(update={"steps": steps})
    return task.model_copy(update=changed)


def _lay_out(task: TaskDefinition, parts: Domains, folder: Path, *, seed: int) -> TaskDefinition:
    base = folder / "base.npz"
    train, held = parts.source_train, parts.source_eval
    with atomic.replacing(base) as file:
        np.savez(file, x=train.x, y=train.y, x_eval=held.x, y_eval=held.y)
    training = task.training.model_copy(update={"seed": seed})
    return task.model_copy(update={"base_data": base, "training": training})


def _said_of_teacher(task: TaskDefinition, parts: Domains) -> str:
    if task.teach is None:
        return "none of this data, as far as is known: it is given, and every label here is its own answer"
    return f"the labels of source_train and of {len(parts.field_labelled.y)} samples of the field"


def _teach(task: TaskDefinition, parts: Domains, folder: Path, progress: Progress) -> TeacherSettings:
    """The teacher learns the home data and the field's labelled samples, which reach it as labelled uploads."""
    if not (folder / f"{pipeline.TEACH}.json").exists():
        labels = _one_hot(parts.field_labelled.y, len(task.labels))
        _write_samples(folder, parts.field_labelled.x, labels, certain=True)
        pipeline.run_stage(TrainingRequest(task=task), folder, progress, stage=pipeline.TEACH)
    assert (folder / TEACHER).exists()
    taught, asked = read_result(folder, pipeline.TEACH, Taught), task.teach
    assert asked is not None
    return TeacherSettings(model=taught.network, weights=Path(taught.weights), width=asked.width)


def _factory(task: TaskDefinition, folder: Path, progress: Progress) -> TrainingReport:
    """The student that goes out first: distilled at home, int8; by the product's default way where a teacher is taught.

    Beside a given teacher the student is large, and a thousand steps of training in int8 by need would take longer than
    all else: its own first way is taken.
    """
    variants = DEFAULT_VARIANTS if task.teach is not None else task.compression[:1]
    careful = {"offload_floor": FACTORY_OFFLOAD, "offload_budget": FACTORY_OFFLOAD}
    first = task.model_copy(update={"training": task.training.model_copy(update=careful), "compression": variants})
    return pipeline.run(TrainingRequest(task=first, version="factory"), folder, progress)


def _from_labels(
    task: TaskDefinition, parts: Domains, sent: dict[str, Array], folder: Path, progress: Progress
) -> dict[str, Path]:
    """The same network on labels alone, α = 0: those of home, and those that the teacher has seen of the field too.

    Where the teacher was given there are no such labels: its own answers to what was sent are taken, as labels.
    """
    files = {}
    training = task.training.model_copy(update={"alpha": 0.0, "beta": 1.0, "folds": 0})
    alone = task.model_copy(update={"training": training})
    for name in ("home", "both"):
        out, file = folder / name, folder / f"{name}.onnx"
        if not file.exists():
            if name == "both" and task.teach is None:
                _write_samples(out, sent["x"], sent["teacher_probs"], sent["weight"])
            elif name == "both":
                known = _one_hot(parts.field_labelled.y, len(task.labels))
                _write_samples(out, parts.field_labelled.x, known, certain=True)
            pipeline.run_stage(TrainingRequest(task=alone), out, progress, stage=pipeline.DISTILL)
            quantize.export_student(weights.load(out / distilling.STUDENT, task)[-1], task, out / compressing.FLOAT)
            narrow.write(out / compressing.FLOAT, file, weights=Weights.FP32)  # as compact as the others
        files[name] = file
    return files


def _send(
    task: TaskDefinition, parts: Domains, factory: TrainingReport, folder: Path, ask: Callable[[Array], Array]
) -> dict[str, Array]:
    """What the factory's student sends of the stream, with the teacher's answers: what is hard, and audits."""
    logits = evaluate.open_runner(folder / "factory" / compressing.MODEL)(parts.field_stream.x)
    hard = hardness(logits, factory.temperature, Score.MAX_PROBABILITY) >= factory.threshold
    drawn = np.random.default_rng(task.training.seed).random(len(hard)) < AUDITS
    chosen = hard | drawn
    x = parts.field_stream.x[chosen]
    return {
        "x": x,
        "teacher_probs": softmax(ask(x)),
        "weight": np.where(hard[chosen], 1.0, 1.0 / AUDITS).astype(np.float32),
        "order": np.arange(len(x)),
        "logits": logits[chosen],
    }


def _loop(task: TaskDefinition, sent: dict[str, Array], folder: Path, progress: Progress) -> TrainingReport:
    out = folder / "loop"
    if not (out / INCUMBENT).exists():
        _write_samples(out, sent["x"], sent["teacher_probs"], sent["weight"])
        shutil.copyfile(folder / "factory" / CANDIDATE, out / INCUMBENT)
    return pipeline.run(TrainingRequest(task=task, version="updated"), out, progress)


def _one_hot(y: Labels, classes: int) -> Array:
    """Labels as verdicts that leave no doubt."""
    return np.eye(classes, dtype=np.float32)[y]


def _write_samples(folder: Path, x: Array, probs: Array, weight: Array | None = None, *, certain: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "weight": np.ones(len(x), dtype=np.float32) if weight is None else weight,
        "order": np.arange(len(x)),
        "certain": np.full(len(x), certain),
    }
    with atomic.replacing(folder / SAMPLES) as file:
        np.savez(file, x=x, teacher_probs=probs, **columns)


class _Told:
    """Says on stderr when a stage of a seed is done."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, step: Step) -> None:
        if step.done == step.total:
            sys.stderr.write(f"seed {self._seed}: {step.stage} {step.message}\n")
