"""What other servers add to a request for the same model: CPU µs beyond the session's own run, at a steady rate.

python benchmarks/cloud_peers.py litserve mlserver bentoml    # each in a new environment below /tmp; several minutes

The model is the ResNet8 of `cloud.py`, the request the peer's usual JSON. One connection that is kept open asks 100
times a second; CPU is what the kernel counts for the server and all its processes.
"""

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cloud_scene import Bench  # noqa: E402  # after the path is set
from models import images  # noqa: E402  # after the path is set

from tests.harness import Process, free_port, wait_until  # noqa: E402  # after the path is set

RESULT = ROOT / "benchmarks" / "results" / "cloud-peers.json"
SIDE, RATE, SECONDS, WARM = 32, 100, 15, 100

_SESSION = """
import os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
def load():
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
"""

_LITSERVE = (
    _SESSION
    + """
import litserve
class Api(litserve.LitAPI):
    def setup(self, device):
        self.session = load()
    def decode_request(self, request):
        return np.asarray(request["x"], np.uint8).reshape(1, 32, 32, 3)
    def predict(self, x):
        return self.session.run(["logits"], {"image": x})[0][0]
    def encode_response(self, output):
        return {"logits": output.tolist()}
if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu").run(port=int(os.environ["PORT"]), generate_client_file=False)
"""
)

_MLSERVER = (
    _SESSION
    + """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
class Served(MLModel):
    async def load(self):
        self.session = load()
        return True
    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        logits = self.session.run(["logits"], {"image": x})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)])
"""
)

_BENTOML = (
    _SESSION
    + """
import bentoml
@bentoml.service(workers=1)
class Served:
    def __init__(self):
        self.session = load()
    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["logits"], {"image": x.astype(np.uint8).reshape(1, 32, 32, 3)})[0]
"""
)


@dataclass(frozen=True)
class Peer:
    """One server: what it runs, and how a picture is asked for."""

    source: str
    command: Callable[[Path, int], list[str]]
    path: str
    body: bytes
    files: tuple[tuple[str, str], ...] = ()


def peers() -> dict[str, Peer]:
    picture = images((SIDE, SIDE, 3), 1)
    flat = picture.reshape(-1).tolist()
    v2 = {"inputs": [{"name": "image", "shape": [1, SIDE, SIDE, 3], "datatype": "UINT8", "data": flat}]}
    settings = (
        ("settings.json", '{"http_port": PORT, "grpc_port": GRPC, "metrics_port": METRICS, "parallel_workers": 0}'),
        ("model-settings.json", '{"name": "m", "implementation": "served.Served"}'),
    )
    return {
        "litserve": Peer(
            _LITSERVE, lambda bin_, port: [f"{bin_}/python", "served.py"], "/predict", json.dumps({"x": flat}).encode()
        ),
        "mlserver": Peer(
            _MLSERVER,
            lambda bin_, port: [f"{bin_}/mlserver", "start", "."],
            "/v2/models/m/infer",
            json.dumps(v2).encode(),
            settings,
        ),
        "bentoml": Peer(
            _BENTOML,
            lambda bin_, port: [f"{bin_}/bentoml", "serve", "served:Served", "--port", str(port)],
            "/predict",
            json.dumps({"x": flat}).encode(),
        ),
    }


def measure(name: str, peer: Peer, folder: Path, model: Path) -> float:
    """CPU µs a request of the server and all its processes."""
    venv = Path(os.environ.get("CLOUD_PEERS", folder)) / name
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([f"{venv}/bin/pip", "install", "--quiet", name, "onnxruntime", "numpy"], check=True)
    port = free_port()
    (folder / "served.py").write_text(peer.source)
    ports = {"GRPC": free_port(), "METRICS": free_port(), "PORT": port}
    for file, text in peer.files:
        (folder / file).write_text(re.sub("GRPC|METRICS|PORT", lambda word: str(ports[word[0]]), text))
    environment = {
        "MODEL": str(model),
        "PORT": str(port),
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
    }
    environment |= {"BENTOML_DO_NOT_TRACK": "True", "LITSERVE_DISABLE_TELEMETRY": "1"}
    with Process(name, peer.command(venv / "bin", port), folder=folder, env=environment) as server:
        wait_until(lambda: asks(port, peer), timeout=120, what=f"{name} answers:\n{server.log_text()[-3000:]}")
        connection = http.client.HTTPConnection("127.0.0.1", port)
        steady(connection, peer, WARM)
        tree = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        before = cpu(tree)
        count = RATE * SECONDS
        steady(connection, peer, count)
        return (cpu(tree) - before) / count * 1e6


def asks(port: int, peer: Peer) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", peer.path, peer.body, {"Content-Type": "application/json"})
        return connection.getresponse().status == 200
    except OSError:
        return False


def steady(connection: http.client.HTTPConnection, peer: Peer, count: int) -> None:
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        connection.request("POST", peer.path, peer.body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()


def cpu(tree: list[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in tree)


def main() -> int:
    """Measure the named peers and keep the numbers beside the last ones."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as name, Bench(Path(name)) as bench:
        model = bench.model(SIDE)
        for peer in sys.argv[1:]:
            folder = Path(name) / peer
            folder.mkdir()
            before = bench.offline(SIDE, batch=1, seconds=3)["cpu_us"]
            served = measure(peer, peers()[peer], folder, model)
            own = statistics.mean([before, bench.offline(SIDE, batch=1, seconds=3)["cpu_us"]])
            found[peer] = {"added_us": served - own, "teacher_us": own, "load": os.getloadavg()[0]}
            print(peer, found[peer], flush=True)
            RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
