"""Sets the demo's stage: which device sees which images, and the settings files that a user would write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_service.demo.data import AUGMENT, LABELS, MAX_MODEL_BYTES, SHAPE, DemoData

TASK, SITE = "digits", "demo"
STREAM_RATE_HZ, EXAM_RATE_HZ = 25.0, 30.0
STREAM_AUDITS, EXAM_AUDITS = 0.2, 0.02
# A reference below this is an image of the field test set, from here on one of the stream.
STREAM_REFERENCE = 1_000_000


@dataclass(frozen=True, slots=True)
class Ports:
    """Loopback ports of one demo."""

    broker: int
    http: int


@dataclass(frozen=True, slots=True)
class Device:
    """One simulated device: its files and how many images of each kind it sees."""

    name: str
    config: Path
    outcomes: Path
    exam_size: int
    stream_size: int


def set_stage(folder: Path, data: DemoData, *, devices: int, ports: Ports) -> tuple[Path, list[Device]]:
    """Write the service's settings and each device's settings and images; the factory's files lie in `folder` already.

    Returns:
        The service's settings file and the devices.
    """
    exam = np.array_split(np.arange(len(data.field_test.x)), devices)
    stream = np.array_split(np.arange(len(data.field_stream.x)), devices)
    fleet = []
    for number in range(devices):
        name = f"device-{number + 1}"
        home = folder / name
        home.mkdir()
        _save(home / "exam.npz", data.field_test.x, exam[number], offset=0)
        _save(home / "stream.npz", data.field_stream.x, stream[number], offset=STREAM_REFERENCE)
        config = home / "agent.toml"
        config.write_text(_agent_toml(name, home, folder / "factory.bundle", ports))
        fleet.append(Device(name, config, home / "outcomes.jsonl", len(exam[number]), len(stream[number])))
    service = folder / "cloud.toml"
    service.write_text(_cloud_toml(folder, ports))
    return service, fleet


def _save(file: Path, x: NDArray[Any], indices: NDArray[np.intp], *, offset: int) -> None:
    np.savez(file, x=x[indices], reference=indices + offset)


def _agent_toml(name: str, home: Path, bundle: Path, ports: Ports) -> str:
    exam = f"""
[[tasks.{TASK}.sources]]           # held-out images: answered, never kept, never trained on
kind = "replay"
path = {_text(home / "exam.npz")}
rate_hz = {EXAM_RATE_HZ}
training_use = false
audit_fraction = {EXAM_AUDITS}
"""
    return f"""site = "{SITE}"
device = "{name}"
state_dir = {_text(home / "state")}

[broker]
port = {ports.broker}

[outcomes]
path = {_text(home / "outcomes.jsonl")}

[pressure]                         # this machine's load is the training's, not the device's
audits_factor = 1.0
climb_s = 1e9

[telemetry]
interval_s = 1.0
save_interval_s = 2.0

[tasks.{TASK}]
bundle = {_text(bundle)}
offload = "hard+audit"
audit_fraction = {STREAM_AUDITS}
sources_in_turn = true
duplicates = {{ distance = 0.0 }}    # every image of the stream is one to learn from
{exam}
[[tasks.{TASK}.sources]]           # the unlabelled field stream
kind = "replay"
path = {_text(home / "stream.npz")}
rate_hz = {STREAM_RATE_HZ}
{exam}repeat = true
"""


def _cloud_toml(folder: Path, ports: Ports) -> str:
    return f"""site = "{SITE}"
data_dir = {_text(folder / "cloud")}

[broker]
port = {ports.broker}

[http]
port = {ports.http}

[tasks.{TASK}]
labels = {json.dumps(LABELS)}
input_shape = {list(SHAPE)}
input_dtype = "uint8"
teacher = {_text(folder / "teacher.onnx")}
base_data = {_text(folder / "base.npz")}
student = "cloud_service.tasks.networks:TinyMlp"
augment = "{AUGMENT}"
rollout = "auto"

[tasks.{TASK}.training.gate]
max_model_bytes = {MAX_MODEL_BYTES}
"""


def _text(path: Path) -> str:
    return json.dumps(str(path))
