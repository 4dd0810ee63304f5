from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cloud_service.training import quantization_aware, quantize
from cloud_service.training.evaluate import open_runner
from tests.sim.students import Residual


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).integers(0, 17, (64, 8, 8)).astype(np.uint8)


def untouched(module, steps):
    """Training that changes nothing, but calls what training calls."""
    module.train()
    module.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, task, inputs):
    """A student, and its file after quantization-aware training of no effect."""
    torch.manual_seed(0)
    student, file = Residual(), tmp_path_factory.mktemp("qat") / "int8.onnx"
    quantization_aware.train(student, task, file, inputs=inputs, fine_tune=untouched, steps=10)
    return student, file


def test_every_layer_runs_on_integer_kernels(trained):
    kernels = quantize.count_kernels(trained[1])
    assert (kernels["QLinearConv"], kernels["QGemm"], kernels["QLinearAdd"]) == (4, 1, 1)
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "Add", "Relu", "Clip", "BatchNormalization"} & kernels.keys()


def test_sum_that_no_layer_takes_is_rounded_all_the_same(task, inputs, tmp_path):
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            x = x.float().unsqueeze(1)
            embedding = torch.relu(self.left(x) + self.right(x)).mean((2, 3))
            return self.head(embedding), embedding

    quantization_aware.train(Summed(), task, tmp_path / "int8.onnx", inputs=inputs, fine_tune=untouched, steps=2)
    kernels = quantize.count_kernels(tmp_path / "int8.onnx")
    assert kernels["QLinearAdd"] == 1
    assert not {"Add", "Relu"} & kernels.keys()


def test_untrained_it_answers_as_the_float_network(trained, inputs):
    student, file = trained
    with torch.no_grad():
        exact = student(torch.from_numpy(inputs))[0].numpy()
    for count in (1, 2, 64):
        got = open_runner(file)(inputs[:count])
        assert np.abs(got - exact[:count]).max() < 0.06 * np.abs(exact).max()


def test_weights_are_int8_of_seven_bits_per_channel_and_activations_uint8(trained):
    model = onnx.load(trained[1])
    tensors = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    weights = [tensor for tensor in tensors if tensor.dtype == np.int8 and tensor.ndim > 1]
    assert len(weights) == 5
    for weight in weights:
        rows = np.abs(weight.astype(int)).reshape(len(weight), -1).max(axis=1)
        assert (rows >= 63).all()
        assert rows.max() <= 64
    values = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    points = [values[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert set(points) == {onnx.TensorProto.UINT8}


def test_file_is_compact_and_of_the_same_outputs(trained):
    model = onnx.load(trained[1])
    assert [output.name for output in model.graph.output] == ["logits", "embedding"]
    assert not model.graph.value_info
    assert not model.metadata_props
    onnx.checker.check_model(model)


def test_student_itself_is_left_alone(trained):
    torch.manual_seed(0)
    fresh = Residual()
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), trained[0].parameters(), strict=True))


def test_training_reaches_the_weights_and_ranges_are_frozen_for_the_last_fifth(task, inputs):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.drop, self.head = nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 4)

        def forward(self, x):
            embedding = self.drop(torch.relu(self.hidden(x.flatten(1).float() * 0.1)))
            return self.head(embedding), embedding

    torch.manual_seed(0)
    prepared = quantization_aware.prepare(Noisy(), task, reduce_range=True)
    x = torch.from_numpy(inputs)
    prepared.eval()
    assert torch.equal(prepared(x)[0], prepared(x)[0])
    prepared.train()
    assert not torch.equal(prepared(x)[0], prepared(x)[0])  # dropout
    prepared(x)[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in prepared.parameters())
    quantization_aware.freeze(prepared)
    prepared.train()
    before = prepared(x)[0]
    prepared(x * 10)
    assert torch.equal(prepared(x)[0], before)


def test_steps_are_split_and_nothing_is_printed(task, inputs, tmp_path, capfd):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            flat = x.flatten(1).float()
            return self.head(flat), flat

    seen = []
    quantization_aware.train(
        Small(), task, tmp_path / "int8.onnx", inputs=inputs, steps=50,
        fine_tune=lambda module, steps: seen.append(steps),
    )  # fmt: skip
    assert seen == [40, 10]
    assert Counter(quantize.count_kernels(tmp_path / "int8.onnx"))["QGemm"] == 1
    assert capfd.readouterr().out == ""


def test_student_stays_as_it_is_while_its_copy_is_trained(task, inputs, tmp_path):
    class Plain(nn.Module):
        """No batch normalisation, whose folding would copy the weights by the way."""

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 4)

        def forward(self, x):
            embedding = torch.relu(self.body(x.float().flatten(1)))
            return self.head(embedding), embedding

    def shift(module, steps):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1.0)

    student = Plain()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    quantization_aware.train(student, task, tmp_path / "int8.onnx", inputs=inputs, fine_tune=shift, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
