"""What a teacher costs by backend, and what an ensemble and test-time augmentation add.

python benchmarks/teachers.py            # measures (a minute) and writes the table in docs/benchmarks.md
python benchmarks/teachers.py --table    # only writes the table from the last results

One network of ResNet8's size, trained for a moment on pictures made here so that its answers mean something, in the
forms that the service would hold against each other: torch eager, ONNX in float, ONNX in int8; then two of it as an
ensemble, and one with four views of each sample. All take turns in one process, one thread each, batches of 1 and of 8.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cloud_service.tasks.task import TaskDefinition
from cloud_service.teacher import torch_network
from cloud_service.teacher.composition import Member, compose
from cloud_service.teacher.model import Network
from cloud_service.teacher.onnx_network import open_onnx
from cloud_service.teacher.timing import fitting_clock, interleaved_us
from cloud_service.training import quantize

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "teachers.json"
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- teachers-table -->", "<!-- /teachers-table -->"
SHAPE, CLASSES, VIEWS = (32, 32, 3), 10, 4
STEPS, CHECKED, ROUNDS, BUDGET_S = 150, 1_000, 400, 30.0
SIZES = (1, 8)


def main() -> int:
    """Measure, unless only the table is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only write the table")
    if not parser.parse_args().table:
        with tempfile.TemporaryDirectory() as folder:
            result = measured(Path(folder))
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_table(table(json.loads(RESULT.read_text(encoding="utf-8"))))
    return 0


class ResNet8(nn.Module):
    """Three stages of one residual block: 78,000 weights. Raw uint8 [N, 32, 32, 3] to (logits, embedding)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 16)
        self.first, self.second = nn.ModuleList(), nn.ModuleList()
        self.short = nn.ModuleList([nn.Identity(), _conv(16, 32, size=1, stride=2), _conv(32, 64, size=1, stride=2)])
        for given, made, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            self.first.append(_conv(given, made, stride=stride))
            self.second.append(_conv(made, made))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.stem(x.permute(0, 3, 1, 2).float() / 64.0 - 2.0))
        for first, second, short in zip(self.first, self.second, self.short, strict=True):
            h = torch.relu(short(h) + second(torch.relu(first(h))))
        embedding = h.mean((2, 3))
        return self.head(embedding), embedding


def _conv(given: int, made: int, *, size: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(given, made, size, stride, size // 2, bias=False), nn.BatchNorm2d(made))


def pictures(count: int, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Ten coarse patterns under noise that makes some of them hard."""
    patterns = np.random.default_rng(0).normal(0.0, 12.0, (CLASSES, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    noisy = 128.0 + patterns[y] + rng.normal(0.0, 40.0, (count, *SHAPE))
    return np.clip(noisy, 0, 255).astype(np.uint8), y


def trained(seed: int, x: NDArray[np.uint8], y: NDArray[np.int64]) -> nn.Module:
    torch.manual_seed(seed)
    network, rng = ResNet8(), np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(STEPS):
        chosen = rng.integers(0, len(x), 64)
        loss = functional.cross_entropy(network(torch.from_numpy(x[chosen]))[0], torch.from_numpy(y[chosen]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(requires_grad=False)


def views(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The samples, mirrored ones, and both a pixel aside."""
    both = [samples, samples[:, :, ::-1]]
    return np.stack([*both, *(np.roll(view, 1, axis=2) for view in both)])


def measured(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    task = TaskDefinition.model_validate(
        {
            "name": "pictures",
            "labels": [f"class-{index}" for index in range(CLASSES)],
            "input_shape": SHAPE,
            "input_dtype": "uint8",
            "teacher": "none.onnx",
            "base_data": "none.npz",
        }
    )
    x, y = pictures(2_000, seed=1)
    checked, labels = pictures(CHECKED, seed=2)
    modules = [trained(seed, x, y) for seed in (0, 1)]
    for index, module in enumerate(modules):
        torch_network.export(module, task, folder / f"{index}.onnx")
    quantize.quantize(folder / "0.onnx", folder / "int8.onnx", inputs=x[:128])
    plain, second = open_onnx(folder / "0.onnx"), open_onnx(folder / "1.onnx")
    contenders: dict[str, Network] = {
        "torch, eager": torch_network.open_torch(modules[0]),
        "onnxruntime, float": plain,
        "onnxruntime, int8": open_onnx(folder / "int8.onnx"),
        "ensemble of two, float": compose([Member(plain), Member(second)]),
        f"{VIEWS} views, float": compose([Member(plain, views=views)]),
    }
    sizes, clock = [SIZES] * len(contenders), fitting_clock(threads=1, on_cpu=True)
    times = interleaved_us(
        list(contenders.values()), checked, sizes=sizes, rounds=ROUNDS, budget_s=BUDGET_S, clock=clock
    )
    answers = {name: network(checked).logits.argmax(axis=1) for name, network in contenders.items()}
    source = answers["torch, eager"]
    return {
        "contenders": {
            name: {
                "us": {str(size): spent for size, spent in us.items()},
                "agreement": float((answers[name] == source).mean()),
                "accuracy": float((answers[name] == labels).mean()),
            }
            for (name, _), us in zip(contenders.items(), times, strict=True)
        },
        "checked": CHECKED,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}",
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: a row a contender."""
    lines = [
        "| ResNet8, 32×32×3 | a sample alone | in batches of 8 | against eager | answers as eager | right |",
        "|---|---|---|---|---|---|",
    ]
    eager = result["contenders"]["torch, eager"]["us"]["8"]
    for name, found in result["contenders"].items():
        alone, eight = (found["us"][str(size)] for size in SIZES)
        lines.append(
            f"| {name} | {alone:.0f} µs | {eight:.0f} µs | {eager / eight:.2f}× "
            f"| {found['agreement']:.1%} | {found['accuracy']:.1%} |"
        )
    lines += ["", f"{result['machine']}; processor time, the shortest seen; {result['checked']:,} samples checked."]
    return "\n".join(lines)


def write_table(text: str) -> None:
    """Put the table between its marks; the section is begun where it is not there."""
    page = PAGE.read_text(encoding="utf-8")
    if START not in page:
        page += f"\n\n## Teachers\n\nWritten by `benchmarks/teachers.py`, which says more.\n\n{START}\n{END}\n"
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
