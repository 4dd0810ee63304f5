from typing import get_args

import pytest

from edge_agent.server import metadata
from shared import __version__
from shared.manifest import Dtype
from tests.sim.served_agent import manifest


def test_server_says_who_it_is_and_what_it_adds_to_the_protocol():
    said = metadata.server_metadata()
    assert (said["name"], said["version"]) == ("edgeloop", __version__)
    assert "binary_tensor_data" in said["extensions"]


@pytest.mark.parametrize("dtype", get_args(Dtype))
def test_model_of_every_dtype_that_a_manifest_may_have_is_described(dtype):
    said = metadata.model_metadata("digits", manifest(shape=(32, 32, 3), dtype=dtype, version="v2"))
    assert (said["name"], said["versions"], said["platform"]) == ("digits", ["v2"], "onnxruntime_onnx")
    (tensor,) = said["inputs"]
    assert (tensor["name"], tensor["shape"]) == ("input", [-1, 32, 32, 3])
    assert tensor["datatype"] == {"u": "UINT", "i": "INT", "f": "FP"}[dtype[0]] + "".join(filter(str.isdigit, dtype))
    assert {"name": "label", "datatype": "BYTES", "shape": [-1]} in said["outputs"]
    assert {"name": "confidence", "datatype": "FP32", "shape": [-1]} in said["outputs"]


def test_model_configuration_leaves_the_batch_axis_out():
    said = metadata.model_config("digits", manifest(), max_batch=16)
    assert (said["name"], said["max_batch_size"]) == ("digits", 16)
    assert said["input"] == [{"name": "input", "data_type": "TYPE_UINT8", "dims": [8, 8]}]
    assert {"name": "label", "data_type": "TYPE_STRING", "dims": []} in said["output"]
