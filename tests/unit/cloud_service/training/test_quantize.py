from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cloud_service import runtime
from cloud_service.errors import ModelError
from cloud_service.tasks.networks import TinyMlp
from cloud_service.training import quantize
from cloud_service.training.evaluate import open_runner


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A float student and its int8 file at the demo's size."""
    from cloud_service.demo.factory import definition
    from cloud_service.tasks.task import TrainingSettings

    folder = tmp_path_factory.mktemp("digits")
    task = definition(folder, training=TrainingSettings())
    torch.manual_seed(0)
    student = TinyMlp(task)
    x = np.random.default_rng(0).integers(0, 17, (64, 8, 8)).astype(np.uint8)
    quantize.export_student(student, task, folder / "float.onnx")
    quantize.quantize(folder / "float.onnx", folder / "int8.onnx", inputs=x)
    return student, folder, x


def test_affine_quantizer_of_the_textbook_example_gives_191():
    # The source material says 192; 0.5 in [−1, 1] at 8 bits is round(191.25).
    assert quantize.affine(0.5, low=-1.0, high=1.0, bits=8) == 191


def test_affine_quantizer_clamps_what_lies_outside():
    assert quantize.affine([-1.5, -1.0, 1.0, 9.0], low=-1.0, high=1.0, bits=8).tolist() == [0, 0, 255, 255]


def test_negative_weights_survive_quantization(digits):
    student, folder, x = digits
    with torch.no_grad():
        expected = student(torch.from_numpy(x))[0].numpy()
    got = open_runner(folder / "int8.onnx")(x)
    assert (expected < 0).any()
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


def test_float_export_equals_torch_for_any_batch(digits):
    student, folder, x = digits
    run = open_runner(folder / "float.onnx")
    for count in (1, 2, 64):
        with torch.no_grad():
            expected = student(torch.from_numpy(x[:count]))[0].numpy()
        assert np.allclose(run(x[:count]), expected, atol=1e-5)


def test_int8_file_takes_raw_samples_and_is_small(digits):
    _, folder, x = digits
    session = runtime.load_session(folder / "int8.onnx")
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert [output.name for output in session.get_outputs()] == ["logits", "embedding"]
    assert session.run(None, {"input": x})[1].shape == (64, 72)
    assert (folder / "int8.onnx").stat().st_size < 8192


def test_int8_file_runs_on_integer_kernels_and_normalises_in_float(digits):
    _, folder, _ = digits
    kernels = quantize.count_kernels(folder / "int8.onnx")
    assert kernels["QGemm"] == 2
    assert kernels["Gemm"] == 0
    assert kernels["Mul"] == 1
    assert kernels["QLinearMul"] == 0


def test_weights_are_seven_bits_per_channel(digits):
    _, folder, _ = digits
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(folder / "int8.onnx").graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    ]
    assert len(weights) == 2
    for weight in weights:
        assert np.abs(weight.astype(int)).max() <= 64
        assert (np.abs(weight.astype(int)).max(axis=1) >= 63).all()


def test_compacted_file_keeps_no_shapes_metadata_or_long_names(digits):
    _, folder, _ = digits
    model = onnx.load(folder / "int8.onnx")
    assert not model.graph.value_info
    assert not model.metadata_props
    assert not any(node.metadata_props or node.name for node in model.graph.node)
    assert sum(tensor.data_type == onnx.TensorProto.INT32 for tensor in model.graph.initializer) == 2  # the biases
    inner = {tensor.name for tensor in model.graph.initializer}
    assert max(map(len, inner)) <= 2
    onnx.checker.check_model(model)


def test_quantizing_twice_gives_the_same_bytes(digits, tmp_path):
    _, folder, x = digits
    quantize.quantize(folder / "float.onnx", tmp_path / "again.onnx", inputs=x)
    assert (tmp_path / "again.onnx").read_bytes() == (folder / "int8.onnx").read_bytes()


def test_float_graph_is_not_taken_for_int8(digits):
    _, folder, _ = digits
    with pytest.raises(ModelError, match="in float"):
        quantize.check_integer_kernels(quantize.count_kernels(folder / "float.onnx"))


def test_graph_without_products_is_not_taken_for_int8():
    with pytest.raises(ModelError, match="nothing on integers"):
        quantize.check_integer_kernels(Counter({"Add": 1}))


def test_network_that_cannot_be_exported_says_which(task, tmp_path):
    class Undecided(nn.Module):
        def forward(self, x):
            return x.float() if x.float().sum().item() > 0 else x.float() * 2

    with pytest.raises(ModelError, match="Undecided cannot be exported"):
        quantize.export(Undecided(), task, tmp_path / "x.onnx", outputs=("logits",))
    assert not (tmp_path / "x.onnx").exists()
