"""What benchmarks/edge.py measures, each in a process of its own that has only what a device has.

python edge_parts.py PART ARGUMENTS…   # prints one JSON line
"""

import cProfile
import gc
import json
import os
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = 200
BLOCK = 25  # calls of one contender before the next takes its turn; the first three of each are not counted
BLOCKS = 160
STAMPS = "EDGE_BENCH_SPAWNED_NS"


def main() -> int:
    """Run one part."""
    part, *arguments = sys.argv[1:]
    parts: dict[str, Callable[..., dict[str, Any]]] = {
        "latency": latency,
        "stages": stages,
        "start": start,
        "control": control,
        "monitor": monitor,
    }
    print(json.dumps(parts[part](*arguments)), flush=True)
    if part == "control":
        sys.stdin.read()  # its memory is being looked at
    return 0


def latency(config: str, samples: str) -> dict[str, Any]:
    """`infer` on easy samples, the engine and the bare session on the same ones, in turns in one process."""
    import numpy as np

    from edge_agent import EdgeAgent
    from edge_agent.execution.engine import Engine

    pictures = np.load(samples)
    with EdgeAgent.open(config) as agent:
        folder = next((agent.settings.state_dir / "tasks").iterdir()) / "a"
        engine = Engine(folder)
        raw = bare_session(folder / "model.onnx")
        names = [engine.manifest.outputs.logits]
        feeds = [{"image": picture[np.newaxis]} for picture in pictures]
        contenders: dict[str, Callable[[int], Any]] = {
            "session": lambda i: raw.run(names, feeds[i]),
            "engine": lambda i: engine.run(pictures[i]),
            "engine_both": lambda i: engine.run_both(pictures[i]),
            "infer": lambda i: agent.infer(pictures[i]),
        }
        return in_turns(contenders, len(pictures))


def in_turns(contenders: dict[str, Callable[[int], Any]], count: int) -> dict[str, list[list[float]]]:
    """Microseconds: contender → blocks of calls, block by block beside the others'."""
    for call in contenders.values():
        for index in range(WARM_UP):
            call(index % count)
    times: dict[str, list[list[float]]] = {name: [] for name in contenders}
    order = list(contenders)
    gc.collect()
    for block in range(BLOCKS):
        for name in order if block % 2 else reversed(order):
            call, taken = contenders[name], []
            for index in range(BLOCK):
                before = time.perf_counter_ns()
                call((block * BLOCK + index) % count)
                taken.append((time.perf_counter_ns() - before) / 1000)
            times[name].append(taken[3:])
    return times


def stages(config: str, samples: str) -> dict[str, Any]:
    """Where `infer` spends its own time: function → µs a call of `infer`, by the profiler, which slows small ones."""
    import numpy as np

    from edge_agent import EdgeAgent

    pictures = np.load(samples)
    runs = 4_000
    with EdgeAgent.open(config) as agent:
        for index in range(WARM_UP):
            agent.infer(pictures[index % len(pictures)])
        profile = cProfile.Profile(builtins=False)
        profile.enable()
        for index in range(runs):
            agent.infer(pictures[index % len(pictures)])
        profile.disable()
    rows = []
    for (file, line, name), (_, calls, own, *_rest) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]  # typeshed
        where = Path(file).as_posix().split("site-packages/")[-1]
        rows.append((own / runs * 1e6, calls / runs, f"{where}:{line} {name}"))
    rows.sort(reverse=True)
    return {"functions": [{"own_us": own, "calls": calls, "function": name} for own, calls, name in rows[:25]]}


def start(config: str, samples: str) -> dict[str, Any]:
    """From the process's birth to its first answer, seconds."""
    spawned_s = int(os.environ[STAMPS]) / 1e9

    def now() -> float:
        return time.monotonic() - spawned_s

    stamps = {"python": now()}
    import numpy as np

    from edge_agent import EdgeAgent

    stamps["imports"] = now()
    with EdgeAgent.open(config) as agent:
        stamps["open"] = now()
        agent.infer(np.load(samples)[0])
        stamps["answer"] = now()
    return stamps


def control(model: str, samples: str) -> dict[str, Any]:
    """What the agent stands on and nothing else: libraries and a session, 1,000 runs."""
    import numpy as np
    import paho.mqtt.client
    import pydantic

    session = bare_session(Path(model))
    name = session.get_inputs()[0].name
    pictures = np.load(samples)
    for index in range(1_000):
        session.run(["logits"], {name: pictures[index % len(pictures)][np.newaxis]})
    return {"modules": [paho.mqtt.client.__name__, pydantic.__name__]}


def monitor(config: str, looks: str) -> dict[str, Any]:
    """Processor time of one look of the monitor, µs: sensors and the decision over them."""
    from edge_agent.deciding.pressure import Pressure
    from edge_agent.host.resources import Sensors
    from edge_agent.settings import AgentSettings

    settings = AgentSettings.read(Path(config))
    sensors = Sensors(settings.pressure, settings.state_dir)
    pressure = Pressure(settings.pressure)
    for _ in range(50):
        pressure.observe(sensors.read(link_up=True, round_trip_s=0.02), time.monotonic())
    count, began_s = int(looks), time.process_time()
    for _ in range(count):
        pressure.observe(sensors.read(link_up=True, round_trip_s=0.02), time.monotonic())
    return {"look_us": (time.process_time() - began_s) / count * 1e6}


def bare_session(model: Path) -> Any:
    """onnxruntime as the agent opens it, without the agent."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    sys.exit(main())
