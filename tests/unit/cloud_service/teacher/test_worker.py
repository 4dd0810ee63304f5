import asyncio

import numpy as np
import pytest

from cloud_service.admission import Terms
from cloud_service.errors import TeacherError
from cloud_service.teacher.worker import Model, Teacher, load_model
from shared.bundle import sha256_file
from shared.manifest import TensorSpec
from tests.sim.bundles import sample

TERMS = Terms(TensorSpec(shape=(8, 8), dtype="uint8"), 10)


async def test_teacher_answers_with_probabilities_and_its_files_hash(digits_task):
    model = await load_model(digits_task.teacher, task="digits", terms=TERMS)
    assert model.version == sha256_file(digits_task.teacher)[:12]
    teacher = Teacher(model, task="digits")
    serving = asyncio.create_task(teacher.run())
    answers = await asyncio.gather(*(teacher.answer(sample(label)) for label in range(10)))
    with pytest.raises(TeacherError, match="not finite"):
        await teacher.answer(sample(1, nan=True))
    serving.cancel()
    assert [answer.label for answer in answers] == list(range(10))
    assert all(answer.teacher == model.version for answer in answers)
    assert all(answer.probabilities.sum() == pytest.approx(1.0) for answer in answers)


async def test_loading_a_missing_teacher_names_the_setting(tmp_path):
    with pytest.raises(TeacherError, match=r"\[tasks.digits\] teacher"):
        await load_model(tmp_path / "none.onnx", task="digits", terms=TERMS)


async def test_loading_a_file_that_is_no_model_says_so(tmp_path):
    (tmp_path / "teacher.onnx").write_bytes(b"not a model")
    with pytest.raises(TeacherError, match="does not run"):
        await load_model(tmp_path / "teacher.onnx", task="digits", terms=TERMS)


@pytest.mark.parametrize("terms", [Terms(TERMS.input, 9), Terms(TensorSpec(shape=(4, 4), dtype="uint8"), 10)])
async def test_loading_a_teacher_that_does_not_fit_the_task_says_so(digits_task, terms):
    with pytest.raises(TeacherError, match="digits"):
        await load_model(digits_task.teacher, task="digits", terms=terms)


async def test_teacher_with_one_row_of_nan_fails_that_sample_alone():
    def infer(batch):
        logits = np.zeros((len(batch), 2), np.float32)
        logits[batch.ravel() == 1] = np.nan
        return logits

    teacher = Teacher(Model("abc", infer), task="t")
    serving = asyncio.create_task(teacher.run())
    good, bad = await asyncio.gather(
        teacher.answer(np.array([0])), teacher.answer(np.array([1])), return_exceptions=True
    )
    serving.cancel()
    assert good.label == 0
    assert isinstance(bad, TeacherError)
