from pathlib import Path

import torch

from cloud_service.tasks.augment import digits
from cloud_service.tasks.networks import SmallCnn, TinyMlp
from cloud_service.tasks.task import TaskDefinition

TASK = TaskDefinition(
    name="digits", labels=tuple("0123456789"), input_shape=(8, 8), input_dtype="uint8",
    teacher=Path("teacher.onnx"), base_data=Path("base.npz"),
)  # fmt: skip


def test_student_takes_raw_samples_and_gives_logits_and_embedding():
    logits, embedding = TinyMlp(TASK)(torch.full((3, 8, 8), 16, dtype=torch.uint8))
    assert logits.shape == (3, 10)
    assert embedding.shape == (3, 72)
    assert (embedding >= 0).all()


def test_student_normalises_inside():
    student = TinyMlp(TASK)
    with torch.no_grad():
        student.hidden.bias.zero_()
    _, embedding = student(torch.full((1, 8, 8), 8, dtype=torch.uint8))
    assert embedding.abs().max() == 0.0


def test_teacher_takes_raw_samples():
    assert SmallCnn(classes=10, channels=4, width=8)(torch.zeros((3, 8, 8), dtype=torch.uint8)).shape == (3, 10)


def test_augmented_digits_stay_what_the_sensor_gives():
    x = torch.randint(0, 17, (50, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    changed = digits(x, torch.Generator().manual_seed(2))
    assert changed.shape == x.shape
    assert changed.min() >= 0.0
    assert changed.max() <= 16.0
    assert torch.equal(changed, changed.round())
    assert not torch.equal(changed, x)
    # Mild: most of the ink stays where it is.
    assert (changed - x).abs().mean() < 4.0


def test_augmentation_repeats_with_its_generator():
    x = torch.rand((5, 8, 8), generator=torch.Generator().manual_seed(1)) * 16
    assert torch.equal(digits(x, torch.Generator().manual_seed(3)), digits(x, torch.Generator().manual_seed(3)))
