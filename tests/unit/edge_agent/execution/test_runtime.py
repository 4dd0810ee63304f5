import json
import os
import subprocess
import sys

import numpy as np
import pytest

from edge_agent.execution import runtime
from edge_agent.execution.choice import SAFE, Choice, Kernels, Provider
from tests.sim import bundles

ENTRY = "session.disable_quant_qdq"


@pytest.fixture
def quantized(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(bundles.quantized_model(bundles.weights(64, 10)))
    return file


def test_telemetry_is_off_before_the_import():
    code = "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None); import edge_agent.execution.runtime; "
    code += "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "1"


def test_available_has_the_cpu_last():
    assert runtime.available()[-1] is Provider.CPU


def test_every_provider_has_its_name():
    assert set(runtime.NAMES) == set(Provider)


def test_float_kernels_compute_the_same_from_the_same_file(quantized):
    shipped = runtime.open_session(quantized, SAFE)
    floats = runtime.open_session(quantized, Choice(kernels=Kernels.FLOAT))
    x = np.random.default_rng(0).integers(0, 17, (1, 8, 8)).astype(np.uint8)
    np.testing.assert_allclose(
        shipped.run(["logits"], {"x": x})[0], floats.run(["logits"], {"x": x})[0], atol=0.11
    )  # one step of the output's rounding
    assert floats.get_session_options().get_session_config_entry(ENTRY) == "1"
    with pytest.raises(RuntimeError):
        shipped.get_session_options().get_session_config_entry(ENTRY)


def test_threads_are_those_of_the_choice(quantized):
    assert runtime.open_session(quantized, Choice(threads=2)).get_session_options().intra_op_num_threads == 2
    assert runtime.open_session(quantized, SAFE).get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("choice", "asked"),
    [
        (SAFE, ["CPUExecutionProvider"]),
        (Choice(Provider.CUDA), ["CUDAExecutionProvider", "CPUExecutionProvider"]),
        (
            Choice(Provider.XNNPACK, 3),
            [["XnnpackExecutionProvider", {"intra_op_num_threads": "3"}], "CPUExecutionProvider"],
        ),
        (
            Choice(Provider.OPENVINO, 2),
            [["OpenVINOExecutionProvider", {"num_of_threads": "2"}], "CPUExecutionProvider"],
        ),
    ],
)
def test_what_a_provider_does_not_take_runs_on_the_cpu(choice, asked):
    assert json.loads(json.dumps(runtime._providers(choice))) == asked
