import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloud_service.preprocessing.log_mel import fourier_kernels
from cloud_service.tasks.compression import Weights
from cloud_service.training import narrow
from cloud_service.training.evaluate import open_runner
from cloud_service.training.fourier import make_kernels_on_loading
from cloud_service.training.integer_graph import count_kernels

SOUND = np.random.default_rng(0).normal(0, 0.3, (3, 1, 900)).astype(np.float32)


def convolution(kernels):
    """A model that convolves a sound with these kernels [2·bins, window]."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "preprocessing.fourier"], ["logits"], strides=[50])],
        "fourier",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, 900])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "parts", "times"])],
        [numpy_helper.from_array(kernels[:, None], "preprocessing.fourier")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("window", [200, 201, 256])
def test_kernels_are_left_out_of_the_file_and_every_bit_of_the_answer_stays(tmp_path, window):
    model = convolution(fourier_kernels(window))
    before, exact = model.ByteSize(), open_runner(model.SerializeToString())(SOUND)
    make_kernels_on_loading(model)
    onnx.checker.check_model(model)
    assert model.ByteSize() < 0.04 * before
    assert np.array_equal(open_runner(model.SerializeToString())(SOUND), exact)
    onnx.save(model, tmp_path / "model.onnx")
    assert dict(count_kernels(tmp_path / "model.onnx")) == {"Conv": 1}  # the rest was run while loading


def test_halves_keep_every_digit_of_the_kernels(tmp_path):
    onnx.save(convolution(fourier_kernels(200)), tmp_path / "float.onnx")
    narrow.write(tmp_path / "float.onnx", tmp_path / "halves.onnx", weights=Weights.FP16)
    exact = open_runner(tmp_path / "float.onnx")(SOUND)
    assert np.array_equal(open_runner(tmp_path / "halves.onnx")(SOUND), exact)


def test_kernels_that_are_others_stay():
    changed = fourier_kernels(200)
    changed[3, 7] = np.nextafter(changed[3, 7], np.float32(1.0))
    for kernels in (changed, fourier_kernels(200)[:-1]):
        model = convolution(kernels)
        before = model.SerializeToString()
        make_kernels_on_loading(model)
        assert model.SerializeToString() == before
