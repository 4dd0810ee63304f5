"""onnxruntime's own telemetry: off before the first import, and nothing written under the user's folders."""

import os
import subprocess
import sys

import pytest

from tests.harness import ROOT
from tests.sim import bundles

AGENT = """
import os, sys, time
from pathlib import Path
import numpy as np

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("at import:", os.environ.get("ORT_DISABLE_TELEMETRY"))
        return None

sys.meta_path.insert(0, Watch())
from edge_agent import EdgeAgent
folder = Path(sys.argv[1])
agent = EdgeAgent.open(folder / "agent.toml")
for _ in range(20):
    agent.infer(np.zeros((8, 8), np.uint8))
agent.close()
time.sleep(float(sys.argv[2]))
"""

# What the agent must not be: the same model, the same calls, telemetry left as the maker ships it.
BARE = """
import sys, time
import numpy as np
import onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for _ in range(20):
    session.run(None, {"x": np.zeros((1, 8, 8), np.uint8)})
time.sleep(float(sys.argv[2]))
"""

WAIT_S = "1.0"


def run(code, *args, home):
    """In an environment without `CI`, which hides the telemetry, and with a home of its own."""
    home.mkdir()
    keep = ("PATH", "LANG", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in keep if name in os.environ}
    env |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    for name, folder in (("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data")):
        env[name] = str(home / folder)
    env["TMPDIR"] = str(home / "tmp")
    (home / "tmp").mkdir()
    return subprocess.run(
        [sys.executable, "-c", code, *args], env=env, cwd=home, capture_output=True, text=True, timeout=60, check=True
    )


def written(home):
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "device"
    folder.mkdir()
    bundles.make(folder / "factory.bundle")
    (folder / "agent.toml").write_text(
        f'site = "demo"\ndevice = "cam-1"\nstate_dir = "{folder}/state"\n'
        f'[tasks.digits]\nbundle = "{folder}/factory.bundle"\n'
    )
    return folder


def test_inference_writes_nothing_and_the_switch_is_set_before_the_import(folder, tmp_path):
    home = tmp_path / "home"
    done = run(AGENT, str(folder), WAIT_S, home=home)
    assert "at import: 1" in done.stdout.splitlines()
    assert written(home) == []


def test_the_test_above_would_notice_telemetry(folder, tmp_path):
    slot = bundles.unpacked(tmp_path / "slot")
    home = tmp_path / "home"
    run(BARE, str(slot / "model.onnx"), WAIT_S, home=home)
    if not written(home):
        pytest.skip("this build of onnxruntime writes no telemetry by itself, so there is nothing to notice")
    print(written(home))
    assert any("onnx" in name.lower() or "1ds" in name.lower() or "telemetry" in name.lower() for name in written(home))
