"""What the cloud service costs beyond its teacher, and what it holds.

python benchmarks/cloud.py                 # everything (25 minutes), and the table in docs/benchmarks.md
python benchmarks/cloud.py --quick         # the same in about eight minutes: shorter windows, one minute of overload
python benchmarks/cloud.py --only cost     # one part again; the others keep their last numbers
python benchmarks/cloud.py --table         # only writes the table from the last results

Mosquitto, the service, a simulated fleet (`edgeloop simulate`) and a ResNet8 in int8 as the teacher, each a process of
its own on one machine. CPU is what the kernel counts for the service's process; the teacher's own share is taken off as
the same session needs for the same sample alone in a loop.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cloud_scene import Bench  # noqa: E402  # after the path is set
from cloud_table import table  # noqa: E402  # after the path is set

from tests.harness.postgres import Postgres, find_postgres  # noqa: E402  # after the path is set

RESULT = ROOT / "benchmarks" / "results" / "cloud.json"
PEERS = RESULT.with_name("cloud-peers.json")  # written by cloud_peers.py
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- cloud-table -->", "<!-- /cloud-table -->"
SMALL, LARGE = 32, 128
LOADS = (0.25, 0.5, 0.9, 2.0)


def main() -> int:
    """Measure, unless only the table is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter windows")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--table", action="store_true", help="only write the table")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if not options.table:
        for name in options.only or PARTS:
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory() as folder, Bench(Path(folder)) as bench:
                found[name] = PARTS[name](bench, 0.4 if options.quick else 1.0)
            found[name] |= {"load_before": load, "quick": options.quick}
            found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
            print(name, json.dumps(found[name], indent=2), flush=True)
            RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if PEERS.exists():
        found["peers"] = json.loads(PEERS.read_text())
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before.rstrip()}\n\n{START}\n{table(found)}\n{END}{after}", encoding="utf-8")
    return 0


def cost(bench: Bench, scale: float) -> dict[str, Any]:
    """CPU beyond the teacher at a steady rate."""
    teacher = bench.offline(SMALL, batch=1, seconds=5 * scale)
    bench.service("service", SMALL)
    # The library of the drift detectors is loaded once, in the first minute, and takes as much as a thousand samples.
    with bench.fleet(SMALL, devices=100, per_s=100):
        bench.window(0.0, warm_s=45.0)
    found: dict[str, Any] = {"teacher_us": teacher["cpu_us"], "rates": []}
    for per_s in (100, 200, 400, 800):
        with bench.fleet(SMALL, devices=100, per_s=per_s):
            seen = bench.window(20 * scale)
        found["rates"].append(
            {
                "per_s": seen.verdicts_a_second,
                "service_us": seen.cpu_us("service"),
                "added_us": seen.cpu_us("service") - teacher["cpu_us"],
                "broker_us": seen.cpu_us("broker"),
                "others": seen.others,
            }
        )
    return found


def throughput(bench: Bench, scale: float) -> dict[str, Any]:
    """Against the teacher's offline throughput where it is the bottleneck, in turns."""
    bench.service("service", LARGE)
    rounds = []
    for _ in range(3):
        alone = bench.offline(LARGE, batch=8, seconds=8 * scale)
        with bench.fleet(LARGE, devices=50, per_s=1.5 * alone["per_s"], keep=16):
            seen = bench.window(12 * scale)
        rounds.append({"offline_per_s": alone["per_s"], "service_per_s": seen.verdicts_a_second, "others": seen.others})
    ratio = statistics.median(each["service_per_s"] / each["offline_per_s"] for each in rounds)
    return {"rounds": rounds, "ratio": ratio}


def echo(bench: Bench, scale: float) -> dict[str, Any]:
    """The service and a bare echo over the same broker, in turns, both with more than they can take."""
    service, bare, others = [], [], []
    for _ in range(3):
        bench.spawn("echo", "echo", str(bench.broker.port)).wait_for_log("listening")
        with bench.fleet(SMALL, devices=100, per_s=4_000, keep=16) as fleet:
            bench.window(8 * scale, warm_s=0.0)
        report = fleet.report()
        bare.append(report["verdicts"] / report["seconds"])
        bench.end("echo")
        bench.service("service", SMALL)
        with bench.fleet(SMALL, devices=100, per_s=4_000, keep=16):
            seen = bench.window(8 * scale)
        service.append(seen.verdicts_a_second)
        others.append(seen.others)
        bench.end("service")
    ratio = statistics.median(a / b for a, b in zip(service, bare, strict=True))
    return {"service_per_s": service, "echo_per_s": bare, "ratio": ratio, "others": max(others)}


def latency(bench: Bench, scale: float) -> dict[str, Any]:
    """Verdicts by load; what is sustainable is measured first."""
    bench.service("service", SMALL)
    with bench.fleet(SMALL, devices=100, per_s=3_000, keep=16):
        capacity = bench.window(10 * scale).verdicts_a_second
    found: dict[str, Any] = {"capacity_per_s": capacity, "loads": []}
    for load in LOADS:
        with bench.fleet(SMALL, devices=100, per_s=load * capacity, keep=64) as fleet:
            seen = bench.window(15 * scale, warm_s=0.0)
        report = fleet.report()
        each = {"load": load, "others": seen.others, "dropped": report["dropped"], "samples": report["samples"]}
        found["loads"].append(each | {"verdict": report["verdict_ms"], "receipt": report["receipt_ms"]})
    return found


def memory(bench: Bench, scale: float) -> dict[str, Any]:
    """Resident memory with many devices, each of which says something now and then."""
    bench.service("service", SMALL)
    found: dict[str, Any] = {"empty_mb": bench.memory_mb("service")}
    for devices in (1_000, 10_000):
        with bench.fleet(SMALL, devices=devices, per_s=100):
            bench.window(30 * scale)
            found[f"service_{devices}_mb"] = bench.memory_mb("service")
            found[f"broker_{devices}_mb"] = bench.memory_mb("broker")
            found[f"fleet_{devices}_mb"] = bench.memory_mb("fleet")
    return found


def overload(bench: Bench, scale: float) -> dict[str, Any]:
    """Memory over minutes at twice what is sustainable."""
    bench.service("service", SMALL)
    with bench.fleet(SMALL, devices=100, per_s=3_000, keep=16):
        capacity = bench.window(10 * scale).verdicts_a_second
    steps = 60 if scale == 1.0 else 12
    found: dict[str, Any] = {"capacity_per_s": capacity, "every_s": 10.0 if scale == 1.0 else 5.0, "service_mb": []}
    with bench.fleet(SMALL, devices=200, per_s=2 * capacity, keep=256) as fleet:
        others = []
        for _ in range(steps):
            others.append(bench.window(found["every_s"], warm_s=0.0).others)
            found["service_mb"].append(bench.memory_mb("service"))
        found["broker_mb"] = bench.memory_mb("broker")
    report = fleet.report()
    found |= {"others": statistics.mean(others), "dropped": report["dropped"], "verdicts": report["verdicts"]}
    return found | {"resent": report["resent"], "verdict": report["verdict_ms"]}


def split(bench: Bench, scale: float) -> dict[str, Any]:
    """How two replicas divide the work, at half of what they sustain and above it."""
    bench.service("a", SMALL, data="both")
    bench.service("b", SMALL, data="both")
    found: dict[str, Any] = {}
    for name, per_s in (("half", 300), ("full", 3_000)):
        with bench.fleet(SMALL, devices=100, per_s=per_s, keep=16):
            seen = bench.window(12 * scale)
        found[name] = {"a": seen.samples["a"], "b": seen.samples["b"], "per_s": seen.verdicts_a_second}
    return found


def databases(bench: Bench, scale: float) -> dict[str, Any]:
    """SQLite against PostgreSQL: CPU and throughput."""
    if find_postgres() is None:
        return {"skipped": "PostgreSQL is not installed; type: sudo apt-get install postgresql"}
    teacher = bench.offline(SMALL, batch=1, seconds=5 * scale)
    found: dict[str, Any] = {}
    with Postgres(settings=("shared_buffers=128MB",)) as postgres:
        for name, url in (("sqlite", ""), ("postgres", postgres.url())):
            # Under one name: the broker would keep half of the samples for another one that has just gone.
            bench.service("service", SMALL, database=url, data=name)
            with bench.fleet(SMALL, devices=100, per_s=200):
                steady = bench.window(15 * scale)
            with bench.fleet(SMALL, devices=100, per_s=3_000, keep=16):
                full = bench.window(10 * scale)
            found[name] = {"added_us": steady.cpu_us("service") - teacher["cpu_us"], "per_s": full.verdicts_a_second}
            found[name]["others"] = full.others
            bench.end("service")
    return found


PARTS: dict[str, Callable[[Bench, float], dict[str, Any]]] = {
    "cost": cost,
    "throughput": throughput,
    "echo": echo,
    "latency": latency,
    "memory": memory,
    "split": split,
    "databases": databases,
    "overload": overload,
}

if __name__ == "__main__":
    raise SystemExit(main())
