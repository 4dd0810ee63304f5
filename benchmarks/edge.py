"""What the agent costs a device: time beside the bare session, memory, the monitor, the start.

python benchmarks/edge.py            # installs the edge into a new environment, measures (3 minutes), writes the table
python benchmarks/edge.py --here     # with this environment instead: for a quick look while working
python benchmarks/edge.py --memory   # the memory alone, whatever else the machine does; writes the table
python benchmarks/edge.py --stages   # where `infer` spends its own time, and nothing else
python benchmarks/edge.py --table    # only writes the table from the last results

A ResNet8 with random weights in int8, 32×32×3 (`models.py`), a manifest whose threshold no sample reaches, and, for the
memory, a real Mosquitto that the agent is connected to. Everything is measured in processes of their own, in which
only what `pip install 'edgeloop[edge]'` brings is there.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models import images, resnet8_bundle  # noqa: E402  # after the path is set

from shared import bundle  # noqa: E402  # after the path is set
from tests.harness import Mosquitto  # noqa: E402  # after the path is set

RESULT = ROOT / "benchmarks" / "results" / "edge.json"
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- edge-table -->", "<!-- /edge-table -->"
PARTS = ROOT / "benchmarks" / "edge_parts.py"
SHAPE = (32, 32, 3)
SAMPLES = 1_000
REPEATS = 5
LOOKS = 500
SETTLED_S = 12.0  # longer than `edge_agent.footprint` waits


def main() -> int:
    """Measure, unless only the table is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="measure in this environment")
    parser.add_argument("--memory", action="store_true", help="measure the memory; all else stays as it was")
    parser.add_argument("--stages", action="store_true", help="only show where infer spends its time")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    if not options.table:
        with tempfile.TemporaryDirectory() as name:
            device = Device(Path(name), here=options.here or options.stages)
            if options.stages:
                for row in device.part("stages")["functions"]:
                    print(f"{row['own_us']:8.2f} µs {row['calls']:5.1f}×  {row['function']}")
                return 0
            found = {**json.loads(RESULT.read_text()), **memories(device)} if options.memory else measure(device)
        print(json.dumps(found, indent=2))
        if options.here:
            return 0
        RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{table(json.loads(RESULT.read_text()))}\n{END}{after}", encoding="utf-8")
    return 0


class Device:
    """A folder with a model, settings and, unless it is `here`, an environment with the edge alone."""

    def __init__(self, folder: Path, *, here: bool) -> None:
        self.folder = folder
        self.python = sys.executable if here else str(installed(folder / "venv"))
        resnet8_bundle(folder / "images.bundle", SHAPE, threshold=None)
        bundle.unpack(folder / "images.bundle", folder / "images")
        np.save(folder / "samples.npy", images(SHAPE, 64, seed=3))
        np.savez(folder / "stream.npz", x=images(SHAPE, 64, seed=3))
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT) if here else ""}

    def config(self, name: str, more: str = "") -> Path:
        """Settings of a device with a new state folder."""
        file = self.folder / f"{name}.toml"
        file.write_text(
            f'site = "bench"\ndevice = "edge"\nstate_dir = "{self.folder}/{name}-{time.monotonic_ns()}"\n'
            f'[tasks.images]\nbundle = "images.bundle"\naudit_fraction = 0.0\n{more}',
            encoding="utf-8",
        )
        return file

    def part(self, name: str, *arguments: str) -> dict[str, Any]:
        """Run one part of `edge_parts.py` and take what it prints."""
        arguments = arguments or (str(self.config(name)), str(self.folder / "samples.npy"))
        environment = {**self.environment, "EDGE_BENCH_SPAWNED_NS": str(time.monotonic_ns())}
        argv = [self.python, str(PARTS), name, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd=self.folder, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        return dict(json.loads(done.stdout.splitlines()[-1]))


def installed(folder: Path) -> Path:
    """A new environment with this checkout's edge and nothing else; returns its Python."""
    source = folder / "source"  # a build leaves files beside what it builds
    for name in ("shared", "edge_agent"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, f"{source}[edge]"], check=True)
    return python


def measure(device: Device) -> dict[str, Any]:
    """Everything, the quiet things first."""
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    found["latency"] = latency(device.part("latency"))
    found["start"] = {
        stamp: statistics.median(run[stamp] for run in runs)
        for runs in [[device.part("start") for _ in range(REPEATS)]]
        for stamp in runs[0]
    }
    found["monitor_look_us"] = device.part("monitor", str(device.config("monitor")), str(LOOKS))["look_us"]
    found["load"] = os.getloadavg()[0]
    return {**found, **memories(device)}


def memories(device: Device) -> dict[str, Any]:
    """What the agent and what it stands on take, MB; in turns."""
    pairs = [(control_memory(device), agent_memory(device)) for _ in range(3)]
    sizes = {
        name: {size: statistics.median(pair[index][size] for pair in pairs) for size in pairs[0][index]}
        for index, name in enumerate(("control", "agent"))
    }
    return {"memory": sizes}


def latency(times: dict[str, list[list[float]]]) -> dict[str, Any]:
    """p50 and p99 of each contender, and what `infer` takes beyond the session, block by block."""
    flat = {name: np.concatenate(blocks) for name, blocks in times.items()}
    found: dict[str, Any] = {
        name: {"p50_us": float(np.percentile(values, 50)), "p99_us": float(np.percentile(values, 99))}
        for name, values in flat.items()
    }
    above = [np.median(ours) - np.median(raw) for ours, raw in zip(times["infer"], times["session"], strict=True)]
    found["above_session_us"] = {"p50": float(np.median(above)), "p90": float(np.percentile(above, 90))}
    found["p99_above_session_us"] = found["infer"]["p99_us"] - found["session"]["p99_us"]
    found["ratio"] = found["infer"]["p50_us"] / found["session"]["p50_us"]
    return found


def agent_memory(device: Device) -> dict[str, float]:
    """`edge-agent run`, connected: after its first 1,000 samples, and later, still answering, when it has settled."""
    source = '[[tasks.images.sources]]\nkind = "replay"\npath = "stream.npz"\nrepeat = true\nrate_hz = 200.0\n'
    with Mosquitto(device.folder / f"mosquitto-{time.monotonic_ns()}") as broker:
        more = f"{source}[broker]\nport = {broker.port}\n[telemetry]\nsave_interval_s = 0.5\n"
        config = device.config("agent", more)
        ledger = Path(config.read_text().split('state_dir = "')[1].split('"')[0]) / "ledger.json"
        argv = [device.python, "-m", "edge_agent.cli", "run", "--config", str(config)]
        log = device.folder / "agent.log"
        with (
            log.open("w") as output,
            subprocess.Popen(argv, stdout=output, stderr=output, env=device.environment, cwd=device.folder) as agent,
        ):
            try:
                until_s = time.monotonic() + 60
                while answered(ledger) < SAMPLES or "connected to broker" not in log.read_text():
                    if time.monotonic() > until_s or agent.poll() is not None:
                        sys.exit(f"the agent did not answer {SAMPLES:,} samples, connected:\n{log.read_text()}")
                    time.sleep(0.2)
                first = memory(agent.pid)
                time.sleep(SETTLED_S)
                if agent.poll() is not None:
                    sys.exit(f"the agent has ended:\n{log.read_text()}")
                return {**memory(agent.pid), **{f"first_{size}": value for size, value in first.items()}}
            finally:
                agent.terminate()


def answered(ledger: Path) -> int:
    """Samples that the agent counts as answered."""
    try:
        return sum(int(counts["inferences"]) for counts in json.loads(ledger.read_bytes())["tasks"].values())
    except (OSError, ValueError, KeyError):
        return 0


def control_memory(device: Device) -> dict[str, float]:
    """Python, numpy, paho, pydantic, onnxruntime and a session that ran as often."""
    argv = [device.python, str(PARTS), "control", str(device.folder / "images/model.onnx")]
    argv.append(str(device.folder / "samples.npy"))
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=device.environment, cwd=device.folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = memory(process.pid)
        process.communicate(b"")
        return found


def memory(pid: int) -> dict[str, float]:
    """Of a process, MB, by proc(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(size) / 1024 for name, size, *_ in (line.split() for line in lines)}
    return {"rss_mb": sizes["Rss:"], "pss_mb": sizes["Pss:"]}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    times, start, memories = found["latency"], found["start"], found["memory"]
    p50 = {name: times[name]["p50_us"] for name in ("session", "engine", "engine_both", "infer")}
    above = f"**{times['above_session_us']['p50']:.0f} µs** p50 ({p50['session']:.0f} → {p50['infer']:.0f}, "
    above += f"{times['ratio']:.2f}×); p99 {times['p99_above_session_us']:+.0f} µs"
    own = f"{p50['engine'] - p50['session']:.1f} and {p50['engine_both'] - p50['engine']:.1f} µs"
    agent, control = (
        f"{memories[n]['rss_mb']:.0f} MB RSS, {memories[n]['pss_mb']:.0f} MB PSS" for n in ("agent", "control")
    )
    first = f"{memories['agent']['first_rss_mb']:.0f} MB RSS, {memories['agent']['first_pss_mb']:.0f} MB PSS"
    stamps = [start[name] for name in ("python", "imports", "open", "answer")]
    python, imports, opening, answer = (after - before for before, after in zip([0.0, *stamps], stamps, strict=False))
    took = f": Python {python:.2f}, imports {imports:.2f}, open {opening:.2f}, answer {answer:.3f}"
    rows = [
        ("`EdgeAgent.infer`, an easy sample, above raw `session.run`", "≤ 40 µs p50", above),
        ("… of which the engine's own; and the embedding beside the logits", "", own),
        (
            f"memory of `edge-agent run` after {SAMPLES:,} samples, connected, no HTTP",
            "≤ 90 MB RSS, ≤ 75 MB PSS",
            f"**{agent}**",
        ),
        (f"… when its first {SAMPLES:,} are answered, the start's memory not yet given back", "", first),
        ("… Python, numpy, paho, pydantic, onnxruntime and a session alone", "", control),
        (
            "monitor at 1 Hz",
            "≤ 0.15 % of a core",
            f"**{found['monitor_look_us'] / 1e4:.3f} %** ({found['monitor_look_us']:.0f} µs a look)",
        ),
        (
            "from a new process to its first answer",
            "≤ 1 s",
            f"**{start['answer']:.2f} s**{took}",
        ),
    ]
    lines = ["| what | goal | measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    note = f"ResNet8 int8, 32×32×3, {found['machine']}, {found['cores']} cores, Python {found['python']}. "
    note += "Times are of one process in which the contenders take turns; memory is the middle of three runs. "
    note += "Written by `benchmarks/edge.py` from `benchmarks/results/edge.json`."
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    sys.exit(main())
