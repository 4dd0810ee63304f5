"""The cloud service with an ensemble, one of it a torch module: converted at the first start, ready at the next."""

from pathlib import Path

import pytest

from tests.e2e.cloud_process import Cloud, device
from tests.sim import teachers
from tests.sim.bundles import sample

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ENSEMBLE = f"""
[[tasks.digits.teacher]]
model = "{teachers.FACTORY}"
weights = "w.safetensors"
backend = "onnxruntime-int8"

[[tasks.digits.teacher]]
model = "teacher.onnx"
"""


def memory_map(process) -> str:
    return Path(f"/proc/{process.pid}/maps").read_text()


async def test_ensemble_is_converted_once_and_served_without_torch(tmp_path, mosquitto, processes, free_port):
    cloud = Cloud(tmp_path / "cloud", mosquitto, free_port(), processes)
    teachers.save_weights(cloud.folder / "w.safetensors")
    cloud.config.write_text(cloud.config.read_text().replace('teacher = "teacher.onnx"\n', "") + ENSEMBLE)
    versions, logs = set(), []
    for start in (1, 2):
        process = cloud.processes.service(cloud.config)
        process.wait_for_log("listening to the devices", timeout=90)
        async with device(mosquitto) as cam:
            sent = await cam.send(sample(2 + start))
            verdict = await cam.verdict(sent.sample_id)
        assert verdict.prediction == 2 + start
        versions |= {verdict.teacher, cloud.get("/healthz")["teachers"]["digits"]}
        assert "onnxruntime" in memory_map(process)
        assert "libtorch" not in memory_map(process)
        process.stop()
        logs.append(process.log_text())
    assert len(versions) == 1
    assert versions.pop().startswith("ensemble2-")
    assert "converting and measuring" in logs[0]
    assert "converting and measuring" not in logs[1]
    assert "runs on onnxruntime-int8 as measured before" in logs[1]
