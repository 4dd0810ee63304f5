"""The demo's factory: trains the teacher, writes the base data, and makes the first student like any later one.

Run as `python -m cloud_service.demo.factory OUT --seed N --split random`; progress as JSON lines on stdout.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cloud_service.demo import data as pictures
from cloud_service.demo.data import AUGMENT, LABELS, MAX_MODEL_BYTES, SHAPE, DemoData, Split, load
from cloud_service.tasks.augment import digits
from cloud_service.tasks.learning import TeachSettings
from cloud_service.tasks.networks import SmallCnn
from cloud_service.tasks.task import TaskDefinition, TrainingSettings
from cloud_service.teacher.settings import TeacherSettings
from cloud_service.training import pipeline, quantize
from cloud_service.training.lessons import Lessons, Part
from cloud_service.training.lineage import die_with_parent
from cloud_service.training.progress import JsonLines, Progress, Step
from cloud_service.training.request import CANDIDATE, REPORT, TrainingReport, TrainingRequest
from shared import atomic
from shared.errors import EdgeloopError

TASK = "digits"
TEACHER, BASE, BUNDLE = "teacher.onnx", "base.npz", "factory.bundle"
FACTORY_VERSION = "factory"

# The factory does not know the field, so its student asks whenever in doubt: a quarter of the factory's own pictures.
_FACTORY_OFFLOAD = 0.25

_TEACHER_STEPS = 900
_TEACHER_BATCH = 128
_TEACHER_FIELD_SHARE = 0.4  # of a batch: 500 field pictures beside 3,500 of the factory's
_TEACHER_RATE = 3e-3
_TEACHER_DECAY = 1e-2
_TEACHER_SMOOTHING = 0.05


def build(
    seed: int,
    split: Split,
    out: Path,
    progress: Progress,
    *,
    training: TrainingSettings | None = None,
    teacher_steps: int = _TEACHER_STEPS,
) -> TrainingReport:
    """Write teacher.onnx, base.npz and factory.bundle into `out`.

    Args:
        seed: divides the data and drives the training.
        split: how the field is divided.
        out: the folder.
        progress: told of the teacher's and the student's training.
        training: the later loop's settings; the factory's differ in how much is offloaded alone.
        teacher_steps: of the teacher's training.

    Returns:
        The factory student's report.
    """
    out.mkdir(parents=True, exist_ok=True)
    data = load(seed, split)
    task = definition(out, training=training or TrainingSettings(seed=seed))
    _teach(data, task, seed=seed, steps=teacher_steps, progress=progress)
    with atomic.replacing(task.base_data) as file:
        np.savez(
            file,
            x=data.source_train.x,
            y=data.source_train.y,
            x_eval=data.source_eval.x,
            y_eval=data.source_eval.y,
        )
    careful = task.training.model_copy(update={"offload_floor": _FACTORY_OFFLOAD, "offload_budget": _FACTORY_OFFLOAD})
    request = TrainingRequest(task=task.model_copy(update={"training": careful}), version=FACTORY_VERSION)
    run_dir = out / "factory"
    report = pipeline.run(request, run_dir, progress)
    atomic.write_json(run_dir / REPORT, report.model_dump(mode="json"))
    shutil.copyfile(run_dir / CANDIDATE, out / BUNDLE)
    return report


def definition(folder: Path, *, training: TrainingSettings) -> TaskDefinition:
    """The digits task over the files that `build` leaves in `folder`."""
    gate = training.gate.model_copy(update={"max_model_bytes": MAX_MODEL_BYTES})
    return TaskDefinition(
        name=TASK,
        labels=LABELS,
        input_shape=SHAPE,
        input_dtype="uint8",
        teacher=(TeacherSettings(model=str(folder / TEACHER)),),
        base_data=folder / BASE,
        augment=AUGMENT,
        training=training.model_copy(update={"gate": gate}),
    )


def main() -> int:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description="Train the demo's teacher and factory student.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", type=Split, choices=list(Split), default=Split.RANDOM)
    arguments = parser.parse_args()
    die_with_parent()
    torch.set_num_threads(1)  # small networks: a second thread spins more than it computes
    try:
        build(arguments.seed, arguments.split, arguments.out, JsonLines(sys.stdout))
    except EdgeloopError as err:
        sys.stderr.write(f"{err}\n")
        return err.exit_code
    return 0


def _teach(data: DemoData, task: TaskDefinition, *, seed: int, steps: int, progress: Progress) -> None:
    start = time.perf_counter()
    teacher = _train_teacher(data.source_train, data.field_labelled, seed=seed, steps=steps, progress=progress)
    quantize.export(teacher, task, task.teacher[0].files[0], outputs=(quantize.LOGITS,))
    seconds = time.perf_counter() - start
    progress(Step(stage="teacher", done=steps, total=steps, message=f"{seconds:.1f} s"))


def _train_teacher(
    source: pictures.Part, field: pictures.Part, *, seed: int, steps: int, progress: Progress
) -> SmallCnn:
    torch.manual_seed(seed)
    teacher = SmallCnn(classes=len(LABELS))
    teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types to() without it
    from_field = round(_TEACHER_BATCH * _TEACHER_FIELD_SHARE)
    parts = [
        Part(torch.from_numpy(part.x).float(), torch.from_numpy(part.y), count)
        for part, count in ((source, _TEACHER_BATCH - from_field), (field, from_field))
    ]
    settings = TeachSettings(
        network="cloud_service.tasks.networks:SmallCnn",
        steps=steps,
        batch=_TEACHER_BATCH,
        learning_rate=_TEACHER_RATE,
        weight_decay=_TEACHER_DECAY,
        smoothing=_TEACHER_SMOOTHING,
    )
    Lessons(teacher, parts, settings=settings, seed=seed, augment=digits).run(progress, stage="teacher")
    return teacher


if __name__ == "__main__":
    sys.exit(main())
