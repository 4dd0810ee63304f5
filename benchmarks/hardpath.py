"""A hard sample there and back: `EdgeAgent.infer` against bare paho, in turn, and how late an answer is in an outage.

python benchmarks/hardpath.py            # measures (two minutes) and writes the table in docs/benchmarks.md
python benchmarks/hardpath.py --table    # only writes the table from the last results

**There and back.** `EdgeAgent.infer` with a deadline, through Mosquitto to an echo that decodes the sample, runs the
model and publishes the verdict; beside it a bare paho pair that publishes the raw bytes with response topic and
correlation data, and runs the same model file at both ends. Four processes and one broker, all QoS 1 with TCP_NODELAY;
the two ways take turns in small blocks, and the ratio is taken block by block, so that a busy machine weighs on both.

**Deadlines.** `infer` in each of the situations of tests/harness/outages.py. A process beside it that only sleeps for
5 ms, again and again, tells how late the machine itself lets somebody go on.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import peers  # noqa: E402  # beside this file
from models import images, resnet8_bundle, resnet8_int8  # noqa: E402  # after the path is set

from tests.harness import Mosquitto  # noqa: E402  # after the path is set
from tests.harness.lines import lateness  # noqa: E402  # after the path is set
from tests.harness.outages import OUTAGES, late_ms  # noqa: E402  # after the path is set

RESULT = ROOT / "benchmarks" / "results" / "hardpath.json"
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- hardpath-table -->", "<!-- /hardpath-table -->"
# Shape, blocks of each way, trips a block.
TRIPS = (((32, 32, 3), 100, 40), ((224, 224, 3), 60, 8))
UNCOUNTED = 5
CALLS, DEADLINES_S = 200, (0.005, 0.02, 0.05)


def main() -> int:
    """Measure, unless only the table is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only write the table")
    if not parser.parse_args().table:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(measured(), indent=2) + "\n", encoding="utf-8")
    write_table(table(json.loads(RESULT.read_text(encoding="utf-8"))))
    return 0


def measured() -> dict[str, Any]:
    """Everything, with what the machine is and had to do besides."""
    began = os.getloadavg()
    trips = {}
    for shape, blocks, trips_a_block in TRIPS:
        with tempfile.TemporaryDirectory() as folder:
            trips["×".join(map(str, shape))] = compared(there_and_back(shape, blocks, trips_a_block, Path(folder)))
    deadlines = {}
    for name in OUTAGES:
        with tempfile.TemporaryDirectory() as folder:
            deadlines[name] = lateness_in(name, Path(folder))
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load_before_and_after": [round(began[0], 2), round(os.getloadavg()[0], 2)],
        "trips": trips,
        "deadlines": deadlines,
    }


def there_and_back(shape: tuple[int, int, int], blocks: int, trips: int, folder: Path) -> dict[str, list[list[float]]]:
    """Microseconds of every counted trip, by way and block."""
    context = multiprocessing.get_context("spawn")
    model, bundle = resnet8_int8(folder / "m.onnx", shape), resnet8_bundle(folder / "images.bundle", shape)
    with Mosquitto(folder / "mosquitto", extra="log_type none") as broker:
        echoes = [
            context.Process(target=peers.contract_echo, args=(broker.port, model)),
            context.Process(target=peers.bare_echo, args=(broker.port, model, shape)),
        ]
        pipes: dict[str, Pipe] = {}
        ends = []
        for name, target, arguments in (
            ("agent", peers.agent, (broker.port, bundle, folder, shape)),
            ("bare", peers.bare, (broker.port, model, shape)),
        ):
            pipes[name], theirs = context.Pipe()
            ends.append(context.Process(target=target, args=(theirs, *arguments)))
        for process in (*echoes, *ends):
            process.start()
        try:
            return taking_turns(pipes, blocks, trips)
        finally:
            for echo in echoes:
                echo.terminate()
            for process in (*echoes, *ends):
                process.join()


def taking_turns(pipes: dict[str, Pipe], blocks: int, trips: int) -> dict[str, list[list[float]]]:
    """The way that goes first changes from block to block; the first trips of a block are not counted."""
    for pipe in pipes.values():
        assert pipe.recv() == "ready"
    time.sleep(1.0)
    took: dict[str, list[list[float]]] = {name: [] for name in pipes}
    for block in range(-1, blocks):
        for name in list(pipes)[:: 1 if block % 2 else -1]:
            pipes[name].send(trips + UNCOUNTED)
            took[name].append(pipes[name].recv()[UNCOUNTED:])
    for pipe in pipes.values():
        pipe.send(None)
    return {name: counted[1:] for name, counted in took.items()}


def compared(took: dict[str, list[list[float]]]) -> dict[str, float]:
    """Medians in µs, and the ratio over the blocks."""
    agent, bare = ([statistics.median(block) for block in took[name]] for name in ("agent", "bare"))
    ratios = statistics.quantiles([ours / theirs for ours, theirs in zip(agent, bare, strict=True)], n=10)
    everything = {name: [trip for block in blocks for trip in block] for name, blocks in took.items()}
    return {
        **{f"{name}_p50_us": round(statistics.median(trips), 1) for name, trips in everything.items()},
        **{f"{name}_p90_us": round(statistics.quantiles(trips, n=10)[8], 1) for name, trips in everything.items()},
        "ratio_p50": round(ratios[4], 3),
        "ratio_p10": round(ratios[0], 3),
        "ratio_p90": round(ratios[8], 3),
        "trips": len(everything["agent"]),
    }


def lateness_in(name: str, folder: Path) -> dict[str, float]:
    """By how many milliseconds `infer` went beyond its deadline in a situation."""
    shape = TRIPS[0][0]
    bundle = resnet8_bundle(folder / "images.bundle", shape)
    samples = images(shape, 16)
    with lateness(folder) as machine, OUTAGES[name](folder, bundle) as agent:
        late = sorted(
            late_ms(agent, samples[call % 16], deadline_s=DEADLINES_S[call % len(DEADLINES_S)]) for call in range(CALLS)
        )
        worst_ms = machine.worst_ms
    return {
        "calls": CALLS,
        "p50_ms": round(statistics.median(late), 2),
        "p99_ms": round(late[-1 - CALLS // 100], 2),
        "longest_ms": round(late[-1], 2),
        "machine_ms": round(worst_ms, 2),
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: a row a shape, and a row a situation."""
    lines = [
        "| hard sample there and back | agent, p50 (p90) | bare paho, p50 (p90) | ratio, p50 of blocks (p10–p90) |",
        "|---|---|---|---|",
    ]
    for shape, found in result["trips"].items():
        agent, bare = (
            f"{found[f'{n}_p50_us'] / 1e3:.2f} ({found[f'{n}_p90_us'] / 1e3:.2f}) ms" for n in ("agent", "bare")
        )
        spread = f"{found['ratio_p10']:.2f}–{found['ratio_p90']:.2f}"
        lines.append(f"| ResNet8 int8, {shape} | {agent} | {bare} | **{found['ratio_p50']:.2f}** ({spread}) |")
    lines += [
        "",
        "| beyond its deadline, `infer` took | p50 | p99 | longest | the machine itself was late by up to |",
        "|---|---|---|---|---|",
    ]
    for name, found in result["deadlines"].items():
        lines.append(
            f"| {name}, {found['calls']} calls | {found['p50_ms']:.2f} ms | {found['p99_ms']:.2f} ms "
            f"| {found['longest_ms']:.2f} ms | {found['machine_ms']:.2f} ms |"
        )
    before, after = result["load_before_and_after"]
    trips = ", ".join(f"{found['trips']:,}" for found in result["trips"].values())
    lines += ["", f"{result['machine']}; {trips} trips each way; load {before} before, {after} after."]
    return "\n".join(lines)


def write_table(text: str) -> None:
    """Put the table between its marks; the page, or the section, is begun where it is not there."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Benchmarks\n"
    if START not in page:
        page = f"{page.rstrip()}\n\n## Hard samples\n\n{START}\n{END}\n"
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
