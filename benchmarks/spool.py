"""What the spool costs: time to put a 20 KB sample in, and bytes written for each of its bytes until the cloud has it.

python benchmarks/spool.py                    # measures (a minute) and writes the table in docs/benchmarks.md
python benchmarks/spool.py --folder /mnt/card  # on another disk
python benchmarks/spool.py --table            # only writes the table from the last results

Three contenders take the same samples in turns, 25 at a time, in one process: the spool; blobs inside SQLite, the
obvious way; and the floor, an append to a file and a row in a table without any index. Each sample is put in, flushed
with those of its interval, named by the cloud 50 samples later, one answer at a time; at the end all is checkpointed.

"By the process" is `write_bytes` of /proc/self/io: what a contender made the kernel write, in pages of 4,096 bytes,
taken around each of its turns. "On the device" is what reached the block device, the file system's journal included:
sectors of a loop device with an ext4 of its own for each contender, which takes root; else it is left out.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from spool_contenders import CONTENDERS, Contender
from written import check_disk, device_bytes, mounted, written_bytes

from shared.codec import Array
from shared.ids import new_id
from shared.messages import Reason, SampleHeader

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "spool.json"
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- spool-table -->", "<!-- /spool-table -->"
SAMPLES, SAMPLE_BYTES, BLOCK, ANSWERED_AFTER = 2_500, 20_480, 25, 50
PACES = (25, 1)  # samples a flush: 25 and one a second, at the default interval


def main() -> int:
    """Measure, unless only the table is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to measure; default: here")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    if not arguments.table:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            result = measured(Path(folder))
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    write_table(table(json.loads(RESULT.read_text(encoding="utf-8"))))
    return 0


def measured(folder: Path) -> dict[str, Any]:
    """All numbers, on the disk of `folder`."""
    check_disk(folder)
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "file_system": subprocess.run(
            ["stat", "-f", "-c", "%T", str(folder)], check=True, capture_output=True, text=True
        ).stdout.strip(),
        "sqlite": sqlite3.sqlite_version,
        "samples": SAMPLES,
        "sample_bytes": SAMPLE_BYTES,
        "paces": {},
    }
    for pace in PACES:
        print(f"{pace} samples a flush, by the process", flush=True)
        numbers = play({name: folder / f"{name}-{pace}" for name in CONTENDERS}, pace=pace)
        print(f"{pace} samples a flush, on the device", flush=True)
        with tempfile.TemporaryDirectory(dir=folder) as images:
            for name, ratio in on_the_device(Path(images), pace=pace).items():
                numbers[name]["device_bytes_per_byte"] = ratio
        result["paces"][str(pace)] = numbers
    return result


def play(folders: dict[str, Path], *, pace: int) -> dict[str, dict[str, float]]:
    """One run of all contenders in turns: times in µs and bytes written a byte, by contender."""
    rng = np.random.default_rng(0)
    players = [Player(name, CONTENDERS[name](folder), pace) for name, folder in folders.items()]
    for block in range(SAMPLES // BLOCK):
        scores, tensors = rng.random(BLOCK), rng.integers(0, 256, (BLOCK, SAMPLE_BYTES), dtype=np.uint8)
        samples = [(a_header(block * BLOCK + index, float(scores[index])), tensors[index]) for index in range(BLOCK)]
        for player in players:
            player.take(samples)
        players.append(players.pop(0))  # nobody is always first
    for player in players:
        player.end()
    ended = {player.name: player for player in players}
    return {name: ended[name].numbers() for name in folders}


class Player:
    """A contender, what it took and what it made the kernel write."""

    def __init__(self, name: str, contender: Contender, pace: int) -> None:
        self.name = name
        self.times_ns: list[int] = []
        self.written = 0
        self._contender, self._pace = contender, pace
        self._waiting: deque[UUID] = deque()

    def take(self, samples: list[tuple[SampleHeader, Array]]) -> None:
        """Put samples in and flush every few; then the cloud's answers come, to those of a while ago."""
        before = written_bytes()
        for count, (header, tensor) in enumerate(samples, 1):
            start = time.perf_counter_ns()
            self._contender.put(header, tensor)
            self.times_ns.append(time.perf_counter_ns() - start)
            self._waiting.append(header.sample_id)
            if count % self._pace == 0:
                self._contender.flush()
        self._answer(but=ANSWERED_AFTER)
        self.written += written_bytes() - before

    def end(self) -> None:
        """The rest is answered, and everything is written."""
        before = written_bytes()
        self._answer(but=0)
        self._contender.flush()
        self._contender.close()
        self.written += written_bytes() - before

    def numbers(self) -> dict[str, float]:
        """Times in µs, bytes written a byte."""
        return {
            "put_p50_us": statistics.median(self.times_ns) / 1e3,
            "put_p99_us": float(np.percentile(self.times_ns, 99)) / 1e3,
            "bytes_per_byte": self.written / (SAMPLES * SAMPLE_BYTES),
        }

    def _answer(self, *, but: int) -> None:
        while len(self._waiting) > but:
            self._contender.answered(self._waiting.popleft())


def on_the_device(folder: Path, *, pace: int) -> dict[str, float]:
    """Bytes that reach a block device of its own, a byte, by contender; nothing without root."""
    if os.geteuid() != 0:
        print("  left out: it takes root")
        return {}
    with ExitStack() as stack:
        disks = {name: stack.enter_context(mounted(folder / f"image-{index}")) for index, name in enumerate(CONTENDERS)}
        os.sync()
        before = {name: device_bytes(disk) for name, disk in disks.items()}
        play({name: disk / "state" for name, disk in disks.items()}, pace=pace)
        os.sync()
        return {name: (device_bytes(disk) - before[name]) / (SAMPLES * SAMPLE_BYTES) for name, disk in disks.items()}


def a_header(count: int, hardness: float) -> SampleHeader:
    """A hard sample's."""
    seq = (1 << 32) + count
    return SampleHeader(
        sample_id=new_id(),
        task="t",
        seq=seq,
        bundle_version="v1.2.3",
        prediction=3,
        hardness=hardness,
        reason=Reason.HARD,
    )


def table(result: dict[str, Any]) -> str:
    """Markdown: a row a contender and pace."""
    lines = [
        "| 20 KB samples | put, p50 | put, p99 | bytes written a byte, by the process | on the device |",
        "|---|---|---|---|---|",
    ]
    for pace, numbers in result["paces"].items():
        for name, found in numbers.items():
            device = found.get("device_bytes_per_byte")
            lines.append(
                f"| {name}, {pace} a second | {found['put_p50_us']:.0f} µs | {found['put_p99_us']:.0f} µs "
                f"| {found['bytes_per_byte']:.2f} | {'–' if device is None else f'{device:.2f}'} |"
            )
    lines += [
        "",
        f"{result['machine']}, {result['file_system']}, SQLite {result['sqlite']}, {result['samples']:,} samples.",
    ]
    return "\n".join(lines)


def write_table(text: str) -> None:
    """Put the table between its marks; the page, or the section, is begun where it is not there."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Benchmarks\n"
    if START not in page:
        page += f"\n## Spool\n\n{START}\n{END}\n"
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
