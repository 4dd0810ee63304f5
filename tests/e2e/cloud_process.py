"""A cloud service as a process of its own, with a teacher that reads the label off the sample."""

import json
import urllib.request
from pathlib import Path

import numpy as np

from shared.mqtt import BrokerSettings, connector
from tests.sim.bundles import LABELS, linear_model, sample, weights
from tests.sim.device import BareDevice

SITE = "demo"


class Cloud:
    """A service's folder, settings and process."""

    def __init__(self, folder: Path, broker, http_port: int, processes):
        self.folder, self.broker, self.http_port, self.processes = folder, broker, http_port, processes
        folder.mkdir(exist_ok=True)
        (folder / "teacher.onnx").write_bytes(linear_model(weights(64, 10), nan=True))
        x = np.stack([sample(label % 10) for label in range(40)])
        y = np.arange(40) % 10
        np.savez(folder / "base.npz", x=x, y=y, x_eval=x, y_eval=y)
        self.config = folder / "cloud.toml"
        self.config.write_text(f"""
site = "{SITE}"
data_dir = "data"
[broker]
port = {broker.port}
reconnect_first_s = 0.1
reconnect_cap_s = 0.5
[http]
port = {http_port}
[tasks.digits]
labels = {json.dumps(LABELS)}
input_shape = [8, 8]
input_dtype = "uint8"
teacher = "teacher.onnx"
base_data = "base.npz"
""")

    def start(self, *arguments: str):
        process = self.processes.service(self.config, *arguments)
        process.wait_for_log("listening to the devices", timeout=40)
        return process

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=10) as answer:
            return json.load(answer)

    def samples(self) -> list[dict]:
        return self.get("/api/v1/samples?limit=1000")["items"]


def device(broker, name: str = "cam-1") -> BareDevice:
    return BareDevice(connector(BrokerSettings(port=broker.port)), SITE, name)
