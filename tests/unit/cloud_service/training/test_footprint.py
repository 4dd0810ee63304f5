import sys

import numpy as np
import pytest

from cloud_service.errors import ModelError
from cloud_service.training.footprint import session_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak memory")


def test_session_takes_what_its_weights_take(tmp_path):
    small, large = _weights(tmp_path / "small.onnx", 1), _weights(tmp_path / "large.onnx", 2_000_000)
    sample = np.zeros(4, np.float32)
    little, much = session_bytes(small, sample), session_bytes(large, sample)
    assert 0 <= little < 40_000_000  # with onnxruntime's own pages, about 11 MB
    assert much - little > 8_000_000  # eight million bytes of weights


def test_file_that_is_no_model_says_so(tmp_path):
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"broken\.onnx does not run on its own"):
        session_bytes(file, np.zeros(4, np.float32))


def _weights(file, count):
    """logits = x + the first of `count` weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=count).astype(np.float32), "w")
    nodes = [
        helper.make_node("Gather", ["w", "first"], ["picked"]),
        helper.make_node("Add", ["input", "picked"], ["logits"]),
    ]
    index = numpy_helper.from_array(np.array(0, np.int64), "first")
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
        [weight, index],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, file)
    return file
