import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_service.errors import TeacherError
from cloud_service.teacher import torch_network
from cloud_service.teacher.settings import TeacherSettings
from cloud_service.teacher.torch_network import Pictures, build, open_torch
from shared.errors import SettingsError
from tests.sim import teachers
from tests.sim.bundles import sample

X = np.stack([sample(3), sample(7)])


def factory(folder, *, model=teachers.FACTORY, name="w.pt"):
    weights = teachers.save_weights(folder / name)
    task = teachers.write_task(folder, {"model": model, "weights": weights})
    return task.teacher[0], task


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_factory_with_weights_answers_with_logits_and_embedding(tmp_path, name):
    given = open_torch(build(*factory(tmp_path, name=name)))(X)
    assert given.logits.argmax(axis=1).tolist() == [3, 7]
    assert given.embedding.shape == (2, 64)
    assert given.logits.dtype == np.float32


def test_factory_that_gives_logits_alone_has_no_embedding(tmp_path):
    given = open_torch(build(*factory(tmp_path, model="tests.sim.teachers:LogitsAlone")))(X)
    assert given.embedding is None


def test_weights_inside_a_checkpoint_are_found(tmp_path):
    teacher, task = factory(tmp_path)
    torch.save({"state_dict": torch.load(teacher.weights), "epoch": 3}, teacher.weights)
    assert open_torch(build(teacher, task))(X).logits.argmax(axis=1).tolist() == [3, 7]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"not weights", "cannot be read"),
        ({"rows.weight": torch.zeros(1)}, "do not fit"),
        ([1, 2], "not a state_dict"),
        (teachers.LinearTeacher, r"save model\.state_dict\(\)"),
        (None, "cannot be read"),
    ],
)
def test_wrong_weights_say_what_to_do(tmp_path, content, words):
    teacher, task = factory(tmp_path)
    if content is None:
        teacher.weights.unlink()
    elif isinstance(content, bytes):
        teacher.weights.write_bytes(content)
    else:
        torch.save(content, teacher.weights)
    with pytest.raises(TeacherError, match=words):
        build(teacher, task)


def test_broken_safetensors_say_so(tmp_path):
    teacher, task = factory(tmp_path, name="w.safetensors")
    teacher.weights.write_bytes(b"broken")
    with pytest.raises(TeacherError, match="cannot be read"):
        build(teacher, task)


@pytest.mark.parametrize(
    ("model", "words"),
    [("tests.sim.teachers:none", "nothing callable"), ("tests.sim.teachers:no_module", "not a torch")],
)
def test_factory_that_is_none_names_the_setting(tmp_path, model, words):
    with pytest.raises(SettingsError, match=words):
        build(*factory(tmp_path, model=model))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_absent_zoo_names_the_extra(tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "w.pt").touch()
    settings = TeacherSettings(model=f"{library}:resnet18", weights=tmp_path / "w.pt")
    with pytest.raises(SettingsError, match=r"pip install 'edgeloop\[zoo\]'"):
        build(settings, teachers.write_task(tmp_path, settings, input_shape=(8, 8, 3)))


class Nothing(torch.nn.Module):
    """Gives back the pictures as a zoo's network sees them."""

    def forward(self, x):
        assert x.dtype == torch.float32
        return x


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3)])
def test_pictures_are_scaled_normalised_and_channels_first(tmp_path, shape):
    task = teachers.write_task(tmp_path, "model.onnx", input_shape=shape)
    x = torch.full((2, *shape), 51, dtype=torch.uint8)
    seen = Pictures(Nothing(), task, largest=255.0, size=None)(x)
    assert seen.shape == (2, 3, 8, 6)
    assert seen[0, :, 0, 0].tolist() == pytest.approx(
        [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    )
    assert Pictures(Nothing(), task, largest=255.0, size=16)(x).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("shape", [(16,), (8, 8, 2), (3, 8, 8, 8)])
def test_samples_that_are_no_pictures_need_a_factory(tmp_path, shape):
    task = teachers.write_task(tmp_path, "model.onnx", input_shape=shape)
    with pytest.raises(SettingsError, match="write a factory"):
        Pictures(Nothing(), task, largest=255.0, size=None)


ZOO = """
import json, sys
import numpy as np, torch
from pathlib import Path
from cloud_service.teacher.settings import TeacherSettings
from cloud_service.teacher.torch_network import build, open_torch
from shared.errors import SettingsError
from tests.sim.teachers import write_task

folder, said = Path(sys.argv[1]), {}
import timm, torchvision.models
for library, network in (("timm", timm.create_model("tiny", num_classes=10)),
                         ("torchvision", torchvision.models.get_model("tiny", num_classes=10))):
    torch.save(network.state_dict(), folder / "w.pt")
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    def ask(name):
        settings = TeacherSettings(model=f"{library}:{name}", weights=folder / "w.pt")
        return open_torch(build(settings, write_task(folder, settings, input_shape=(8, 8, 3))))(x)
    given = ask("tiny")
    mean, std = (0.5, 0.5) if library == "timm" else (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
    seen = torch.from_numpy(((x / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        same = np.allclose(given.logits, network(seen).numpy(), atol=1e-4)
    try:
        ask("huge")
    except SettingsError as err:
        refused = str(err)
    said[library] = [same, None if given.embedding is None else list(given.embedding.shape), refused]
print(json.dumps(said))
"""


def test_zoo_networks_are_made_without_their_weights_and_given_ours(tmp_path):
    path = os.pathsep.join([str(teachers.write_zoo(tmp_path / "zoo")), str(Path.cwd())])
    done = subprocess.run(
        [sys.executable, "-c", ZOO, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["timm"][:2] == [True, [2, 8]]
    assert said["torchvision"][:2] == [True, None]
    assert "does not make such a network" in said["timm"][2]
    assert "Unknown model huge" in said["torchvision"][2]


def test_exported_module_answers_as_in_torch(tmp_path):
    from cloud_service.teacher.onnx_network import open_onnx

    teacher, task = factory(tmp_path)
    module = build(teacher, task)
    torch_network.export(module, task, tmp_path / "float.onnx")
    inside, outside = open_torch(module)(X), open_onnx(tmp_path / "float.onnx")(X)
    assert inside.logits == pytest.approx(outside.logits, abs=1e-5)
    assert inside.embedding == pytest.approx(outside.embedding, abs=1e-5)
