import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from cloud_service.errors import Expired, TeacherError
from cloud_service.teacher.batcher import Priority
from cloud_service.teacher.model import Outputs
from cloud_service.teacher.worker import Model, Teacher


@asynccontextmanager
async def at_work(infer, **values):
    teacher = Teacher(Model("t-onnx-1", infer, **values), task="t")
    serving = asyncio.create_task(teacher.run())
    yield teacher
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def logits_of(batch):
    """Sample [n]: a sure n of four; NaN for 1."""
    logits = np.eye(4, dtype=np.float32)[batch.ravel() % 4] * 5
    logits[batch.ravel() == 1] = np.nan
    return logits


async def test_teacher_answers_with_probabilities_and_its_version():
    async with at_work(logits_of) as teacher:
        answers = await asyncio.gather(*(teacher.answer(np.array([label])) for label in (0, 2, 3)))
    assert [answer.label for answer in answers] == [0, 2, 3]
    assert {answer.teacher for answer in answers} == {"t-onnx-1"} == {teacher.version}
    assert all(answer.probabilities.sum() == pytest.approx(1.0) for answer in answers)
    assert answers[0].embedding is None


async def test_teacher_with_one_row_of_nan_fails_that_sample_alone():
    async with at_work(logits_of) as teacher:
        good, bad = await asyncio.gather(
            teacher.answer(np.array([0])), teacher.answer(np.array([1])), return_exceptions=True
        )
    assert good.label == 0
    assert isinstance(bad, TeacherError)
    assert "not finite" in str(bad)


async def test_answer_has_a_normalised_embedding_the_temperature_and_the_disagreement():
    def infer(batch):
        count = len(batch)
        embedding = np.tile(np.array([3.0, 4.0], np.float32), (count, 1))
        return Outputs(logits_of(batch), embedding, np.full(count, 0.25, np.float32))

    async with at_work(infer, temperature=2.0) as teacher:
        answer = await teacher.answer(np.array([0]))
    assert answer.embedding == pytest.approx([0.6, 0.8])
    assert (answer.temperature, answer.disagreement) == (2.0, 0.25)


async def test_sample_whose_deadline_has_passed_is_expired():
    async with at_work(logits_of) as teacher:
        with pytest.raises(Expired):
            await teacher.answer(np.array([0]), priority=Priority.WANTED, deadline_s=-1.0)
        assert (teacher.expired, teacher.waiting) == (1, 0)


async def test_teacher_that_gives_a_matrix_for_a_sample_fails_it():
    async with at_work(lambda batch: np.zeros((len(batch), 2, 2), np.float32)) as teacher:
        with pytest.raises(TeacherError):
            await teacher.answer(np.array([0]))


async def test_teacher_feeds_no_more_than_its_models_batch():
    sizes = []

    def infer(batch):
        sizes.append(len(batch))
        return logits_of(batch)

    async with at_work(infer, max_batch=2) as teacher:
        await asyncio.gather(*(teacher.answer(np.array([0])) for _ in range(7)))
    assert max(sizes) == 2
    assert sum(sizes) == 7
