"""The cloud's onnxruntime: telemetry off before the import, whoever needs it first, and nothing written anywhere."""

import pytest

from tests.sim.bundles import linear_model, weights
from tests.unit.edge_agent.test_telemetry_off import WAIT_S, run, written

SERVICE = """
import importlib, os, sys, time
import numpy as np

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("at import:", os.environ.get("ORT_DISABLE_TELEMETRY"))
        return None

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
from cloud_service.training.evaluate import open_runner
model = open_runner(open(sys.argv[2], "rb").read())
for _ in range(20):
    model(np.zeros((1, 8, 8), np.uint8))
time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize("first", ["cloud_service.service", "cloud_service.training.pipeline"])
def test_inference_writes_nothing_and_the_switch_is_set_before_the_import(first, tmp_path):
    (tmp_path / "model.onnx").write_bytes(linear_model(weights(64, 10)))
    home = tmp_path / "home"
    done = run(SERVICE, first, str(tmp_path / "model.onnx"), WAIT_S, home=home)
    assert done.stdout.splitlines() == ["at import: 1"]
    assert written(home) == []
