import numpy as np
import onnx
import pytest

from cloud_service.teacher.onnx_network import open_onnx
from tests.sim.bundles import linear_model, sample, weights

X = np.stack([sample(3), sample(7)])


def test_onnx_file_gives_logits_and_no_embedding_where_it_has_none(tmp_path):
    file = tmp_path / "m.onnx"
    file.write_bytes(linear_model(weights(64, 10)))
    given = open_onnx(file)(X)
    assert given.logits.argmax(axis=1).tolist() == [3, 7]
    assert given.embedding is None


@pytest.mark.parametrize("threads", [1, 2])
def test_onnx_file_gives_its_embedding(tmp_path, threads):
    file = tmp_path / "m.onnx"
    file.write_bytes(linear_model(weights(64, 10), embedding=True))
    given = open_onnx(file, threads=threads)(X)
    assert given.embedding.shape == (2, 64)
    assert given.embedding[0, 3] == 16.0


@pytest.mark.parametrize("embedding", [True, False])
def test_onnx_file_for_one_sample_is_run_for_each(tmp_path, embedding):
    made = onnx.load_from_string(linear_model(weights(64, 10), embedding=embedding))
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(made, tmp_path / "one.onnx")
    given = open_onnx(tmp_path / "one.onnx")(X)
    assert given.logits.argmax(axis=1).tolist() == [3, 7]
    assert (given.embedding is not None) == embedding
